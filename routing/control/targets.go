package control

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// Bounds of what is dialled.
const (
	maxDirect    = 1024
	maxFound     = 4096 // discovered peers, as many as there are short IDs
	maxAttempts  = 32   // discovered peers dialled at a time
	maxStrangers = 16   // of them peers that were never met
	maxOurselves = 64   // addresses known to be our own
	maxKept      = 256  // peers to try after a crash
	// keepFor is how long a peer that was met and left the mesh is still tried.
	keepFor = time.Hour
	// lookInterval is the time between two looks at all targets.
	lookInterval = 10 * time.Millisecond
)

// Remembered is a peer of an earlier run.
type Remembered struct {
	Name      frame.PeerName `json:"name"`
	Addresses []Candidate    `json:"addresses"`
}

// liveSession is what the connection maker must know of a session.
type liveSession struct {
	at       Candidate // the other end
	outbound bool
	native   bool // the other end is meshd
}

// targets is the connection maker: who is to be dialled, and when. Pure decisions,
// owned by the mesh's goroutine.
type targets struct {
	self      frame.PeerName
	ports     carrierPorts // for targets and inbound peers without a port of their own
	direct    []*target
	found     map[frame.PeerName]*target
	connected map[frame.PeerName]liveSession
	ourselves map[Candidate]bool // addresses where we met ourselves

	// What Due found out last, until something changes.
	changed   bool
	discovery bool
	looked    time.Time
	next      time.Time
}

func newTargets(self frame.PeerName, ports carrierPorts) *targets {
	return &targets{
		self: self, ports: ports,
		found:     map[frame.PeerName]*target{},
		connected: map[frame.PeerName]liveSession{},
		ourselves: map[Candidate]bool{},
	}
}

// SetDirect makes specs the direct targets, keeping what is known of those that
// stay. Nothing changes if one does not parse.
func (ts *targets) SetDirect(specs []string, now time.Time) error {
	next, err := ts.parseAll(specs, ts.findDirect, now)
	if err != nil {
		return err
	}
	for _, t := range ts.direct {
		if !slices.Contains(next, t) {
			t.abort()
		}
	}
	ts.changed, ts.direct = true, next
	return nil
}

// AddDirect adds targets, or makes those that are there due at once, also where they
// were written in another way. Nothing changes if one does not parse.
func (ts *targets) AddDirect(specs []string, now time.Time) error {
	add, err := ts.parseAll(specs, ts.findAlike, now)
	if err != nil {
		return err
	}
	var kept []*target
	add = slices.DeleteFunc(add, func(t *target) bool {
		t.retryAt(now)
		if slices.Contains(ts.direct, t) || slices.ContainsFunc(kept, t.sameAs) {
			return true
		}
		kept = append(kept, t)
		return false
	})
	if len(ts.direct)+len(add) > maxDirect {
		return fmt.Errorf("more than %d targets", maxDirect)
	}
	ts.changed, ts.direct = true, append(ts.direct, add...)
	return nil
}

// ChangeDirect adds and removes targets as a list of them changed, and leaves
// alone those that were in neither list.
func (ts *targets) ChangeDirect(before, after []string, now time.Time) error {
	specs := slices.Clone(after)
	for _, t := range ts.direct {
		if !slices.Contains(before, t.spec) && !slices.Contains(specs, t.spec) {
			specs = append(specs, t.spec)
		}
	}
	// Of those in both lists the forgotten ones stay forgotten.
	specs = slices.DeleteFunc(specs, func(spec string) bool {
		return slices.Contains(before, spec) && ts.findDirect(spec) == nil
	})
	return ts.SetDirect(specs, now)
}

// parseAll finds or makes the targets of specs, each once.
func (ts *targets) parseAll(specs []string, find func(string) *target, now time.Time) (out []*target, err error) {
	seen := map[string]bool{}
	for _, spec := range specs {
		if seen[spec] {
			continue
		}
		seen[spec] = true
		t := find(spec)
		if t == nil {
			if t, err = parseTarget(spec, ts.ports); err != nil {
				return nil, err
			}
			t.tryAt = now
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out, nil
}

// Forget removes direct targets, by what was configured or another way to write it,
// and what is remembered of the peers behind them. It says which were not found.
func (ts *targets) Forget(specs []string) error {
	ts.changed = true
	var errs error
	for _, spec := range specs {
		t := ts.findAlike(spec)
		if t == nil {
			errs = errors.Join(errs, fmt.Errorf("%q is not a target", spec))
			continue
		}
		t.abort()
		ts.direct = slices.DeleteFunc(ts.direct, func(x *target) bool { return x == t })
		ts.forgetFound(t.name)
	}
	return errs
}

// forgetFound stops trying a peer that was discovered.
func (ts *targets) forgetFound(name frame.PeerName) {
	if t := ts.found[name]; t != nil {
		t.abort()
		delete(ts.found, name)
	}
}

func (ts *targets) findDirect(spec string) *target {
	for _, t := range ts.direct {
		if t.spec == spec {
			return t
		}
	}
	return nil
}

// findAlike finds a direct target by its spec, or one that is the same host and port
// over the same carriers: 10.0.0.1, 10.0.0.1:6783.
func (ts *targets) findAlike(spec string) *target {
	if t := ts.findDirect(spec); t != nil {
		return t
	}
	like, err := parseTarget(spec, ts.ports)
	if err != nil {
		return nil
	}
	for _, t := range ts.direct {
		if t.sameAs(like) {
			return t
		}
	}
	return nil
}

// Restore makes peers of an earlier run targets.
func (ts *targets) Restore(peers []Remembered, now time.Time) {
	ts.changed = true
	for _, p := range peers[:min(len(peers), maxKept)] {
		if p.Name == ts.self || !p.Name.Valid() {
			continue
		}
		t := ts.discovered(p.Name, now)
		t.candidates = p.Addresses[:min(len(p.Addresses), maxCandidates)]
		t.met, t.tryAt = true, now
	}
}

// Remembered lists the peers that a restart should try: those that were met.
func (ts *targets) Remembered() []Remembered {
	var out []Remembered
	for _, name := range slices.Sorted(maps.Keys(ts.found)) {
		if t := ts.found[name]; t.met && len(t.candidates) > 0 && len(out) < maxKept {
			out = append(out, Remembered{Name: name, Addresses: slices.Clone(t.candidates)})
		}
	}
	return out
}

// discovered finds or makes the target for a peer; nil: there is no room.
func (ts *targets) discovered(name frame.PeerName, now time.Time) *target {
	t := ts.found[name]
	if t != nil {
		return t
	}
	if len(ts.found) >= maxFound && !ts.makeRoom() {
		return nil
	}
	t = &target{name: name, wait: retryFirst, known: now, tryAt: now}
	if ts.self > name {
		t.tryAt = now.Add(politeness)
	}
	ts.found[name] = t
	return t
}

// makeRoom forgets the discovered peer that was not heard of for longest; those
// connected stay.
func (ts *targets) makeRoom() bool {
	var oldest *target
	for name, t := range ts.found {
		if _, live := ts.connected[name]; !live && !t.attempting && (oldest == nil || t.known.Before(oldest.known)) {
			oldest = t
		}
	}
	if oldest == nil {
		return false
	}
	delete(ts.found, oldest.name)
	return true
}

// Expire forgets peers that the topology has not had for long.
func (ts *targets) Expire(now time.Time) {
	for name, t := range ts.found {
		if _, live := ts.connected[name]; !live && !t.attempting && now.Sub(t.known) > keepFor {
			delete(ts.found, name)
		}
	}
}

// Connected notes a session. t is the target that was dialled, nil for an accepted
// one.
func (ts *targets) Connected(name frame.PeerName, t *target, live liveSession, now time.Time) {
	ts.changed = true
	ts.connected[name] = live
	if t != nil && t.direct {
		t.name = name
	}
	f := ts.discovered(name, now)
	if f == nil {
		return
	}
	f.known, f.met, f.stock = now, true, !live.native
	if f.stock { // what was guessed before it was met
		f.candidates = slices.DeleteFunc(f.candidates, func(c Candidate) bool { return c.Carrier != CarrierTCP })
	}
	if at, ok := ts.dialable(routing.Connection{RemoteAddr: topologyAddress(live.at), Outbound: live.outbound}); ok {
		f.candidates = mergeCandidates([]Candidate{at}, f.candidates)
	}
	ts.guess(f)
	for _, b := range ts.behind(name) {
		b.err, b.never = nil, false
	}
}

// Behind notes who answers at a target.
func (ts *targets) Behind(t *target, name frame.PeerName) {
	ts.changed = true
	if t != nil && t.direct {
		t.name = name
	}
}

// Ended notes that a session ended. After one that had lived for a while the next
// attempt is made at once, by the end that had dialled; the other one follows.
// After a short one it is as if it had never been.
func (ts *targets) Ended(name frame.PeerName, joined time.Time, why error, now time.Time) {
	ts.changed = true
	was := ts.connected[name]
	delete(ts.connected, name)
	lived := now.Sub(joined) > settled
	for _, t := range ts.behind(name) {
		t.known = now
		switch {
		case !lived:
			t.fail(why, now)
		case errors.Is(why, errLeft):
			t.retryAt(now.Add(time.Duration(rand.Int64N(int64(retryFirst)))))
		default:
			t.retryAt(now.Add(time.Duration(rand.Int64N(int64(100 * time.Millisecond)))))
		}
		t.err = why
		if !was.outbound {
			t.tryAt = t.tryAt.Add(politeness)
		}
	}
}

// Left notes that a peer left the topology. One that was never met is forgotten,
// so that invented peers are not dialled for long. Others are due at once if no
// session of ours with them ended just now: where a relay died the direct way
// may be open.
func (ts *targets) Left(name frame.PeerName, now time.Time) {
	if _, live := ts.connected[name]; live {
		return
	}
	ts.changed = true
	if t := ts.found[name]; t != nil && !t.met {
		ts.forgetFound(name)
	}
	for _, t := range ts.behind(name) {
		if t.direct && t.err == nil || !t.direct && now.Sub(t.known) > settled {
			t.tryAt = earlier(t.tryAt, now)
		}
	}
}

// behind are the targets of one peer.
func (ts *targets) behind(name frame.PeerName) (out []*target) {
	for _, t := range ts.direct {
		if t.name == name {
			out = append(out, t)
		}
	}
	if t := ts.found[name]; t != nil {
		out = append(out, t)
	}
	return out
}

// Due returns the targets to dial now, marked as attempted, and when to ask again
// if nothing changes until then. It costs nothing while nothing is due.
func (ts *targets) Due(now time.Time, discovery bool) (due []*target, next time.Time) {
	if !ts.changed && discovery == ts.discovery && now.Before(ts.next) {
		return nil, ts.next
	}
	if again := ts.looked.Add(lookInterval); now.Before(again) {
		return nil, again // changes come in bursts
	}
	ts.changed, ts.discovery, ts.looked = false, discovery, now
	next = now.Add(gossipInterval)
	for t := range ts.all {
		switch {
		case t.attempting || t.never || ts.has(t):
		case !t.direct && (!discovery || len(t.candidates) == 0):
		case t.tryAt.After(now):
			next = earlier(next, t.tryAt)
		default:
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, byUrgency)
	due = ts.begin(due)
	ts.next = next
	return due, next
}

// byUrgency puts configured targets first, then peers that were met, and of those
// alike who has waited longest.
func byUrgency(a, b *target) int {
	class := func(t *target) int {
		switch {
		case t.direct:
			return 0
		case t.met:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(class(a), class(b)), a.tryAt.Compare(b.tryAt))
}

// begin marks as attempted those of due for which there is room. The rest is
// looked at again when an attempt has finished.
func (ts *targets) begin(due []*target) []*target {
	busy := map[frame.PeerName]bool{}
	room, strangers := maxAttempts, maxStrangers
	take := func(t *target) {
		t.attempting = true
		busy[t.name] = t.name != 0
		if !t.direct {
			room--
			if !t.met {
				strangers--
			}
		}
	}
	for t := range ts.all {
		if t.attempting {
			take(t)
		}
	}
	return slices.DeleteFunc(due, func(t *target) bool {
		if busy[t.name] || !t.direct && (room <= 0 || !t.met && strangers <= 0) {
			return true
		}
		take(t)
		return false
	})
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// all walks the targets, direct ones first and in order.
func (ts *targets) all(yield func(*target) bool) {
	for _, t := range ts.direct {
		if !yield(t) {
			return
		}
	}
	for _, t := range ts.found {
		if !yield(t) {
			return
		}
	}
}

// has reports whether the peer behind a target is connected. As long as it is not
// known who is behind a target, a connection to its address counts, and, where no
// port was given, one from it (section 7.2).
func (ts *targets) has(t *target) bool {
	if t.name != 0 {
		_, live := ts.connected[t.name]
		return live
	}
	for _, live := range ts.connected {
		for _, c := range t.resolved {
			if live.at == c || !live.outbound && !t.ported && live.at.Addr.Addr() == c.Addr.Addr() {
				return true
			}
		}
	}
	return false
}

// Finished notes how an attempt ended at each candidate that was tried.
func (ts *targets) Finished(t *target, outcomes []outcome, now time.Time) {
	ts.changed = true
	t.attempting, t.cancel = false, nil
	for _, o := range outcomes {
		if o.settles() {
			t.err = nil
			return
		}
		if errors.Is(o.err, errSelf) && len(ts.ourselves) < maxOurselves {
			ts.ourselves[o.at] = true
		}
		if permanent(o.err) || isStranger(o.err) {
			t.dropCandidate(o.at)
		}
	}
	t.fail(telling(outcomes), now)
	t.never = t.direct && !t.named() && hopeless(outcomes)
}
