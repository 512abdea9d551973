package engine

import (
	"context"
	"slices"
	"sync"
	"time"
)

// How long an engine that does not answer is left alone, at first and later.
const (
	shortestWait = 250 * time.Millisecond
	longestWait  = 5 * time.Second
)

// maxPending is how many events wait for report.
const maxPending = 256

// EventKind is what happened.
type EventKind int

const (
	// Resync: events may have been missed, compare with what is. It comes when an
	// engine begins to answer, and where report was too slow.
	Resync EventKind = iota
	// Started: a container runs.
	Started
	// Ended: a container does not run any more. It may be started again.
	Ended
	// Removed: a container is no more. containerd does not tell: Again does.
	Removed
)

func (k EventKind) String() string {
	return [...]string{"resync", "started", "ended", "removed"}[k]
}

// Event is what an engine tells. Events may come late, and more than once: whoever acts
// on one looks first how things are.
type Event struct {
	Kind   EventKind
	Engine string // as in Container; of Resync it may be empty: all engines
	At     string // as in Container; of Resync not always
	ID     string // as in Container; of Resync empty
	Name   string // for people; may be empty
}

// Watch reports what happens to containers until ctx is done, then returns nil.
// Engines that go away are asked again, those that appear are noticed within 5 s, and
// each time a Resync says so. report is called from one goroutine, and may take its
// time: events are read all the same, and become one Resync when too many wait.
func (e *Engines) Watch(ctx context.Context, report func(Event)) error {
	q := newQueue()
	var wg sync.WaitGroup
	for _, s := range e.sources {
		wg.Go(func() { s.watch(ctx, q.push) })
	}
	q.run(ctx, report)
	wg.Wait()
	return nil
}

// queue holds the events that report has not seen.
type queue struct {
	ready chan struct{} // room for 1; push to run: there is something. Full: run knows.

	mu      sync.Mutex // guards pending
	pending []Event
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// push adds an event and does not wait.
func (q *queue) push(e Event) {
	q.mu.Lock()
	switch {
	case e.Kind == Resync && slices.Contains(q.pending, e):
		// One that has not been seen yet is as good as two.
	case len(q.pending) == maxPending:
		q.pending = append(q.pending[:0], Event{Kind: Resync})
	default:
		q.pending = append(q.pending, e)
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// pop takes the oldest event.
func (q *queue) pop() (Event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == 0 {
		return Event{}, false
	}
	e := q.pending[0]
	q.pending = slices.Delete(q.pending, 0, 1)
	return e, true
}

// run reports events until ctx is done.
func (q *queue) run(ctx context.Context, report func(Event)) {
	for {
		for e, ok := q.pop(); ok && ctx.Err() == nil; e, ok = q.pop() {
			report(e)
		}
		select {
		case <-ctx.Done():
			return
		case <-q.ready:
		}
	}
}
