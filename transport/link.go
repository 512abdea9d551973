package transport

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
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

	mu        sync.Mutex // guards below; held for no I/O and no callback
	sessions  []*Attachment
	addr      netip.Addr           // of the neighbour, in the newest session
	counters  map[string]*Counters // by transport; they outlive sessions
	standings map[string]*standing // likewise
	order     order                // for this neighbour
	timer     *time.Timer          // when a better path may take over; nil: never was one
	openUntil time.Time            // until then a better path takes over at once
	lastUsed  string               // transport that carried frames last
	since     time.Time            // when lastUsed took over; zero: no path is in use
	switches  uint64               // between transports
	reason    string               // of the last switch
}

// slot is one path of an attachment and what it last reported.
type slot struct {
	name     string
	path     Path // nil: not opened, the transport is not used for the neighbour
	counters *Counters
	cancel   func()
	state    State
	ended    bool
	refused  bool // the neighbour does not use the transport for us
}

func (s *slot) usable() bool { return s.state.Up && !s.ended }

// What is said of transports that preferences leave out.
const (
	whyUnused  = "not used for this peer (overrides)"
	whyRefused = "the neighbour does not use it for us"
)

// unused reports whether either end leaves the transport out.
func (s *slot) unused() bool { return s.path == nil || s.refused }

var _ Sender = (*Link)(nil)

// LinkState is a link's condition in short.
type LinkState struct {
	Up        bool
	Transport string         // of the path in use; empty while none is up
	MTU       int            // of the path in use, in bytes; 0: unknown
	Addr      netip.AddrPort // where the path in use sends its datagrams; invalid: unknown
	Switches  uint64         // how often frames went on over another transport
	Reason    string         // of the last switch, in words; empty: there was none
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
	st := LinkState{Switches: l.switches, Reason: l.reason}
	if s != nil && s.usable() {
		st.Up, st.Transport, st.MTU, st.Addr = true, s.name, s.state.MTU, s.state.Addr
	}
	return st
}

// Paths reads the paths, most preferred first: of each transport the one in use,
// or else the newest session's. Those that are not used for the neighbour come
// last.
func (l *Link) Paths() []PathStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, best := time.Now(), l.best.Load()
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
		out = append(out, l.statsLocked(now, s, best))
	}
	slices.SortFunc(out, func(a, b PathStats) int {
		return cmp.Or(l.order.rank(a.Transport)-l.order.rank(b.Transport), strings.Compare(a.Transport, b.Transport))
	})
	return out
}

// statsLocked reads one path.
func (l *Link) statsLocked(now time.Time, s, best *slot) PathStats {
	out := PathStats{
		Transport: s.name, Active: s == best, State: s.state, Unused: s.unused(),
		Pinned: s.name == l.order.pin, TakesOver: l.takesOverLocked(now, s.name, best),
	}
	if s.counters != nil {
		out.Tx, out.Rx = s.counters.Tx.Stats(), s.counters.Rx.Stats()
		out.Handshakes, out.Rekeys = s.counters.handshakes, s.counters.rekeys
		out.TxRate, out.RxRate = s.counters.rates(now)
	}
	if l.order.used(s.name) {
		out.Rank = l.order.rank(s.name) + 1
	}
	if out.Active {
		out.Since = l.since
	}
	if t := l.standings[s.name]; t != nil {
		out.HealthySince, out.Lossy = t.healthySince, t.lossy
	}
	if s.refused && !s.state.Up {
		out.State.Why = whyRefused
	}
	return out
}

// countersLocked finds or makes the counters of a transport, and its standing.
func (l *Link) countersLocked(name string) *Counters {
	c := l.counters[name]
	if c == nil {
		c = &Counters{}
		l.counters[name], l.standings[name] = c, &standing{}
	}
	return c
}

// report takes what a path says of itself.
func (l *Link) report(s *slot, st State) {
	l.mu.Lock()
	s.counters.agreed(s.state, st)
	var others []Path
	if s == l.best.Load() && s.state.Up && (!st.Up || st.Doubtful && !s.state.Doubtful) {
		others = l.othersLocked(s)
	}
	s.state = st
	old := l.chooseLocked(false)
	l.mu.Unlock()
	hurry(others)
	l.settle(old)
}

// othersLocked are the paths that could take the place of one; nil: all there are.
func (l *Link) othersLocked(but *slot) (paths []Path) {
	for _, a := range l.sessions {
		for _, s := range a.slots {
			if s != but && s.path != nil && s.usable() {
				paths = append(paths, s.path)
			}
		}
	}
	return paths
}

// hurry tells paths that rest, those with a method Hurry, to find out at once whether
// they work.
func hurry(paths []Path) {
	for _, p := range paths {
		if h, ok := p.(interface{ Hurry() }); ok {
			h.Hurry()
		}
	}
}

// ended notes that a path has stopped running.
func (l *Link) ended(s *slot, err error) {
	l.mu.Lock()
	s.ended = true
	s.state.Up = false
	if err != nil {
		s.state.Why = err.Error()
	}
	old := l.chooseLocked(false)
	l.mu.Unlock()
	l.settle(old)
}

// remove forgets an attachment all of whose paths have ended.
func (l *Link) remove(a *Attachment) {
	l.mu.Lock()
	l.sessions = slices.DeleteFunc(l.sessions, func(x *Attachment) bool { return x == a })
	old := l.chooseLocked(false)
	l.mu.Unlock()
	l.settle(old)
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
