package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"meshd/nat"
	"meshd/nat/portmap"
	"meshd/routing/control"
	"meshd/routing/signal"
)

func TestWhyRoute(t *testing.T) {
	r := openReport()
	r.Mesh.Peers = append(r.Mesh.Peers, control.PeerSnapshot{Name: testName(4), NickName: "weave04"}, control.PeerSnapshot{Name: testName(5)})
	r.Mesh.Unicast = append(r.Mesh.Unicast, control.UnicastRoute{Dest: testName(4), Via: testName(2)})
	s := newStatus(r, time.Now())
	for name, want := range map[byte]Why{
		2: {Path: pathDirect, Transport: "punch", Address: "10.142.130.17:6785"},
		4: {Path: pathRelayed, Via: "weave02", Transport: "punch", Address: "10.142.130.17:6785"},
		5: {Path: pathNone},
	} {
		got := Why{Peer: testName(name).String()}
		got.route(newHops(&s))
		if got.Path != want.Path || got.Via != want.Via || got.Transport != want.Transport || got.Address != want.Address {
			t.Errorf("peer %d: %+v, want %+v", name, got, want)
		}
	}
}

func TestWhyTexts(t *testing.T) {
	at := time.Date(2026, 11, 28, 20, 15, 0, 0, time.UTC)
	pair := nat.Candidate{Kind: nat.Reflexive, Addr: netip.MustParseAddrPort("203.0.113.7:6785")}
	rtt := 1.234
	for name, w := range map[string]Why{
		"why-direct.txt": {
			Peer: "02:00:00:00:00:03", NickName: "weave03", Path: pathDirect, Transport: "punch", Address: "203.0.113.7:6785", RTT: &rtt,
			Tried: []nat.Try{{At: at, Pair: pair}},
		},
		"why-relayed.txt": {
			Peer: "02:00:00:00:00:03", NickName: "weave03", Path: pathRelayed, Via: "weave01", Transport: "punch", Address: "198.51.100.2:6785", RTT: &rtt,
			Tried: []nat.Try{{At: at, Err: "no check came through"}, {At: at, Err: "no check came through"}}, Failed: []string{"connection to 203.0.113.7:6783: no answer"},
			Reasons: []string{"both NATs choose a new port per destination", "checks to 203.0.113.7:1 (server-reflexive): no check came through"},
			Remedy:  "opening UDP 6785 on one side would make it direct",
		},
		"why-none.txt": {
			Peer: "02:00:00:00:00:03", Path: pathNone, Reasons: []string{"a direct way has not been looked for yet"}, Remedy: "wait a few seconds",
		},
	} {
		var out strings.Builder
		if err := w.print(&out); err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(out.String(), " ")
		if !strings.HasPrefix(first, w.Path) {
			t.Errorf("%s begins with %q", name, first)
		}
		golden(t, name, out.String())
	}
}

func TestDoubleNAT(t *testing.T) {
	ours, others := netip.MustParseAddrPort("203.0.113.7:6785"), netip.MustParseAddrPort("203.0.113.8:6785")
	for _, tt := range []struct {
		name   string
		m      portmap.Mapping
		mapped []netip.AddrPort
		want   nat.Verdict
	}{
		{"the gateway says so", portmap.Mapping{External: netip.MustParseAddrPort("100.64.0.2:6785"), DoubleNAT: true}, nil, nat.Yes},
		{"servers see it", portmap.Mapping{External: ours}, []netip.AddrPort{ours}, nat.No},
		{"servers see one of its addresses", portmap.Mapping{External: ours}, []netip.AddrPort{others, ours}, nat.No},
		{"servers see another", portmap.Mapping{External: ours}, []netip.AddrPort{others}, nat.Yes},
		{"no server", portmap.Mapping{External: ours}, nil, nat.Unknown},
	} {
		if got := doubleNAT(tt.m, tt.mapped); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestNATTexts(t *testing.T) {
	server := netip.MustParseAddrPort("198.51.100.2:6785")
	answers := []nat.Answer{
		{Server: "weave01", Addr: server, Mapped: netip.MustParseAddrPort("203.0.113.7:6785"), RTT: 1500 * time.Microsecond},
		{Server: "stun.example.net", Addr: netip.MustParseAddrPort("192.0.2.1:3478"), Err: "no answer"},
	}
	for name, r := range map[string]NATReport{
		"nat-daemon.txt": {
			Daemon: true, IPv4: nat.Behaviour{Mapping: nat.EndpointIndependent, Filtering: nat.UnknownFiltering, Preserves: true, Mapped: []netip.AddrPort{answers[0].Mapped}, Answers: answers, Hairpin: nat.No},
			Candidates: []nat.Candidate{{Kind: nat.Host, Addr: netip.MustParseAddrPort("192.168.1.2:6785")}}, Mapping: "none: no gateway", DoubleNAT: nat.Unknown,
			STUN: &nat.Counts{Answered: 3}, Signalling: &signal.Counts{Forged: 1},
		},
		"nat-blocked.txt": {IPv4: nat.Behaviour{Mapping: nat.UnknownMapping, Blocked: true, Answers: answers[1:]}},
		"nat-foreign.txt": {
			IPv4: nat.Behaviour{
				Mapping: nat.EndpointIndependent, Filtering: nat.AddressFiltering, Hairpin: nat.Yes, Mapped: []netip.AddrPort{answers[0].Mapped},
				Answers: []nat.Answer{
					{Server: "192.0.2.1", Addr: netip.MustParseAddrPort("192.0.2.1:3478"), Mapped: answers[0].Mapped, RTT: 2 * time.Millisecond, Other: netip.MustParseAddrPort("192.0.2.2:3479")},
					{Server: "192.0.2.1", Addr: netip.MustParseAddrPort("192.0.2.2:3479"), Mapped: answers[0].Mapped, RTT: 3 * time.Millisecond},
				},
			},
			DoubleNAT: nat.Yes,
		},
	} {
		var out strings.Builder
		if err := r.print(&out); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
		out.Reset()
		if err := printJSON(&out, r, true); err != nil {
			t.Fatal(err)
		}
		golden(t, strings.TrimSuffix(name, ".txt")+".json", out.String())
	}
}
