package control

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/routing"
)

func TestTopologyAddress(t *testing.T) {
	for _, tt := range []struct{ candidate, want string }{
		{"10.0.0.2:6783", "10.0.0.2:6783"},
		{"[fd00::2]:6783", "[fd00::2]:6783"},
		{"quic://10.0.0.2:6785", "quic!10.0.0.2!6785"},
		{"quic://[fd00::2]:6785", "quic!fd00--2!6785"},
		{"quic://[2001:db8:0:1:2:3:4:5]:65535", "quic!2001-db8-0-1-2-3-4-5!65535"},
		{"quic://[::ffff:10.0.0.2]:6785", "quic!10.0.0.2!6785"},
		{"quic://[fe80::1%eth0]:6785", "quic!fe80--1!6785"}, // the zone is ours alone
	} {
		if got := topologyAddress(over(tt.candidate)[0]); got != tt.want {
			t.Errorf("topologyAddress(%s) = %q, want %q", tt.candidate, got, tt.want)
		}
	}
}

// Whatever is written for a session that is not TCP, a stock router reads no
// address in it, so it does not dial: weave protocol, section 7.1.
func TestStockRoutersReadNoAddressOfQUIC(t *testing.T) {
	for _, c := range over("quic://10.0.0.2:6785", "quic://[fd00::2]:6785", "quic://[fe80::1%eth0]:1") {
		s := topologyAddress(c)
		if strings.Contains(s, ":") || len(s) > routing.MaxRemoteAddr {
			t.Errorf("topologyAddress(%s) = %q, want no colon and at most %d bytes", c, s, routing.MaxRemoteAddr)
		}
	}
}

func TestParseTopologyAddress(t *testing.T) {
	for _, tt := range []struct {
		in, want string // want: empty for none
	}{
		{"10.0.0.2:6783", "10.0.0.2:6783"},
		{"quic!10.0.0.2!6785", "quic://10.0.0.2:6785"},
		{"quic!fd00--2!6785", "quic://[fd00::2]:6785"},
		{"quic!fd00__2!6785", "quic://[fd00::2]:6785"},
		{"quic!--ffff-10.0.0.2!1", "quic://10.0.0.2:1"},
		{"", ""},
		{"quic", ""},
		{"quic!", ""},
		{"quic!10.0.0.2", ""},
		{"quic!10.0.0.2!", ""},
		{"quic!10.0.0.2!0", ""},
		{"quic!10.0.0.2!65536", ""},
		{"quic!10.0.0.2!+1", ""},
		{"quic!10.0.0.2!1!2", ""},
		{"quic!10.0.0.2:6785", ""},
		{"quic!fd00::2!6785", ""},
		{"quic!fe80--1%eth0!6785", ""},
		{"quic!host!6785", ""},
		{"QUIC!10.0.0.2!6785", ""},
		{"tcp!10.0.0.2!6785", ""},
		{"quic!10.0.0.2!" + strings.Repeat("0", 60) + "1", ""},
	} {
		got, ok := parseTopologyAddress(tt.in)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("parseTopologyAddress(%q) = %s, %v; want %q", tt.in, got, ok, tt.want)
		}
	}
}

func FuzzTopologyAddress(f *testing.F) {
	for _, s := range []string{"10.0.0.2:6783", "[fd00::2]:6783", "quic!10.0.0.2!6785", "quic!fd00--2!6785", "quic!fd00__2!1", "quic!--!1", "quic!!", "!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := parseTopologyAddress(s)
		if !ok {
			return
		}
		if c.Carrier == CarrierQUIC && (c.Addr.Port() == 0 || c.Addr.Addr().Zone() != "" || c.Addr.Addr().Is4In6()) {
			t.Errorf("parseTopologyAddress(%q) = %s", s, c)
		}
		again, ok := parseTopologyAddress(topologyAddress(c))
		if len(topologyAddress(c)) <= routing.MaxRemoteAddr && (!ok || again != c) {
			t.Errorf("parseTopologyAddress(%q) = %s, which reads back as %s, %v", s, c, again, ok)
		}
		ts := newTargets(peerA, testPorts)
		if at, ok := ts.dialable(routing.Connection{RemoteAddr: s}); ok && !at.Addr.Addr().Unmap().IsGlobalUnicast() {
			t.Errorf("dialable(%q) = %s", s, at)
		}
	})
}

// What earlier versions kept is read, and so is what this one keeps.
func TestRememberedAsJSON(t *testing.T) {
	const old = `[{"name":"02:00:00:00:00:0b","addresses":["10.0.0.2:6783","[fd00::2]:7000"]}]`
	var peers []Remembered
	if err := json.Unmarshal([]byte(old), &peers); err != nil {
		t.Fatal(err)
	}
	want := over("10.0.0.2:6783", "[fd00::2]:7000")
	if len(peers) != 1 || !slices.Equal(peers[0].Addresses, want) {
		t.Errorf("read %v, want %v", peers, want)
	}
	peers[0].Addresses = over("10.0.0.2:6783", "quic://[fd00::2]:6785")
	data, err := json.Marshal(peers)
	if err != nil {
		t.Fatal(err)
	}
	var again []Remembered
	if err := json.Unmarshal(data, &again); err != nil || !slices.Equal(again[0].Addresses, peers[0].Addresses) {
		t.Errorf("%s reads back as %v, %v", data, again, err)
	}
	for _, bad := range []string{"udp://10.0.0.2:1", "quic://host:1", "quic!10.0.0.2!1", "10.0.0.2", ""} {
		if err := new(Candidate).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Discovery reads the addresses of QUIC sessions, and tries the other carrier at
// each address that it is told.
func TestDiscoverOverBothCarriers(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		name  string
		told  routing.Connection
		ports carrierPorts
		want  []Candidate
	}{
		{"TCP dialled", routing.Connection{RemoteAddr: "10.0.0.3:7000", Outbound: true}, testPorts, over("10.0.0.3:7000", "quic://10.0.0.3:6785")},
		{"TCP accepted", routing.Connection{RemoteAddr: "10.0.0.3:50001"}, testPorts, over("10.0.0.3:6783", "quic://10.0.0.3:6785")},
		{"QUIC", routing.Connection{RemoteAddr: "quic!10.0.0.3!443"}, testPorts, over("quic://10.0.0.3:443", "10.0.0.3:6783")},
		{"QUIC over IPv6", routing.Connection{RemoteAddr: "quic!fd00--3!6785"}, testPorts, over("quic://[fd00::3]:6785", "[fd00::3]:6783")},
		{"TCP without a QUIC carrier", routing.Connection{RemoteAddr: "10.0.0.3:50001"}, tcpOnly, over("10.0.0.3:6783")},
		{"QUIC without a QUIC carrier", routing.Connection{RemoteAddr: "quic!10.0.0.3!443"}, tcpOnly, nil},
		{"no host", routing.Connection{RemoteAddr: "quic!127.0.0.1!443"}, testPorts, nil},
		{"a group", routing.Connection{RemoteAddr: "quic!ff02--1!443"}, testPorts, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ts := newTargets(peerA, tt.ports)
			topo := routing.NewTopology(routing.Peer{Name: peerA, UID: 1}, nil)
			tt.told.Peer = peerC
			topo.Merge([]routing.Peer{
				{Name: peerB, UID: 2, Version: 3, Connections: []routing.Connection{tt.told}},
				{Name: peerC, UID: 3, Version: 3},
			}, now)
			ts.Discover(topo, now)
			var got []Candidate
			if f := ts.found[peerC]; f != nil {
				got = f.candidates
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("candidates = %v, want %v", got, tt.want)
			}
		})
	}
}

// Our own address on one carrier says nothing of the same on another, and a guess
// is not made where we met ourselves.
func TestOwnAddressIsOneCarriers(t *testing.T) {
	ts := newTargets(peerA, testPorts)
	ts.ourselves[over("quic://10.0.0.1:6785")[0]] = true
	if at, ok := ts.dialable(routing.Connection{RemoteAddr: "10.0.0.1:6783", Outbound: true}); !ok {
		t.Errorf("dialable = %v, %v, want the TCP address", at, ok)
	}
	if at, ok := ts.dialable(routing.Connection{RemoteAddr: "quic!10.0.0.1!6785"}); ok {
		t.Errorf("dialable = %v, which is ourselves", at)
	}
	f := ts.discovered(peerB, time.Unix(1000, 0))
	f.candidates = over("10.0.0.1:6783")
	if ts.guess(f); !slices.Equal(f.candidates, over("10.0.0.1:6783")) {
		t.Errorf("candidates = %v, want no guess at ourselves", f.candidates)
	}
}

// A stock router is not tried over QUIC, once it is known to be one.
func TestStockRouterHasTCPOnly(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTargets(peerA, testPorts)
	f := ts.discovered(peerB, now)
	f.candidates = over("10.0.0.2:6783")
	ts.guess(f)
	if !slices.Equal(f.candidates, over("10.0.0.2:6783", "quic://10.0.0.2:6785")) {
		t.Fatalf("candidates = %v, want a guess", f.candidates)
	}
	ts.Connected(peerB, nil, liveSession{at: over("10.0.0.2:40000")[0]}, now)
	if want := over("10.0.0.2:6783"); !slices.Equal(f.candidates, want) {
		t.Errorf("candidates = %v, want %v", f.candidates, want)
	}
	ts.Connected(peerB, nil, live("quic://10.0.0.2:6785", false), now) // it runs meshd now
	if want := over("quic://10.0.0.2:6785", "10.0.0.2:6783"); !slices.Equal(f.candidates, want) {
		t.Errorf("candidates = %v, want %v", f.candidates, want)
	}
}

// Where a peer is connected, no other one is looked for, over the other carrier
// neither.
func TestFreeCandidatesOfBothCarriers(t *testing.T) {
	now := time.Unix(1000, 0)
	ts := newTargets(peerA, testPorts)
	ts.Connected(peerB, nil, live("10.0.0.2:7000", true), now)
	ts.Connected(0x02000000000d, nil, live("quic://10.0.0.4:443", false), now)
	f := ts.discovered(peerC, now)
	f.candidates = over("10.0.0.2:6783", "quic://10.0.0.2:6785", "quic://10.0.0.4:443", "10.0.0.4:6783", "quic://10.0.0.4:6785", "quic://10.0.0.3:6785")
	if got, want := ts.free(f), over("10.0.0.2:6783", "quic://10.0.0.4:6785", "quic://10.0.0.3:6785"); !slices.Equal(got, want) {
		t.Errorf("free candidates = %v, want %v", got, want)
	}
}

// A target whose peer is not known yet is connected by a session with its address,
// over whichever carrier it may use.
func TestHasOverAnyCarrier(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tt := range []struct {
		spec, at string
		outbound bool
		want     bool
	}{
		{"10.0.0.2", "quic://10.0.0.2:6785", false, true},
		{"10.0.0.2:6783", "quic://10.0.0.2:6785", false, true},
		{"quic://10.0.0.2:6785", "quic://10.0.0.2:6785", false, true},
		{"quic://10.0.0.2:443", "quic://10.0.0.2:6785", false, false},
		{"quic://10.0.0.2", "10.0.0.2:40000", false, true},
		{"tcp://10.0.0.2:6785", "quic://10.0.0.2:6785", true, false},
		{"10.0.0.3", "quic://10.0.0.2:6785", true, false},
	} {
		ts := newTargets(peerA, testPorts)
		if err := ts.SetDirect([]string{tt.spec}, now); err != nil {
			t.Fatal(err)
		}
		target := ts.direct[0]
		target.resolved = target.at([]netip.Addr{netip.MustParseAddr(target.host)}, ts.ports)
		ts.Connected(peerB, nil, live(tt.at, tt.outbound), now)
		if got := ts.has(target); got != tt.want {
			t.Errorf("a session at %s connects target %s: %v, want %v", tt.at, tt.spec, got, tt.want)
		}
	}
}

func TestTelling(t *testing.T) {
	refused, lost := &dialError{errors.New("connection refused")}, &dialError{errNoAnswer}
	for _, tt := range []struct {
		name string
		at   []string
		errs []error
		want string
	}{
		{"one carrier", []string{"10.0.0.2:6783", "10.0.0.3:6783"}, []error{refused, lost}, "connection refused"},
		{"the same over both", []string{"10.0.0.2:6783", "quic://10.0.0.2:6785"}, []error{lost, lost}, "no answer within 5s"},
		{"each its own", []string{"10.0.0.2:6783", "quic://10.0.0.2:6785"}, []error{refused, lost}, "over tcp: connection refused, over quic: no answer within 5s"},
		{"in one order", []string{"quic://10.0.0.2:6785", "10.0.0.2:6783"}, []error{lost, refused}, "over tcp: connection refused, over quic: no answer within 5s"},
		{"a handshake says more", []string{"10.0.0.2:6783", "quic://10.0.0.2:6785"}, []error{refused, ErrWrongPassword}, "over quic: cannot decrypt: passwords differ"},
		{"over TCP too", []string{"quic://10.0.0.2:6785", "10.0.0.2:6783"}, []error{lost, ErrWrongPassword}, "cannot decrypt: passwords differ"},
		{"QUIC only", []string{"quic://10.0.0.2:6785"}, []error{lost}, "no answer within 5s"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var outcomes []outcome
			for i, c := range over(tt.at...) {
				outcomes = append(outcomes, outcome{c, tt.errs[i]})
			}
			if got := telling(outcomes); got == nil || got.Error() != tt.want {
				t.Errorf("telling = %v, want %s", got, tt.want)
			}
		})
	}
	if got := telling(nil); got != nil {
		t.Errorf("telling of nothing = %v", got)
	}
}

// An address is given up where we met ourselves there over any carrier, and others
// only found nobody.
func TestHopeless(t *testing.T) {
	lost := &dialError{errNoAnswer}
	for _, tt := range []struct {
		name string
		at   []string
		errs []error
		want bool
	}{
		{"ourselves over TCP", []string{"10.0.0.1:6783", "quic://10.0.0.1:6785"}, []error{errSelf, lost}, true},
		{"ourselves over QUIC", []string{"10.0.0.1:6783", "quic://10.0.0.1:6785"}, []error{lost, errSelf}, true},
		{"one of two addresses", []string{"10.0.0.1:6783", "10.0.0.2:6783"}, []error{errSelf, lost}, false},
		{"nobody", []string{"10.0.0.1:6783"}, []error{lost}, false},
	} {
		var outcomes []outcome
		for i, c := range over(tt.at...) {
			outcomes = append(outcomes, outcome{c, tt.errs[i]})
		}
		if got := hopeless(outcomes); got != tt.want {
			t.Errorf("%s: hopeless = %v, want %v", tt.name, got, tt.want)
		}
	}
	if hopeless(nil) {
		t.Error("an attempt at nothing is hopeless")
	}
}
