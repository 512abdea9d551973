package pathstate

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Why a path ends.
var (
	ErrControlLost = errors.New("control connection lost")
	ErrSilent      = errors.New("no heartbeat from the neighbour for 60 s")
	ErrReplaced    = errors.New("too many newer paths to this neighbour")
)

// NeverHeard is what a probe tells of a neighbour that was never heard.
const NeverHeard = 1<<32 - 1

// WatchConfig is what a Watch needs to know of its path.
type WatchConfig struct {
	Native bool  // the neighbour is meshd and answers probes
	Rests  bool  // both ends may let the path rest
	Pace   *Pace // what is known of the way to the neighbour; nil: nothing
	PMTU   *PMTU // nil: the path does not look for its MTU
}

// Watch is what all paths have in common besides frames: it judges, probes and rests,
// and calls the path when there is something to do.
//
//	readers ────── Alive, Asked, RepliedLocked ─┐
//	data plane ─── Busy ────────────────────────┼──► Run ──► look: JudgeLocked
//	link, table ── Hurry, Evict ────────────────┘     ▲      what the path has to do
//	                                                  └───── SleepLocked
//
// The path embeds it and gives it its mutex. Methods that end in Locked need that held,
// as do Life, Prober, PMTU and Lost; all others may be called concurrently without it.
// The data plane's, Busy and Alive, take no lock and do not allocate.
type Watch struct {
	native  bool
	epoch   time.Time    // what heard counts from
	heard   atomic.Int64 // the last valid datagram of the neighbour: nanoseconds; 0: none
	traffic Traffic
	wake    chan struct{} // Rouse sends, Run receives; full: Run will look anyway
	evicted chan struct{} // closed by Evict
	evict   sync.Once

	mu     *sync.Mutex // the path's, guards below
	Life   Life
	Prober Prober
	PMTU   *PMTU     // nil: there is none
	Lost   bool      // the control connection is gone
	due    time.Time // when Run wanted to look again; zero: it has not begun
}

// NewWatch returns a Watch that waits for its first look. mu is the path's.
func NewWatch(mu *sync.Mutex, c WatchConfig) *Watch {
	w := &Watch{
		native: c.Native, epoch: time.Now(), mu: mu, PMTU: c.PMTU,
		wake: make(chan struct{}, 1), evicted: make(chan struct{}),
	}
	if c.Rests {
		w.Life.MayRest(c.Pace)
	}
	return w
}

// Run calls look at once, whenever something was noted that Run has to act on, and when
// the time has come that look returned last, until ctx is done (then it returns nil),
// look fails, or the path was evicted. done is closed when the control connection is lost.
func (w *Watch) Run(ctx context.Context, done <-chan struct{}, look func(now time.Time) (due time.Time, err error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.evicted:
			return ErrReplaced
		case <-done:
			done = nil
			w.controlLost(time.Now())
		case <-w.wake:
		case <-timer.C:
		}
		due, err := look(time.Now())
		if err != nil {
			return err
		}
		timer.Reset(time.Until(due))
	}
}

// JudgeLocked is how a look begins. ready: both ends have had something of the other.
// It reports whether the path came up by it.
func (w *Watch) JudgeLocked(now time.Time, ready bool) (cameUp bool) {
	if w.due.IsZero() {
		w.Life.Begin(now, w.native)
	} else if late := now.Sub(w.due); late > stallAfter {
		w.Life.Stalled(now, late)
		if w.PMTU != nil {
			w.PMTU.Shift(late)
		}
	}
	wasUp := w.Life.Up
	w.Life.Settle(now, w.traffic.Take() || w.Lost, w.Prober.Loss(now))
	w.Life.Judge(now, w.HeardAt(), ready, w.Lost)
	return w.Life.Up && !wasUp
}

// FailedLocked says why the path has ended for good; nil: it has not. A stock neighbour
// answers no probes, so that nothing vouches for it without a control connection.
func (w *Watch) FailedLocked() error {
	switch {
	case w.Lost && (!w.native || !w.Life.Up):
		return ErrControlLost
	case w.Life.Expired:
		return ErrSilent
	}
	return nil
}

// SleepLocked is how a look ends. It says when the next one is due: at the earliest of
// what the path's life demands and the times given, of which zeros do not count.
func (w *Watch) SleepLocked(now time.Time, times ...time.Time) time.Time {
	w.due = w.Life.Due(now, w.HeardAt())
	for _, t := range times {
		if !t.IsZero() && t.Before(w.due) {
			w.due = t
		}
	}
	if w.due.Before(now) { // what was put off while the path was idle: no stall
		w.due = now
	}
	if w.traffic.Rest(w.Life.Resting()) {
		w.Rouse()
	}
	return w.due
}

// TestsLocked reports whether tests of the path's MTU go on: where frames do not flow
// they wait, unless they have begun.
func (w *Watch) TestsLocked(now time.Time) bool {
	return w.Life.Up && (!w.Life.Idle(now) || w.PMTU.Testing())
}

// TestsDueLocked is when the next test is due; zero: none is.
func (w *Watch) TestsDueLocked(now time.Time) time.Time {
	if !w.TestsLocked(now) {
		return time.Time{}
	}
	return w.PMTU.Due()
}

// RenewLocked notes that what carries the path is new: it has to show soon whether it
// works.
func (w *Watch) RenewLocked(now time.Time) {
	w.Life.Interrupt(now)
	w.Prober.Hurry()
	w.Prober.Eager(now)
}

// controlLost has the path prove itself after the control connection was lost.
func (w *Watch) controlLost(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Lost = true
	w.Life.Question(now)
	w.Prober.Hurry()
}

// Asked takes a probe of the neighbour's and what it tells of our datagrams: how many
// milliseconds ago the neighbour heard us last, or NeverHeard. A path that is down may
// be up by that.
func (w *Watch) Asked(now time.Time, sequence, heard uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	look := w.Life.Asked(now, sequence, &w.Prober)
	if heard != NeverHeard {
		w.Life.Reach(now.Add(-time.Duration(heard) * time.Millisecond))
		look = look || !w.Life.Up
	}
	if look {
		w.Rouse()
	}
}

// RepliedLocked takes the reply to a probe, and says as Prober.Replied when that was
// sent. A path that is down may be up by it, and one that rested can be relied on again.
func (w *Watch) RepliedLocked(now time.Time, sequence uint32) (sent time.Time, ok bool) {
	if !w.Life.Up || w.Life.Unproven(now) {
		w.Rouse()
	}
	if sent, ok = w.Prober.Replied(now, sequence); ok {
		w.Life.Replied(now, sent)
	}
	return sent, ok
}

// Hurry probes a path at once that rests, because it may soon be needed.
func (w *Watch) Hurry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.Life.Resting() {
		w.Life.Wake(time.Now())
		w.Prober.Hurry()
	}
	w.Rouse()
}

// Revive probes a path at once that is not up, because something has changed.
func (w *Watch) Revive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.Life.Up {
		w.Prober.Hurry()
	}
	w.Rouse()
}

// Evict makes Run end.
func (w *Watch) Evict() { w.evict.Do(func() { close(w.evicted) }) }

// Rouse makes Run look at once.
func (w *Watch) Rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Busy notes that frames flow.
func (w *Watch) Busy() {
	if w.traffic.Note() {
		w.Rouse()
	}
}

// Alive notes that a valid datagram of the neighbour was read, and reports whether it
// was the first.
func (w *Watch) Alive(now time.Time) (first bool) {
	return w.heard.Swap(max(int64(now.Sub(w.epoch)), 1)) == 0
}

// HeardAt is when the last valid datagram was read; zero: none was.
func (w *Watch) HeardAt() time.Time {
	if d := w.heard.Load(); d != 0 {
		return w.epoch.Add(time.Duration(d))
	}
	return time.Time{}
}

// HeardAgo is how many milliseconds the neighbour has not been heard, as probes tell it,
// or NeverHeard.
func (w *Watch) HeardAgo(now time.Time) uint32 {
	heard := w.HeardAt()
	if heard.IsZero() {
		return NeverHeard
	}
	return uint32(min(max(now.Sub(heard).Milliseconds(), 0), NeverHeard-1))
}
