package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"meshd/nat"
	"meshd/routing/control"
)

func TestPathBy(t *testing.T) {
	for via, want := range map[string]string{"": pathNone, "a": pathDirect, "b": pathRelayed} {
		if got := pathBy("a", via); got != want {
			t.Errorf("pathBy(a, %q) = %s, want %s", via, got, want)
		}
	}
}

// A way says the same as why does, of every peer but ourselves.
func TestWaysAreWhys(t *testing.T) {
	r := relayedReport()
	s := newStatus(r, now)
	if len(s.Ways) != len(s.Peers)-1 {
		t.Fatalf("%d ways, want one to each of %d peers", len(s.Ways), len(s.Peers)-1)
	}
	for _, p := range r.Mesh.Peers[1:] {
		w, v := newWhy(&s, newHops(&s), p.Name, p.NickName, r.Traversal), s.wayOf(p.Name.String())
		if v == nil || v.Path != w.Path || v.Via != w.Via || v.Transport != w.Transport || v.Address != w.Address || v.Remedy != w.Remedy {
			t.Errorf("way %+v, why %+v", v, w)
		}
	}
	if w := s.wayOf(s.Name); w != nil {
		t.Errorf("a way to ourselves: %+v", w)
	}
}

func TestWayPair(t *testing.T) {
	used, other := netip.MustParseAddrPort("203.0.113.7:6785"), netip.MustParseAddrPort("203.0.113.8:6785")
	found := func(addr netip.AddrPort) nat.Try {
		return nat.Try{Pair: nat.Candidate{Kind: nat.Reflexive, Addr: addr}}
	}
	failed := nat.Try{Err: nat.ErrNoPair.Error()}
	tests := []struct {
		name  string
		path  string
		tries []nat.Try
		want  string
		text  string
	}{
		{"direct, found last", pathDirect, []nat.Try{failed, found(used)}, used.String(), "203.0.113.7:6785 (server-reflexive)"},
		{"direct, found before", pathDirect, []nat.Try{found(used), failed}, used.String(), "203.0.113.7:6785 (server-reflexive)"},
		{"direct, by an address that no round found", pathDirect, []nat.Try{found(other), failed}, "", used.String()},
		{"direct, not looked for", pathDirect, nil, "", used.String()},
		{"relayed, found before and lost", pathRelayed, []nat.Try{found(used), failed}, "", ""},
		{"relayed, found and of no use", pathRelayed, []nat.Try{failed, found(other)}, other.String(), "203.0.113.8:6785 (server-reflexive)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newWay(Why{Path: tt.path, Address: used.String(), Tried: tt.tries}, nat.Status{})
			got := ""
			if v.Pair.Addr.IsValid() {
				got = v.Pair.Addr.String()
			}
			if got != tt.want || v.pairText() != tt.text {
				t.Errorf("pair %q, %q, want %q, %q", got, v.pairText(), tt.want, tt.text)
			}
		})
	}
}

// Of many candidates a line has some, JSON all.
func TestCandidatesAreBounded(t *testing.T) {
	var all []nat.Candidate
	for i := range nat.MaxCandidates {
		all = append(all, nat.Candidate{Kind: nat.Host, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 6785)})
	}
	v := newWay(Why{Tried: []nat.Try{{Local: all, Remote: all[:1]}}}, nat.Status{})
	if want := "10.0.0.3:6785 (host), and 12 more; remote 10.0.0.0:6785 (host)"; !strings.HasSuffix(v.candidatesText(), want) || len(v.Local) != len(all) {
		t.Errorf("candidates %q of %d, want an end %q of %d", v.candidatesText(), len(v.Local), want, len(all))
	}
}

// What stock scripts parse of `status connections` stays as it is, and comes first.
func TestRelayedComesAfterWeavesLayout(t *testing.T) {
	s := newStatus(relayedReport(), now)
	var out, weaves strings.Builder
	if err := printConnections(&out, &s); err != nil {
		t.Fatal(err)
	}
	writeWeaveConnections(&weaves, newWeaveReport(&s))
	rest, first := strings.CutPrefix(out.String(), weaves.String())
	if !first || strings.Contains(weaves.String(), "relayed") || !strings.Contains(rest, "\nrelayed weave04 via weave02: both NATs choose a new port per destination\n") {
		t.Errorf("connections:\n%s", out.String())
	}
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "->") || strings.HasPrefix(line, "<-") {
			t.Errorf("the line %q looks like a connection", line)
		}
	}
}

func TestJSONHasWays(t *testing.T) {
	s := newStatus(relayedReport(), now)
	for i, c := range connectionList(&s) {
		if !c.live() {
			continue // an attempt
		}
		if c.Way == nil || c.Way.Name != c.Name || c.Way.Path != pathDirect || c.Name != s.Connections[i].Name {
			t.Errorf("%s: way %+v", c.Name, c.Way)
		}
	}
	for _, p := range pathList(&s) {
		if p.Way == nil || p.Way.Name != p.Name {
			t.Errorf("%s: way %+v", p.Name, p.Way)
		}
	}
	picked, err := onlyPeers(&s, []string{"weave04"})
	if err != nil || len(picked.Ways) != 1 || picked.Ways[0].NickName != "weave04" || len(s.Ways) != 4 {
		t.Errorf("of weave04: %+v, %v", picked, err)
	}
}

func TestRelayedNotes(t *testing.T) {
	texts := func(r Report) (out []string) {
		s := newStatus(r, now)
		for _, p := range s.Problems {
			if p.Code == "relayed" {
				if p.Severity != Note {
					t.Errorf("%+v, want a note", p)
				}
				out = append(out, p.Text)
			}
		}
		return out
	}
	const want = "weave04 is relayed through weave02: both NATs choose a new port per destination; " +
		"opening UDP 6785 on one side, or enabling NAT-PMP or UPnP on one gateway, would make it direct (meshd why weave04)"
	if got := texts(relayedReport()); len(got) != 1 || got[0] != want {
		t.Errorf("notes %q, want %q", got, want)
	}

	twins := relayedReport()
	twins.Mesh.Peers[4].NickName = "weave04"
	if got := texts(twins); len(got) != 1 || !strings.HasSuffix(got[0], "(meshd why 02:00:00:00:00:04)") {
		t.Errorf("notes of twins: %q", got)
	}

	many := relayedReport()
	for n := byte(10); n < 20; n++ {
		many.Mesh.Peers = append(many.Mesh.Peers, control.PeerSnapshot{Name: testName(n), NickName: fmt.Sprint("far", n)})
		many.Mesh.Unicast = append(many.Mesh.Unicast, control.UnicastRoute{Dest: testName(n), Via: testName(2)})
		many.Traversal.Peers[testName(n)] = nat.Status{Known: true, Since: now.Add(-relayedFor - time.Second)}
	}
	got := texts(many)
	if len(got) != relayedNamed+1 || got[relayedNamed] != "6 more peers are relayed: `meshd status connections` says why" {
		t.Errorf("notes of many: %q", got)
	}

	off := relayedReport()
	off.Traversal = nil
	if got := texts(off); len(got) != 0 {
		t.Errorf("notes where no ways are looked for: %q", got)
	}
}
