package transport

import (
	"cmp"
	"fmt"
	"time"
)

// Choosing the path that carries a link's frames. All transports' paths stand by;
// the best healthy one is used:
//
//   - where the one in use dies, or is doubtful and another one is not, the best of
//     the others takes over at once;
//   - a better one takes over from one that works after takeOver of health, which
//     grows for a transport that fails again and again;
//   - one that rests may be dead without anybody knowing, so it is asked before it
//     takes over: all are as soon as the one in use is doubtful;
//   - within opening of the first path one that is preferred does so at once, and where
//     the order was changed by hand, any.

// chooseLocked makes the best path the one that is used and returns the path that
// was in use before, if it is another. atOnce: the order has changed, a better
// path need not wait.
func (l *Link) chooseLocked(atOnce bool) (replaced *slot) {
	now := time.Now()
	l.observeLocked(now)
	old := l.best.Load()
	best := l.pickLocked(now, old, atOnce)
	if best != old {
		l.noteLocked(now, old, best, atOnce)
		l.best.Store(best)
	}
	l.retireOlderLocked(best)
	l.planLocked(now, best)
	if best == old {
		return nil
	}
	return old
}

// observeLocked brings the standing of all transports up to now.
func (l *Link) observeLocked(now time.Time) {
	for name, t := range l.standings {
		var st *State
		if s := l.usableLocked(name); s != nil {
			st = &s.state
		}
		t.observe(now, st, name == l.order.pin)
	}
}

// usableLocked is the path of a transport that could carry frames, of the newest
// session that has one; nil: none.
func (l *Link) usableLocked(name string) *slot {
	for _, a := range l.sessions { // newest first
		for _, s := range a.slots {
			if s.name == name && s.usable() {
				return s
			}
		}
	}
	return nil
}

// pickLocked is the path to use from now on; nil: none works.
func (l *Link) pickLocked(now time.Time, old *slot, atOnce bool) (best *slot) {
	var current *slot // the path of the transport in use
	if old != nil {
		current = l.usableLocked(old.name)
	}
	best = current
	var ask []Path // what would take over if it were known to work
	for name := range l.standings {
		s := l.usableLocked(name)
		if s == nil || s == current {
			continue
		}
		if current != nil && !atOnce {
			if !l.mayTakeOverLocked(now, name, current) {
				continue
			}
			if s.state.Unproven {
				if l.betterLocked(now, s.name, current.name) {
					ask = append(ask, s.path)
				}
				continue
			}
		}
		if best == nil || l.betterLocked(now, s.name, best.name) {
			best = s
		}
	}
	if len(ask) > 0 {
		go hurry(ask) // not with the link's mutex held
	}
	return best
}

// mayTakeOverLocked reports whether a transport may take over from a path that
// works, as soon as its own is known to work too.
func (l *Link) mayTakeOverLocked(now time.Time, name string, current *slot) bool {
	t := l.standings[name]
	switch {
	case l.usableLocked(name).state.Doubtful:
		return false
	case current.state.Doubtful:
		return true
	}
	if !l.order.used(current.name) { // it is used only because nothing else was there
		return l.order.used(name)
	}
	// In the first moments the others come up, too: only what is preferred need not wait,
	// not what merely failed less often, and may be a connection that died with the rest.
	preferred := name == l.order.pin || l.order.rank(name) < l.order.rank(current.name)
	return t.ready(now) || now.Before(l.openUntil) && preferred && !t.lossy && !t.flapping()
}

// betterLocked orders transports whose paths are up: those that are used, those
// that are not doubtful, the one chosen by hand, healthy ones, those that do not come and go, by preference.
func (l *Link) betterLocked(now time.Time, a, b string) bool {
	inUse := l.best.Load()
	needed := inUse == nil || !inUse.usable() // then it matters what is known to work
	rank := func(name string) [6]int {
		t, st := l.standings[name], &l.usableLocked(name).state
		return [6]int{
			toInt(!l.order.used(name)), toInt(st.Doubtful || st.Unproven && needed), toInt(name != l.order.pin), toInt(t.lossy),
			toInt(t.flapping() && !t.ready(now)), l.order.rank(name),
		}
	}
	x, y := rank(a), rank(b)
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return a < b
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// noteLocked notes a change of the path in use and why it was made.
func (l *Link) noteLocked(now time.Time, old, best *slot, atOnce bool) {
	if best == nil {
		l.since = time.Time{}
		return
	}
	if old == nil {
		l.openUntil = now.Add(opening)
	}
	if old != nil && old.name == best.name {
		return // a newer session's path of the same transport
	}
	l.since = now
	if old != nil && old.state.Doubtful {
		l.standings[old.name].blame(now)
	}
	if l.lastUsed != "" && l.lastUsed != best.name {
		l.switches++
		l.reason = l.whyLocked(l.lastUsed, best.name, atOnce)
	}
	l.lastUsed = best.name
}

// whyLocked says why frames go over another transport.
func (l *Link) whyLocked(from, to string, atOnce bool) string {
	t := l.standings[from]
	switch {
	case t == nil || l.usableLocked(from) == nil:
		return cmp.Or(l.downLocked(from), from+" is down")
	case !l.order.used(from):
		return from + " is not used for this peer"
	case to == l.order.pin:
		return to + " was chosen by hand"
	case atOnce:
		return "the preferences were changed"
	case l.usableLocked(from).state.Doubtful:
		return from + " gives no signs of life"
	case t.lossy:
		return fmt.Sprintf("%s loses %.0f %% of its probes", from, 100*l.usableLocked(from).state.Loss)
	}
	return to + " is healthy and preferred"
}

// downLocked says why no path of a transport is up; empty: nobody knows.
func (l *Link) downLocked(name string) string {
	for _, a := range l.sessions {
		for _, s := range a.slots {
			if s.name == name && s.state.Why != "" {
				return name + ": " + s.state.Why
			}
		}
	}
	return ""
}

// retireOlderLocked ends the paths of older sessions once one of the newest
// carries the link and none of the older is better than what that has.
func (l *Link) retireOlderLocked(best *slot) {
	if best == nil || len(l.sessions) < 2 || !l.sessions[0].has(best) {
		return
	}
	for _, older := range l.sessions[1:] {
		for _, s := range older.slots {
			if s.usable() && l.order.used(s.name) && l.order.rank(s.name) < l.order.rank(best.name) && l.usableLocked(s.name) == s {
				return
			}
		}
	}
	for _, older := range l.sessions[1:] {
		older.retireLocked(lingerReplaced)
	}
}

// planLocked looks again when the next transport that is better than best may take
// over.
func (l *Link) planLocked(now time.Time, best *slot) {
	at := time.Time{}
	for name := range l.standings {
		if t := l.takesOverLocked(now, name, best); !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	switch {
	case at.IsZero() && l.timer != nil:
		l.timer.Stop()
	case at.IsZero():
	case l.timer == nil:
		l.timer = time.AfterFunc(at.Sub(now), l.look)
	default:
		l.timer.Reset(at.Sub(now))
	}
}

// takesOverLocked is when a transport takes over from best if it stays healthy;
// zero: never.
func (l *Link) takesOverLocked(now time.Time, name string, best *slot) time.Time {
	if best == nil || name == best.name || !l.order.used(name) {
		return time.Time{}
	}
	if s := l.usableLocked(name); s == nil || s.state.Doubtful {
		return time.Time{}
	}
	t := l.standings[name]
	at := t.readyAt()
	if at.IsZero() || !at.After(now) {
		return time.Time{} // unhealthy, or it would be best already
	}
	if !l.betterLocked(at, name, best.name) {
		return time.Time{}
	}
	return at
}

// look chooses again because a path may have been healthy for long enough.
func (l *Link) look() {
	l.mu.Lock()
	before := l.best.Load()
	old := l.chooseLocked(false)
	same := l.best.Load() == before
	l.mu.Unlock()
	if !same {
		l.settle(old)
	}
}
