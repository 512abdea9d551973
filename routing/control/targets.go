package control

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// Retry times. First and factor are stock's (weave protocol section 7.3); the
// cap is lower, so that a host that was away for long is back soon.
const (
	retryFirst  = 2 * time.Second
	retryFactor = 1.5
	retryCap    = 30 * time.Second
	// politeness is how long the peer with the higher name waits before it dials
	// one it discovered, so that not both dial at once.
	politeness = 700 * time.Millisecond
	// settled is how long a session must have lived for the next attempt to be
	// made at once.
	settled = 5 * time.Second
	// memory is how long a peer that left the mesh is still tried.
	memory        = time.Hour
	maxFound      = 4096 // peers that can be known, by short IDs
	maxCandidates = 8    // addresses tried for one target
	maxDirect     = 1024
	maxAttempts   = 32                    // discovered peers dialled at a time
	lookInterval  = 10 * time.Millisecond // between two looks at all targets
)

// target is a peer that should be a neighbour: a configured address (direct), or a
// peer that was discovered in the topology.
type target struct {
	direct bool
	spec   string // direct: as configured
	host   string // direct: what to resolve
	port   uint16
	ported bool // direct: the port was given

	name       frame.PeerName   // who is behind it; 0: not known yet
	candidates []netip.AddrPort // discovered: where it may be, best first
	known      time.Time        // discovered: when the topology last had it
	met        bool             // discovered: it was connected once, or in an earlier run

	resolved   []netip.AddrPort // what was tried last
	attempting bool
	tried      bool
	never      bool // a retry is pointless
	err        error
	tryAt      time.Time
	wait       time.Duration
	cancel     func() // ends the attempt under way
}

// Remembered is a peer of an earlier run.
type Remembered struct {
	Name      frame.PeerName   `json:"name"`
	Addresses []netip.AddrPort `json:"addresses"`
}

// connection is what the connection maker must know of a live session.
type connection struct {
	addr     netip.AddrPort
	outbound bool
}

// targets is the connection maker: who is to be dialled, and when. Pure decisions,
// owned by the mesh's goroutine.
type targets struct {
	self      frame.PeerName
	port      uint16 // for targets and inbound peers without a port of their own
	direct    []*target
	found     map[frame.PeerName]*target
	connected map[frame.PeerName]connection

	// What Due found out last, until something changes.
	changed   bool
	discovery bool
	looked    time.Time
	next      time.Time
}

func newTargets(self frame.PeerName, port uint16) *targets {
	return &targets{self: self, port: port, found: map[frame.PeerName]*target{}, connected: map[frame.PeerName]connection{}}
}

// parseTarget reads host[:port]; an IPv6 address with a port is in brackets.
func (ts *targets) parseTarget(spec string) (*target, error) {
	t := &target{direct: true, spec: spec, host: spec, port: ts.port, wait: retryFirst}
	if _, err := netip.ParseAddr(strings.Trim(spec, "[]")); err == nil {
		t.host = strings.Trim(spec, "[]")
		return t, nil
	}
	if strings.Contains(spec, ":") {
		host, port, err := net.SplitHostPort(spec)
		if err != nil {
			return nil, fmt.Errorf("peer %q: wanted host[:port]", spec)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("peer %q: %q is not a port (1 to 65535)", spec, port)
		}
		t.host, t.port, t.ported = host, uint16(n), true
	}
	if t.host == "" || strings.ContainsAny(t.host, " /") {
		return nil, fmt.Errorf("peer %q: wanted host[:port]", spec)
	}
	return t, nil
}

// SetDirect makes specs the direct targets, keeping what is known of those that
// stay. Nothing changes if one does not parse.
func (ts *targets) SetDirect(specs []string, now time.Time) error {
	ts.changed = true
	var next []*target
	for _, spec := range specs {
		t, err := ts.parseTarget(spec)
		if err != nil {
			return err
		}
		if old := ts.findDirect(spec); old != nil {
			t = old
		} else {
			t.tryAt = now
		}
		if !slices.Contains(next, t) {
			next = append(next, t)
		}
	}
	for _, t := range ts.direct {
		if !slices.Contains(next, t) {
			t.abort()
		}
	}
	ts.direct = next
	return nil
}

// AddDirect adds targets, or makes those that are there due at once. Nothing
// changes if one does not parse.
func (ts *targets) AddDirect(specs []string, now time.Time) error {
	ts.changed = true
	var add []*target
	for _, spec := range specs {
		t := ts.findDirect(spec)
		if t == nil {
			var err error
			if t, err = ts.parseTarget(spec); err != nil {
				return err
			}
		}
		add = append(add, t)
	}
	if len(ts.direct)+len(add) > maxDirect {
		return fmt.Errorf("more than %d targets", maxDirect)
	}
	for _, t := range add {
		t.retryAt(now)
		if !slices.Contains(ts.direct, t) {
			ts.direct = append(ts.direct, t)
		}
	}
	return nil
}

// Forget removes direct targets, by what was configured, and what is remembered
// of the peers behind them. It says which were not found.
func (ts *targets) Forget(specs []string) error {
	ts.changed = true
	var errs error
	for _, spec := range specs {
		t := ts.findDirect(spec)
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

// forgetFound stops trying a peer that is not in the topology any more.
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

// Restore makes peers of an earlier run targets.
func (ts *targets) Restore(peers []Remembered, now time.Time) {
	ts.changed = true
	for _, p := range peers {
		if p.Name == ts.self || !p.Name.Valid() || len(ts.found) >= maxFound {
			continue
		}
		t := ts.discovered(p.Name, now)
		t.candidates = p.Addresses[:min(len(p.Addresses), maxCandidates)]
		t.met, t.tryAt = true, now
	}
}

// Remembered lists the peers that a restart should try: those connected and those
// that the topology has.
func (ts *targets) Remembered() []Remembered {
	var out []Remembered
	for _, name := range slices.Sorted(maps.Keys(ts.found)) {
		if t := ts.found[name]; len(t.candidates) > 0 {
			out = append(out, Remembered{Name: name, Addresses: t.candidates})
		}
	}
	return out
}

// Discover takes the addresses of all peers from the topology: weave protocol
// section 7.1.
func (ts *targets) Discover(topo *routing.Topology, now time.Time) {
	ts.changed = true
	addrs := map[frame.PeerName][]netip.AddrPort{}
	for p := range topo.All() {
		if p.Name == ts.self {
			continue
		}
		for _, c := range p.Connections {
			if a, ok := ts.dialable(c); ok && c.Peer != ts.self {
				addrs[c.Peer] = appendCandidate(addrs[c.Peer], a, c.Outbound)
			}
		}
	}
	for name, candidates := range addrs {
		if ts.found[name] == nil && len(ts.found) >= maxFound {
			continue
		}
		t := ts.discovered(name, now)
		t.known = now
		t.candidates = mergeCandidates(candidates, t.candidates)
	}
	ts.expire(now)
}

// dialable is where the other end of a peer's connection may listen.
func (ts *targets) dialable(c routing.Connection) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(c.RemoteAddr)
	if err != nil || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Port() == 0 {
		return netip.AddrPort{}, false
	}
	if !c.Outbound {
		a = netip.AddrPortFrom(a.Addr(), ts.port)
	}
	return a, true
}

// appendCandidate puts addresses that somebody has dialled before guessed ones.
func appendCandidate(list []netip.AddrPort, a netip.AddrPort, dialled bool) []netip.AddrPort {
	switch {
	case slices.Contains(list, a) || len(list) >= maxCandidates:
		return list
	case dialled:
		return slices.Insert(list, 0, a)
	}
	return append(list, a)
}

// mergeCandidates keeps known addresses behind the ones told now.
func mergeCandidates(now, before []netip.AddrPort) []netip.AddrPort {
	for _, a := range before {
		if !slices.Contains(now, a) && len(now) < maxCandidates {
			now = append(now, a)
		}
	}
	return now
}

// discovered finds or makes the target for a peer.
func (ts *targets) discovered(name frame.PeerName, now time.Time) *target {
	t := ts.found[name]
	if t == nil {
		t = &target{name: name, wait: retryFirst, known: now, tryAt: now}
		if ts.self > name {
			t.tryAt = now.Add(politeness)
		}
		ts.found[name] = t
	}
	return t
}

// expire forgets peers that the topology has not had for long.
func (ts *targets) expire(now time.Time) {
	for name, t := range ts.found {
		if _, live := ts.connected[name]; !live && !t.attempting && now.Sub(t.known) > memory {
			delete(ts.found, name)
		}
	}
}

// Connected notes a session. t is the target that was dialled, nil for an accepted
// one.
func (ts *targets) Connected(name frame.PeerName, t *target, addr netip.AddrPort, outbound bool, now time.Time) {
	ts.changed = true
	ts.connected[name] = connection{addr, outbound}
	if t != nil {
		t.name, t.err, t.wait = name, nil, retryFirst
	}
	if ts.found[name] == nil && len(ts.found) >= maxFound {
		return
	}
	f := ts.discovered(name, now)
	f.known, f.met, f.err, f.wait = now, true, nil, retryFirst
	if a, ok := ts.dialable(routing.Connection{RemoteAddr: addr.String(), Outbound: outbound}); ok {
		f.candidates = mergeCandidates([]netip.AddrPort{a}, f.candidates)
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
func (ts *targets) Ended(name frame.PeerName, joined time.Time, why error, now time.Time) {
	ts.changed = true
	was := ts.connected[name]
	delete(ts.connected, name)
	at := now.Add(time.Duration(rand.Int64N(int64(retryFirst))))
	if !errors.Is(why, errLeft) && now.Sub(joined) > settled {
		at = now.Add(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
	}
	if !was.outbound {
		at = at.Add(politeness)
	}
	for _, t := range ts.behind(name) {
		if t.wait = retryFirst; !t.attempting {
			t.tryAt = at
		}
		t.err = why
	}
}

// Unreachable makes a peer that left the topology due at once: where a relay died
// the direct way may be open by now. One that was never met is forgotten, so that
// invented peers are not dialled for long.
func (ts *targets) Unreachable(name frame.PeerName, now time.Time) {
	ts.changed = true
	if _, live := ts.connected[name]; live {
		return
	}
	if t := ts.found[name]; t != nil && !t.met {
		ts.forgetFound(name)
	}
	for _, t := range ts.behind(name) {
		if t.wait = retryFirst; !t.attempting {
			t.tryAt = now
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
	busy, room := ts.busy()
	for t := range ts.all {
		switch {
		case t.attempting || t.never || busy[t.name] || ts.has(t):
		case !t.direct && (!discovery || len(t.candidates) == 0):
		case t.tryAt.After(now):
			next = earlier(next, t.tryAt)
		default:
			due = append(due, t)
		}
	}
	// Configured ones first; of the others who has waited longest.
	slices.SortStableFunc(due, func(a, b *target) int {
		if a.direct != b.direct {
			return cmp.Compare(btoi(b.direct), btoi(a.direct))
		}
		return a.tryAt.Compare(b.tryAt)
	})
	due = slices.DeleteFunc(due, func(t *target) bool {
		if busy[t.name] || !t.direct && room <= 0 {
			return true // Finished asks again
		}
		if !t.direct {
			room--
		}
		t.attempting = true
		busy[t.name] = t.name != 0
		return false
	})
	ts.next = next
	return due, next
}

// busy are the peers being dialled, and how many more discovered ones may be.
func (ts *targets) busy() (names map[frame.PeerName]bool, room int) {
	names, room = map[frame.PeerName]bool{}, maxAttempts
	for t := range ts.all {
		if !t.attempting {
			continue
		}
		names[t.name] = t.name != 0
		if !t.direct {
			room--
		}
	}
	return names, room
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
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
	for _, c := range ts.connected {
		for _, a := range t.resolved {
			if c.addr == a || !c.outbound && !t.ported && c.addr.Addr() == a.Addr() {
				return true
			}
		}
	}
	return false
}

// Finished notes how an attempt ended.
func (ts *targets) Finished(t *target, err error, now time.Time) {
	ts.changed = true
	t.attempting, t.tried, t.cancel = false, true, nil
	if err == nil || errors.Is(err, errDuplicate) {
		t.err, t.wait = nil, retryFirst
		t.tryAt = now.Add(retryFirst) // counts only if the connection is gone by then
		return
	}
	t.err = err
	t.never = permanent(err)
	t.tryAt = now.Add(t.wait/2 + time.Duration(rand.Int64N(int64(t.wait))))
	t.wait = min(time.Duration(float64(t.wait)*retryFactor), retryCap)
}

// retryAt makes the target due at a time, as if it had never failed.
func (t *target) retryAt(at time.Time) {
	t.tryAt, t.wait, t.never = at, retryFirst, false
}

// abort ends an attempt under way.
func (t *target) abort() {
	if t.cancel != nil {
		t.cancel()
	}
}

// state is how status shows the target while it is not connected.
func (t *target) state(now time.Time) ConnState {
	switch {
	case t.attempting && t.err != nil:
		return StateRetrying
	case t.attempting:
		return StateConnecting
	case t.err != nil:
		return StateFailed
	}
	return StateWaiting
}

// address is the address that status shows for the target.
func (t *target) address() string {
	if len(t.resolved) > 0 {
		return t.resolved[0].String()
	}
	if len(t.candidates) > 0 {
		return t.candidates[0].String()
	}
	if t.ported {
		return t.spec
	}
	return net.JoinHostPort(cmp.Or(t.host, t.spec), strconv.Itoa(int(t.port)))
}
