package transport

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/frame"
)

// lingerReplaced is how long a path that a newer session's path has replaced is
// still read, for what the neighbour sent before it switched too.
const lingerReplaced = 2 * time.Second

// flushAgain is when a replaced path is flushed once more.
const flushAgain = 10 * time.Millisecond

// Link is all paths to one incarnation of one neighbour. Paths belong to it, not
// to one session: when a session is lost and a path lives, frames go on over the
// link while the session is made again. The new session brings fresh paths with
// fresh keys; the old ones carry frames until a fresh one is up.
//
// Send and Flush may be called concurrently, by the data plane.
type Link struct {
	peer    Peer
	changed func() // wakes the control plane; must not block
	best    atomic.Pointer[slot]

	mu       sync.Mutex // guards below; held for no I/O and no callback
	sessions []*Attachment
	counters map[string]*Counters // by transport; they outlive sessions
}

// slot is one path of an attachment and what it last reported.
type slot struct {
	name     string
	rank     int // position in the order of preference
	path     Path
	counters *Counters
	cancel   func()
	state    State
	ended    bool
}

func (s *slot) usable() bool { return s.state.Up && !s.ended }

var _ Sender = (*Link)(nil)

// LinkState is a link's condition in short.
type LinkState struct {
	Up        bool
	Transport string // of the path in use; empty while none is up
	MTU       int    // of the path in use, in bytes; 0: unknown
}

// Send hands the packet to the best path.
func (l *Link) Send(p frame.Packet) error {
	s := l.best.Load()
	if s == nil {
		return ErrNoPath
	}
	return s.path.Send(p)
}

// Flush sends what the best path has queued. A path that was the best until now
// is flushed when it is replaced.
func (l *Link) Flush() error {
	if s := l.best.Load(); s != nil {
		return s.path.Flush()
	}
	return nil
}

// Peer is the neighbour at the other end.
func (l *Link) Peer() Peer { return l.peer }

// State is the link's condition now.
func (l *Link) State() LinkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.best.Load()
	if s == nil || !s.usable() {
		return LinkState{}
	}
	return LinkState{Up: true, Transport: s.name, MTU: s.state.MTU}
}

// Paths reads the paths, most preferred first: of each transport the one in use,
// or else the newest session's.
func (l *Link) Paths() []PathStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	best := l.best.Load()
	shown := map[string]*slot{}
	for _, a := range l.sessions {
		for _, s := range a.slots {
			if shown[s.name] == nil || s == best {
				shown[s.name] = s
			}
		}
	}
	out := make([]PathStats, 0, len(shown))
	for _, s := range shown {
		out = append(out, PathStats{
			Transport: s.name, Active: s == best, State: s.state,
			Tx: s.counters.Tx.Stats(), Rx: s.counters.Rx.Stats(),
			Handshakes: s.counters.handshakes, Rekeys: s.counters.rekeys,
		})
		last := &out[len(out)-1]
		last.TxRate, last.RxRate = s.counters.rates(time.Now())
	}
	slices.SortFunc(out, func(a, b PathStats) int { return shown[a.Transport].rank - shown[b.Transport].rank })
	return out
}

// countersLocked finds or makes the counters of a transport.
func (l *Link) countersLocked(name string) *Counters {
	c := l.counters[name]
	if c == nil {
		c = &Counters{}
		l.counters[name] = c
	}
	return c
}

// report takes what a path says of itself.
func (l *Link) report(s *slot, st State) {
	l.mu.Lock()
	s.counters.agreed(s.state, st)
	s.state = st
	old := l.chooseLocked()
	l.mu.Unlock()
	l.settle(old)
}

// ended notes that a path has stopped running.
func (l *Link) ended(s *slot, err error) {
	l.mu.Lock()
	s.ended = true
	s.state.Up = false
	if err != nil {
		s.state.Why = err.Error()
	}
	old := l.chooseLocked()
	l.mu.Unlock()
	l.settle(old)
}

// remove forgets an attachment all of whose paths have ended.
func (l *Link) remove(a *Attachment) {
	l.mu.Lock()
	l.sessions = slices.DeleteFunc(l.sessions, func(x *Attachment) bool { return x == a })
	old := l.chooseLocked()
	l.mu.Unlock()
	l.settle(old)
}

// chooseLocked makes the best path the one that is used: of those that are up the
// most preferred transport's, and of one transport the newest session's. Once a
// path of the newest session carries the link, those of older ones are retired.
// It returns the path that was in use before, if it is another.
func (l *Link) chooseLocked() (replaced *slot) {
	var best *slot
	newest := false                // best is one of the newest session
	for i, a := range l.sessions { // newest first
		for _, s := range a.slots {
			if s.usable() && (best == nil || s.rank < best.rank) {
				best, newest = s, i == 0
			}
		}
	}
	old := l.best.Swap(best)
	if newest {
		for _, older := range l.sessions[1:] {
			older.retireLocked(lingerReplaced)
		}
	}
	if old != best {
		return old
	}
	return nil
}

// settle finishes a change outside the lock: what a replaced path had queued
// leaves, and the control plane looks at the link.
func (l *Link) settle(replaced *slot) {
	if replaced != nil {
		_ = replaced.path.Flush() // it counts what it cannot send
		// A Send that began before the change may have queued after this flush.
		time.AfterFunc(flushAgain, func() { _ = replaced.path.Flush() })
	}
	l.changed()
}
