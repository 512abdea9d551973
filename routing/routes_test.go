package routing

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"meshd/internal/frame"
	"meshd/transport"
)

// routeCase is a topology as a stock router knew it and what it made of it.
type routeCase struct {
	Self  frame.PeerName `json:"self"`
	Peers []struct {
		Name        frame.PeerName `json:"name"`
		Connections []struct {
			To          frame.PeerName `json:"to"`
			Established bool           `json:"established"`
		} `json:"connections"`
	} `json:"peers"`
	Unicast   map[frame.PeerName]frame.PeerName   `json:"unicast_next_hop"`
	Broadcast map[frame.PeerName][]frame.PeerName `json:"broadcast_next_hops_by_source"`
}

func (c routeCase) entries() []Peer {
	var entries []Peer
	for i, p := range c.Peers {
		e := Peer{Name: p.Name, UID: uint64(i + 1), Version: 1}
		for _, conn := range p.Connections {
			e.Connections = append(e.Connections, Connection{Peer: conn.To, Established: conn.Established})
		}
		entries = append(entries, e)
	}
	return entries
}

func loadRouteCases(t *testing.T) map[string]routeCase {
	t.Helper()
	files, err := filepath.Glob("testdata/routes/case-*.json")
	if err != nil || len(files) != 12 {
		t.Fatalf("found %d route vectors, %v; want 12", len(files), err)
	}
	cases := map[string]routeCase{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var c routeCase
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		cases[filepath.Base(file)] = c
	}
	return cases
}

// TestRoutesOfStockRouter compares both tables with those that a stock router
// computed for the same topology, in Topology and in FIB.
func TestRoutesOfStockRouter(t *testing.T) {
	for file, c := range loadRouteCases(t) {
		t.Run(file, func(t *testing.T) {
			top := topologyOf(c.Self, c.entries())
			if got := top.Unicast(true); !maps.Equal(got, c.Unicast) {
				t.Errorf("Unicast(strict) = %v, want %v", got, c.Unicast)
			}
			for source, want := range c.Broadcast {
				if got := top.Broadcast(source, true); !slices.Equal(got, want) {
					t.Errorf("Broadcast(%v, strict) = %v, want %v", source, got, want)
				}
			}
			fib := NewFIB(top, everySender(top))
			if got := maps.Collect(fib.Unicast()); !maps.Equal(got, c.Unicast) {
				t.Errorf("FIB.Unicast = %v, want %v", got, c.Unicast)
			}
			if got := maps.Collect(fib.Broadcast()); !maps.EqualFunc(got, c.Broadcast, slices.Equal) {
				t.Errorf("FIB.Broadcast = %v, want %v", got, c.Broadcast)
			}
		})
	}
}

func everySender(top *Topology) map[frame.PeerName]transport.Sender {
	senders := map[frame.PeerName]transport.Sender{}
	for p := range top.All() {
		senders[p.Name] = &recorder{}
	}
	return senders
}

// TestClaimedRoutes: gossip goes over connections that only one end lists, or
// that are not established; frames do not.
func TestClaimedRoutes(t *testing.T) {
	a, b, c, d := peerName(1), peerName(2), peerName(3), peerName(4)
	top := topologyOf(a, []Peer{
		{Name: a, UID: 1, Version: 1, Connections: []Connection{{Peer: b, Established: true}}},
		{Name: b, UID: 2, Version: 1, Connections: []Connection{
			{Peer: a, Established: true}, {Peer: c, Established: true},
		}},
		{Name: c, UID: 3, Version: 1, Connections: []Connection{{Peer: b}, {Peer: d, Established: true}}},
	})
	wantAll := map[frame.PeerName]frame.PeerName{a: 0, b: b, c: b, d: b}
	if got := top.Unicast(false); !maps.Equal(got, wantAll) {
		t.Errorf("Unicast(all) = %v, want %v", got, wantAll)
	}
	wantStrict := map[frame.PeerName]frame.PeerName{a: 0, b: b}
	if got := top.Unicast(true); !maps.Equal(got, wantStrict) {
		t.Errorf("Unicast(strict) = %v, want %v", got, wantStrict)
	}
	if got := top.Broadcast(c, true); got != nil {
		t.Errorf("Broadcast(unreached, strict) = %v, want none", got)
	}
	if got := top.Broadcast(peerName(99), false); got != nil {
		t.Errorf("Broadcast(unknown) = %v, want none", got)
	}
}

// TestFIBWithoutSender: a neighbour that nobody can send to is no next hop.
func TestFIBWithoutSender(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	top := topologyOf(a, []Peer{
		{Name: a, UID: 1, Version: 1, Connections: both(b, c)},
		{Name: b, UID: 2, Version: 1, Connections: both(a)},
		{Name: c, UID: 3, Version: 1, Connections: both(a)},
	})
	toC := &recorder{}
	fib := NewFIB(top, map[frame.PeerName]transport.Sender{c: toC, a: &recorder{}})
	if via, way := fib.NextHop(b); via != 0 || way != nil {
		t.Errorf("NextHop(b) = %v, %v, want none", via, way)
	}
	if via, way := fib.NextHop(c); via != c || way != toC {
		t.Errorf("NextHop(c) = %v, %v, want c and its sender", via, way)
	}
	if via, way := fib.NextHop(a); via != 0 || way != nil {
		t.Errorf("NextHop(self) = %v, %v, want none", via, way)
	}
	if got := maps.Collect(fib.Broadcast())[a]; !slices.Equal(got, []frame.PeerName{c}) {
		t.Errorf("Broadcast of self = %v, want c alone", got)
	}
}

// TestFIBIsSnapshot: changes of the topology do not show in an older FIB.
func TestFIBIsSnapshot(t *testing.T) {
	a, b := peerName(1), peerName(2)
	top := topologyOf(a, []Peer{
		{Name: a, UID: 1, Version: 1, Connections: both(b)},
		{Name: b, UID: 2, Version: 1, Connections: both(a)},
	})
	fib := NewFIB(top, everySender(top))
	top.RemoveConnection(b)
	top.Collect(nil)
	if via, way := fib.NextHop(b); via != b || way == nil {
		t.Error("the old FIB lost its route")
	}
	if got := maps.Collect(fib.Broadcast())[a]; !slices.Equal(got, []frame.PeerName{b}) {
		t.Errorf("Broadcast of the old FIB = %v, want b", got)
	}
	if via, way := NewFIB(top, everySender(top)).NextHop(b); via != 0 || way != nil {
		t.Error("the new FIB has a route to a peer that is gone")
	}
}

func TestTwiceLog2(t *testing.T) {
	for n, want := range map[int]int{1: 0, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 8: 6, 11: 6, 12: 7, 4096: 24} {
		if got := twiceLog2(n); got != want {
			t.Errorf("twiceLog2(%d) = %d, want %d", n, got, want)
		}
	}
}

// star returns what the middle of a star with n rays knows; ray 1 has a tail of
// further peers behind it.
func star(n, tail int) (*Topology, []frame.PeerName) {
	middle := peerName(0xff00)
	var rays []frame.PeerName
	for i := range n {
		rays = append(rays, peerName(i+1))
	}
	entries := []Peer{{Name: middle, UID: 9, Version: 1, Connections: both(rays...)}}
	for _, ray := range rays {
		entries = append(entries, Peer{Name: ray, UID: 8, Version: 1, Connections: both(middle)})
	}
	for i := range tail {
		entries[1].Connections = append(entries[1].Connections, both(peerName(0x1000+i))...)
	}
	return topologyOf(middle, entries), rays
}

func TestNeighbourSubset(t *testing.T) {
	t.Run("alone", func(t *testing.T) {
		top := NewTopology(Peer{Name: peerName(1)}, seeded(1))
		if got := top.NeighbourSubset(0); len(got) != 0 {
			t.Errorf("NeighbourSubset = %v, want none", got)
		}
	})
	t.Run("small mesh: everyone but the source", func(t *testing.T) {
		top, rays := star(4, 0) // ⌊2·log2 5⌋ = 4
		if got := top.NeighbourSubset(0); !slices.Equal(got, rays) {
			t.Errorf("NeighbourSubset(none) = %v, want %v", got, rays)
		}
		if got := top.NeighbourSubset(rays[2]); !slices.Equal(got, slices.Delete(slices.Clone(rays), 2, 3)) {
			t.Errorf("NeighbourSubset(%v) = %v, want the others", rays[2], got)
		}
	})
	t.Run("large mesh: so many, different, weighted", func(t *testing.T) {
		top, rays := star(40, 60) // N = 101: ⌊2·log2 101⌋ = 13
		seen := map[frame.PeerName]int{}
		const rounds = 300
		for range rounds {
			got := top.NeighbourSubset(0)
			if len(got) != 13 || len(slices.Compact(slices.Clone(got))) != 13 || !slices.IsSorted(got) {
				t.Fatalf("NeighbourSubset = %v, want 13 different ones in order", got)
			}
			for _, n := range got {
				seen[n]++
			}
		}
		// 61 of 100 peers are behind the first ray: it is left out of 13 draws once
		// in 2^20 or so. The others come about 12 times in 39.
		if seen[rays[0]] < rounds-1 {
			t.Errorf("the ray with most peers behind it was picked %d times of %d", seen[rays[0]], rounds)
		}
		for _, r := range rays[1:] {
			if seen[r] < rounds/10 || seen[r] > rounds/2 {
				t.Errorf("ray %v was picked %d times of %d, want about %d", r, seen[r], rounds, rounds*12/39)
			}
		}
	})
}
