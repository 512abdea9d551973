package control

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

const (
	peerA = frame.PeerName(0x02000000000a)
	peerB = frame.PeerName(0x02000000000b)
	peerC = frame.PeerName(0x02000000000c)
)

// testPorts are the carriers of the tests' meshes.
var testPorts = carrierPorts{{CarrierTCP, 6783}, {CarrierQUIC, 6785}}

// tcpOnly are those of a mesh without QUIC.
var tcpOnly = testPorts[:1]

// over are candidates over TCP, or over what their scheme says.
func over(addrs ...string) (out []Candidate) {
	for _, a := range addrs {
		var c Candidate
		if err := c.UnmarshalText([]byte(a)); err != nil {
			panic(err)
		}
		out = append(out, c)
	}
	return out
}

// live is a session with a meshd peer at an address.
func live(addr string, outbound bool) liveSession {
	return liveSession{at: over(addr)[0], outbound: outbound, native: true}
}

func newTestTargets(t *testing.T, now time.Time, specs ...string) *targets {
	t.Helper()
	ts := newTargets(peerA, tcpOnly)
	if err := ts.SetDirect(specs, now); err != nil {
		t.Fatal(err)
	}
	return ts
}

// failed is how an attempt at one address ended.
func failed(addr string, err error) []outcome {
	return []outcome{{over(addr)[0], err}}
}

func TestParseTarget(t *testing.T) {
	for _, tt := range []struct {
		spec, carrier, host string
		port                uint16
		err                 string // part of it
	}{
		{"10.0.0.1", "", "10.0.0.1", 6783, ""},
		{"10.0.0.1:7000", "", "10.0.0.1", 7000, ""},
		{"weave03.example.net", "", "weave03.example.net", 6783, ""},
		{"fd00::1", "", "fd00::1", 6783, ""},
		{"[fd00::1]", "", "fd00::1", 6783, ""},
		{"[fd00::1]:7000", "", "fd00::1", 7000, ""},
		{"tcp://10.0.0.1", "tcp", "10.0.0.1", 6783, ""},
		{"tcp://host:7000", "tcp", "host", 7000, ""},
		{"quic://10.0.0.1", "quic", "10.0.0.1", 6785, ""},
		{"quic://host:443", "quic", "host", 443, ""},
		{"QUIC://host", "quic", "host", 6785, ""},
		{"quic://fd00::1", "quic", "fd00::1", 6785, ""},
		{"quic://[fd00::1]:443", "quic", "fd00::1", 443, ""},
		{"", "", "", 0, "wanted host[:port]"},
		{"host:0", "", "", 0, `"0" is not a port`},
		{"host:port", "", "", 0, `"port" is not a port`},
		{"host:+1", "", "", 0, `"+1" is not a port`},
		{"host:1:2", "", "", 0, "wanted host[:port]"},
		{"10.0.0.0/8", "", "", 0, "wanted host[:port]"},
		{"quic://", "", "", 0, "quic://host[:port]"},
		{"quic://host/", "", "", 0, "quic://host[:port]"},
		{"quic://host:", "", "", 0, "not a port"},
		{"quic://tcp://host", "", "", 0, "not a port"},
		{"udp://host", "", "", 0, `no carrier is called "udp": wanted host[:port], tcp://host[:port] or quic://host[:port]`},
		{"://host", "", "", 0, `no carrier is called ""`},
	} {
		got, err := parseTarget(tt.spec, testPorts)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("parseTarget(%q): err %v, want %q in it", tt.spec, err, tt.err)
		}
		if err == nil && (got.carrier != tt.carrier || got.host != tt.host || got.port != tt.port) {
			t.Errorf("parseTarget(%q) = %q %s port %d, want %q %s port %d", tt.spec, got.carrier, got.host, got.port, tt.carrier, tt.host, tt.port)
		}
	}
}

// A failed target comes back after a growing, jittered and capped wait.
func TestRetryBacksOff(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "10.0.0.1")
	wait := retryFirst
	for range 20 {
		due, _ := ts.Due(now, true)
		if len(due) != 1 {
			t.Fatalf("at %v: %d targets due, want 1", now, len(due))
		}
		ts.Finished(due[0], failed("10.0.0.1:6783", errors.New("refused")), now)
		d := due[0].tryAt.Sub(now)
		if d < wait/2 || d >= wait/2+wait {
			t.Fatalf("retry after %v, want %v to %v", d, wait/2, wait/2+wait)
		}
		later := now.Add(lookInterval)
		again, next := ts.Due(later, true)
		if len(again) != 0 || !next.Equal(due[0].tryAt) && !next.Equal(later.Add(gossipInterval)) {
			t.Fatalf("asked again at once: %d due, next %v; want none before %v", len(again), next, due[0].tryAt)
		}
		now = due[0].tryAt
		wait = min(time.Duration(float64(wait)*retryFactor), retryCap)
	}
}

func TestSelfAndCollisionAreNotRetried(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, err := range []error{errSelf, error(&collisionError{name: peerA})} {
		ts := newTestTargets(t, now, "10.0.0.1")
		due, _ := ts.Due(now, true)
		ts.Finished(due[0], failed("10.0.0.1:6783", err), now)
		if due, _ := ts.Due(now.Add(time.Hour), true); len(due) != 0 {
			t.Errorf("%v: retried", err)
		}
		if err := ts.AddDirect([]string{"10.0.0.1"}, now); err != nil {
			t.Fatal(err)
		}
		if due, _ := ts.Due(now.Add(2*time.Hour), true); len(due) != 1 {
			t.Errorf("%v: connect does not try again", err)
		}
	}
}

// A target is not dialled while the peer behind it is connected, in whichever
// direction, and at once when a session that had lived ends.
func TestConnectedTargetIsNotDialled(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "10.0.0.2:6783")
	due, _ := ts.Due(now, true)
	ts.Behind(due[0], peerB)
	ts.Connected(peerB, due[0], live("10.0.0.2:6783", true), now)
	ts.Finished(due[0], failed("10.0.0.2:6783", nil), now)
	if due, _ := ts.Due(now.Add(time.Hour), true); len(due) != 0 {
		t.Fatal("dialled while connected")
	}
	ts.Connected(peerB, nil, live("10.0.0.2:41234", false), now)
	if due, _ := ts.Due(now.Add(time.Hour), true); len(due) != 0 {
		t.Fatal("dialled while connected inbound")
	}
	ts.Connected(peerB, due[0], live("10.0.0.2:6783", true), now)
	later := now.Add(2 * time.Hour)
	ts.Ended(peerB, now, errors.New("reset"), later)
	if due, _ := ts.Due(later.Add(100*time.Millisecond), true); len(due) != 1 {
		t.Fatalf("%d targets due after a session ended, want 1", len(due))
	}
}

func TestDiscover(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	topo := routing.NewTopology(routing.Peer{Name: peerA, UID: 1}, nil)
	topo.Introduce(routing.Peer{Name: peerB, UID: 2})
	topo.SetConnection(routing.Connection{Peer: peerB, RemoteAddr: "10.0.0.2:6783", Outbound: true})
	topo.Merge([]routing.Peer{
		{Name: peerB, UID: 2, Version: 3, Connections: []routing.Connection{
			{Peer: peerA, RemoteAddr: "10.0.0.1:50000"},
			{Peer: peerC, RemoteAddr: "10.0.0.3:50001"}, // inbound: the port is not C's
		}},
		{Name: peerC, UID: 3, Version: 3, Connections: []routing.Connection{
			{Peer: peerB, RemoteAddr: "10.0.0.2:6783", Outbound: true},
		}},
	}, now)
	ts.Connected(peerB, nil, live("10.0.0.2:6783", true), now)
	ts.Discover(topo, now)
	due, _ := ts.Due(now.Add(politeness), true)
	if len(due) != 1 || due[0].name != peerC || due[0].candidates[0] != over("10.0.0.3:6783")[0] {
		t.Fatalf("due = %+v, want peer C at its own port", due)
	}
	if due, _ := ts.Due(now.Add(time.Hour), false); len(due) != 0 {
		t.Error("discovered a peer with discovery off")
	}
}

// A summary without a port or an address invites nobody to dial.
func TestDiscoverIgnoresWhatIsNoAddress(t *testing.T) {
	ts := newTargets(peerA, tcpOnly)
	for _, addr := range []string{"", "quic", "10.0.0.3", "10.0.0.3:0", "0.0.0.0:6783", "224.0.0.1:6783", "host:6783",
		"127.0.0.1:22", "[::1]:80", "255.255.255.255:1", "169.254.169.254:80", "[fe80::1%eth0]:6783", "[::ffff:127.0.0.1]:1"} {
		if a, ok := ts.dialable(routing.Connection{Peer: peerC, RemoteAddr: addr, Outbound: true}); ok {
			t.Errorf("dialable(%q) = %v, want none", addr, a)
		}
	}
}

func TestForgetNamesWhatIsNotThere(t *testing.T) {
	ts := newTestTargets(t, time.Unix(1000, 0), "10.0.0.1", "10.0.0.2")
	if err := ts.Forget([]string{"10.0.0.2", "10.0.0.9"}); err == nil {
		t.Error("forgetting an unknown target is no error")
	}
	if len(ts.direct) != 1 || ts.direct[0].spec != "10.0.0.1" {
		t.Errorf("targets after forget: %d, want 10.0.0.1 alone", len(ts.direct))
	}
}

func TestSetDirectRefusesAllOrNothing(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "10.0.0.1")
	if err := ts.SetDirect([]string{"10.0.0.2", "bad:port"}, now); err == nil {
		t.Fatal("no error")
	}
	if len(ts.direct) != 1 || ts.direct[0].spec != "10.0.0.1" {
		t.Error("a refused list changed the targets")
	}
}

// Peers that somebody invents are dialled a few at a time, and forgotten when the
// topology forgets them; a peer that was met is tried on.
func TestInventedPeersAreNotDialledForLong(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	met := ts.discovered(peerB, now)
	met.candidates, met.met = over("10.0.0.2:6783"), true
	for i := range 1000 {
		f := ts.discovered(frame.PeerName(0x1000+i), now)
		f.candidates = over("10.0.0.9:6783")
	}
	due, _ := ts.Due(now.Add(politeness), true)
	if len(due) != maxStrangers+1 || due[0] != met {
		t.Errorf("%d peers are dialled at once, want %d and first the one that was met", len(due), maxStrangers+1)
	}
	for i := range 1000 {
		ts.Left(frame.PeerName(0x1000+i), now)
	}
	ts.Left(peerB, now)
	if len(ts.found) != 1 || ts.found[peerB] == nil {
		t.Errorf("%d targets are left, want the one that was met", len(ts.found))
	}
}

// Peers for which the topology has no room are no targets: they would push others
// out, at a cost that grows with the square of their number.
func TestPeersWithoutRoomAreNotDiscovered(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	topo := routing.NewTopology(routing.Peer{Name: peerA, UID: 1}, nil)
	for hub := range frame.PeerName(8) {
		e := routing.Peer{Name: 0x100000 + hub, UID: 1, Version: 1}
		for i := range frame.PeerName(routing.MaxConnections) {
			e.Connections = append(e.Connections, routing.Connection{Peer: 0x200000 + hub<<16 + i, RemoteAddr: "10.0.0.9:6783", Outbound: true})
		}
		topo.Merge([]routing.Peer{e}, now)
	}
	ts.Discover(topo, now)
	for name := range ts.found {
		if _, known := topo.Peer(name); !known {
			t.Fatalf("%v is a target, and not in the topology", name)
		}
	}
	before := maps.Clone(ts.found)
	ts.Discover(topo, now.Add(time.Second))
	if len(before) < routing.MaxPeers-10 || !maps.Equal(ts.found, before) {
		t.Errorf("%d targets at first, %d later, want the same 4,000", len(before), len(ts.found))
	}
}

// A session that ends right after the handshake, as at a peer whose connection
// limit is reached, counts as a failure: the wait grows.
func TestShortSessionsBackOff(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "10.0.0.2")
	attempts := 0
	for end := now.Add(5 * time.Minute); now.Before(end); {
		due, next := ts.Due(now, true)
		for _, d := range due {
			attempts++
			ts.Connected(peerB, d, live("10.0.0.2:6783", true), now)
			ts.Finished(d, failed("10.0.0.2:6783", nil), now)
			ts.Ended(peerB, now, errors.New("EOF"), now)
			ts.Left(peerB, now)
		}
		now = next
	}
	if attempts > 60 {
		t.Errorf("%d attempts in 5 min", attempts)
	}
}

// A name that means several hosts, ourselves among them, is tried on.
func TestOurOwnAddressDoesNotCondemnAName(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "seed.example")
	due, _ := ts.Due(now, true)
	self := outcome{over("10.0.0.1:6783")[0], errSelf}
	ts.Finished(due[0], []outcome{self}, now)
	if due, _ := ts.Due(now.Add(time.Hour), true); len(due) != 1 {
		t.Error("a name is given up because it meant ourselves once")
	}
	if !ts.ourselves[self.at] {
		t.Error("our own address is not known as such")
	}
}

// A discovered peer for whom somebody gave our own address, or another peer's, is
// not condemned: the address is.
func TestWrongCandidateIsDropped(t *testing.T) {
	now := time.Unix(1000, 0)
	wrong, right := over("10.0.0.1:6783")[0], over("10.0.0.2:6783")[0]
	for _, err := range []error{errSelf, error(&strangerError{name: peerC, wanted: peerB})} {
		ts := newTestTargets(t, now)
		f := ts.discovered(peerB, now)
		f.candidates = []Candidate{wrong, right}
		due, _ := ts.Due(now, true)
		ts.Finished(due[0], []outcome{{wrong, err}, {right, errors.New("refused")}}, now)
		if f.never || len(f.candidates) != 1 || f.candidates[0] != right || f.name != peerB {
			t.Errorf("%v: target %+v, want the right address alone left", err, f)
		}
		if f.err == nil || f.wait == retryFirst {
			t.Errorf("%v: no back-off", err)
		}
	}
}

// A change of the configured peers leaves alone what was connected or forgotten
// by hand.
func TestChangeDirectAppliesTheDifference(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "a", "b", "c")
	ts.AddDirect([]string{"by-hand"}, now)
	ts.Forget([]string{"b"})
	if err := ts.ChangeDirect([]string{"a", "b", "c"}, []string{"a", "b", "d"}, now); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range ts.direct {
		got = append(got, d.spec)
	}
	if want := []string{"a", "d", "by-hand"}; !slices.Equal(got, want) {
		t.Errorf("targets = %v, want %v", got, want)
	}
}

func TestConnectTwiceIsOneTarget(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	ts.AddDirect([]string{"a", "a"}, now)
	ts.AddDirect([]string{"a"}, now)
	if len(ts.direct) != 1 {
		t.Errorf("%d targets, want 1", len(ts.direct))
	}
}

// One host and port is one target, however it is written; another port or a name is
// another one, and what the configuration lists stays as it lists it.
func TestTargetsThatAreAlike(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now, "10.0.0.1", "10.0.0.2:6783")
	if err := ts.AddDirect([]string{
		"10.0.0.1:6783", "10.0.0.2", "::ffff:10.0.0.2", // there already
		"10.0.0.1:7000", "fd00::1", "[fd00:0::1]:6783", "b.example", "B.example:6783", "c.example",
		"quic://10.0.0.1", "quic://10.0.0.1:6785", "QUIC://::ffff:10.0.0.1", // over QUIC only
		"quic://10.0.0.1:443", "tcp://10.0.0.1", "tcp://10.0.0.1:6783",
	}, now); err != nil {
		t.Fatal(err)
	}
	specs := func() (out []string) {
		for _, d := range ts.direct {
			out = append(out, d.spec)
		}
		return out
	}
	want := []string{
		"10.0.0.1", "10.0.0.2:6783", "10.0.0.1:7000", "fd00::1", "b.example", "c.example",
		"quic://10.0.0.1", "quic://10.0.0.1:443", "tcp://10.0.0.1",
	}
	if got := specs(); !slices.Equal(got, want) {
		t.Errorf("targets = %v, want %v", got, want)
	}
	if err := ts.Forget([]string{"10.0.0.2", "c.example:6783", "quic://10.0.0.1:6785", "tcp://10.0.0.1:6783"}); err != nil {
		t.Error(err)
	}
	if err := ts.ChangeDirect([]string{"10.0.0.1"}, []string{"10.0.0.1:6783"}, now); err != nil {
		t.Error(err)
	}
	want = []string{"10.0.0.1:6783", "10.0.0.1:7000", "fd00::1", "b.example", "quic://10.0.0.1:443"}
	if got := specs(); !slices.Equal(got, want) {
		t.Errorf("targets = %v, want %v", got, want)
	}
}

// Only peers that were met are tried after a crash, and a bounded number.
func TestRememberedAreThoseThatWereMet(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	for i := range 2000 {
		f := ts.discovered(frame.PeerName(0x1000+i), now)
		f.candidates = over("10.0.0.9:6783")
		f.met = i%2 == 0
	}
	got := ts.Remembered()
	if len(got) != maxKept {
		t.Errorf("%d peers are remembered, want %d", len(got), maxKept)
	}
	for _, r := range got {
		if !ts.found[r.Name].met {
			t.Fatalf("%s was never met", r.Name)
		}
	}
}

// A table full of invented peers has room for one that connects.
func TestRoomForAPeerThatConnects(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	for i := range maxFound {
		ts.discovered(frame.PeerName(0x1000+i), now)
	}
	ts.Connected(peerB, nil, live("10.0.0.2:40000", false), now)
	if len(ts.found) > maxFound || ts.found[peerB] == nil || !ts.found[peerB].met {
		t.Errorf("%d targets; the peer that connected is not one of them", len(ts.found))
	}
}

// An invented peer at the address of one that is connected is not dialled there.
func TestAddressOfAConnectedPeerIsNotDialledForAnother(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTestTargets(t, now)
	ts.Connected(peerB, nil, live("10.0.0.2:6783", true), now)
	ts.Connected(0x02000000000d, nil, live("10.0.0.4:40000", false), now)
	f := ts.discovered(peerC, now)
	f.candidates = over("10.0.0.2:6783", "10.0.0.4:6783", "10.0.0.3:6783")
	if got := ts.free(f); len(got) != 1 || got[0].String() != "10.0.0.3:6783" {
		t.Errorf("free addresses = %v, want 10.0.0.3:6783 alone", got)
	}
}
