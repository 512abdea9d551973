package main

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"meshd/routing/control"
	"meshd/transport"
)

func TestStatusJSON(t *testing.T) {
	for name, r := range map[string]Report{"healthy.json": healthyReport(), "broken.json": brokenReport(), "relayed.json": relayedReport()} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := newStatus(r, now)
			if err := printJSON(&out, s, true); err != nil {
				t.Fatal(err)
			}
			golden(t, name, out.String())
		})
	}
}

// A client prints what it reads from the daemon: nothing may get lost between.
func TestStatusRoundTrip(t *testing.T) {
	for name, r := range map[string]Report{"healthy": healthyReport(), "broken": brokenReport(), "relayed": relayedReport(), "empty": {}} {
		t.Run(name, func(t *testing.T) {
			want := newStatus(r, now)
			data := toJSON(t, want)
			var got Status
			if err := json.Unmarshal([]byte(data), &got); err != nil {
				t.Fatal(err)
			}
			if again := toJSON(t, got); again != data {
				t.Errorf("read and written again:\n%s\nwant\n%s", again, data)
			}
		})
	}
}

func TestStatusHasNoNullLists(t *testing.T) {
	var got map[string]any
	if err := json.Unmarshal([]byte(toJSON(t, newStatus(Report{}, now))), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"problems", "targets", "connections", "peers", "ways", "macs", "transports", "trusted_subnets"} {
		if _, ok := got[key].([]any); !ok {
			t.Errorf("%s = %v, want a list", key, got[key])
		}
	}
}

func TestPathFigures(t *testing.T) {
	const tcp = 2 * time.Millisecond
	tests := []struct {
		name      string
		state     transport.State
		native    bool
		rtt, loss string
		mtu       string
	}{
		{"all known", transport.State{RTT: 430 * time.Microsecond, Loss: 0.25, MTU: 1414}, true, "0.43ms", "25.0%", "1414"},
		{"no loss is known", transport.State{RTT: time.Millisecond, MTU: 1414}, true, "1.00ms", "0.0%", "1414"},
		{"nothing known", transport.State{Loss: -1}, true, "-", "-", "-"},
		{"stock", transport.State{Loss: -1}, false, "~2.00ms", "-", "-"},
		{"stock that answers probes", transport.State{RTT: time.Millisecond, Loss: -1}, false, "1.00ms", "-", "-"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPath(transport.PathStats{State: tt.state}, tt.native, tcp)
			if got := rttText(&p); got != tt.rtt {
				t.Errorf("RTT = %s, want %s", got, tt.rtt)
			}
			if got := lossText(&p); got != tt.loss {
				t.Errorf("loss = %s, want %s", got, tt.loss)
			}
			if got := figure(p.MTU); got != tt.mtu {
				t.Errorf("MTU = %s, want %s", got, tt.mtu)
			}
		})
	}
}

func TestPathAddressUnknown(t *testing.T) {
	p := newPath(transport.PathStats{State: transport.State{Addr: netip.AddrPort{}}}, true, 0)
	if p.Address != "" {
		t.Errorf("address = %q, want none", p.Address)
	}
}

func TestHostileTextsAreCleaned(t *testing.T) {
	const evil = "a\x1b[2J\nb\xff\u202e"
	r := Report{Mesh: control.Snapshot{
		Self:  control.PeerSnapshot{Name: testName(1), NickName: evil},
		Peers: []control.PeerSnapshot{{Name: testName(2), NickName: evil, Connections: []control.PeerConnection{{NickName: evil, Address: evil}}}},
		Connections: []control.ConnectionSnapshot{
			{Address: evil, Err: evil},
			{Name: testName(2), NickName: evil, Paths: []transport.PathStats{{State: transport.State{Why: evil}}}},
		},
		Targets: []control.TargetSnapshot{{Target: "x", Err: evil}},
	}}
	r.Port.State.Why = evil
	s := newStatus(r, now)
	var out strings.Builder
	for _, print := range []error{printStatus(&out, &s), printConnections(&out, &s), printPeers(&out, &s), printStats(&out, &s), printRoutes(&out, &s)} {
		if print != nil {
			t.Fatal(print)
		}
	}
	if strings.ContainsAny(out.String(), "\x1b\u202e") || !utf8.ValidString(out.String()) {
		t.Errorf("output steers the terminal: %q", out.String())
	}
	if strings.Contains(out.String(), "\nb") {
		t.Errorf("a nickname breaks lines: %q", out.String())
	}
}

func TestCleanIsBounded(t *testing.T) {
	if got := clean(strings.Repeat("é", maxText)); len(got) > maxText+utf8.UTFMax || !utf8.ValidString(got) {
		t.Errorf("len(clean) = %d", len(got))
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "weave01", "\x1b[31m", "\xff\xfe", "a\x00b", "日本", strings.Repeat("é", maxText)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) || len(got) > 3*maxText {
			t.Fatalf("clean(%q) = %q", s, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) && r != unicode.ReplacementChar {
				t.Fatalf("clean(%q) has %U", s, r)
			}
		}
	})
}
