package routing

import (
	"slices"
	"testing"

	"meshd/internal/frame"
)

func TestOwnConnections(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	top := NewTopology(Peer{Name: a, UID: 1, NickName: "a"}, seeded(1))
	steps := []struct {
		what    string
		do      func() bool
		changed bool
		version uint64
		want    []frame.PeerName
	}{
		{"add", func() bool { return top.SetConnection(Connection{Peer: c}) }, true, 1, []frame.PeerName{c}},
		{"same again", func() bool { return top.SetConnection(Connection{Peer: c}) }, false, 1, []frame.PeerName{c}},
		{"established", func() bool { return top.SetConnection(Connection{Peer: c, Established: true}) }, true, 2, []frame.PeerName{c}},
		{"sorted before", func() bool { return top.SetConnection(Connection{Peer: b}) }, true, 3, []frame.PeerName{b, c}},
		{"remove", func() bool { return top.RemoveConnection(c) }, true, 4, []frame.PeerName{b}},
		{"remove again", func() bool { return top.RemoveConnection(c) }, false, 4, []frame.PeerName{b}},
		{"nickname", func() bool { return top.SetNickName("z") }, true, 5, []frame.PeerName{b}},
		{"same nickname", func() bool { return top.SetNickName("z") }, false, 5, []frame.PeerName{b}},
	}
	for _, s := range steps {
		if got := s.do(); got != s.changed {
			t.Errorf("%s: changed = %v, want %v", s.what, got, s.changed)
		}
		self := top.Self()
		if self.Version != s.version {
			t.Errorf("%s: version %d, want %d", s.what, self.Version, s.version)
		}
		if got := ends(self); !slices.Equal(got, s.want) {
			t.Errorf("%s: connections to %v, want %v", s.what, got, s.want)
		}
	}
	if p, ok := top.Peer(c); !ok || p.UID != 0 {
		t.Errorf("Peer(c) = %+v, %v; want a placeholder", p, ok)
	}
	checkInvariants(t, top)
}

func TestPlaceholders(t *testing.T) {
	a, b, c, d := peerName(1), peerName(2), peerName(3), peerName(4)
	top := NewTopology(Peer{Name: a, UID: 1}, seeded(1))
	if got := top.Placeholders(); len(got) > 0 {
		t.Errorf("Placeholders() = %v of a new topology", got)
	}
	top.SetConnection(Connection{Peer: d})
	top.Merge([]Peer{{Name: b, UID: 2, Connections: both(c)}}, start)
	if got, want := top.Placeholders(), []frame.PeerName{c, d}; !slices.Equal(got, want) {
		t.Errorf("Placeholders() = %v, want %v", got, want)
	}
	top.Merge([]Peer{{Name: c, UID: 3}}, start)
	top.Introduce(Peer{Name: d, UID: 4})
	if got := top.Placeholders(); len(got) > 0 {
		t.Errorf("Placeholders() = %v after their entries came", got)
	}
}

// TestEntriesMayBeKept: what was returned does not change with the topology.
func TestEntriesMayBeKept(t *testing.T) {
	top := NewTopology(Peer{Name: peerName(1)}, seeded(1))
	for i := range 8 {
		top.SetConnection(Connection{Peer: peerName(i + 2)})
	}
	kept := top.Self()
	want := slices.Clone(kept.Connections)
	top.SetConnection(Connection{Peer: peerName(5), Established: true})
	top.RemoveConnection(peerName(2))
	if !slices.Equal(kept.Connections, want) {
		t.Errorf("kept connections changed to %v", kept.Connections)
	}
}

func ends(p Peer) []frame.PeerName {
	var names []frame.PeerName
	for _, c := range p.Connections {
		names = append(names, c.Peer)
	}
	return names
}

func TestIntroduce(t *testing.T) {
	a, b, c := peerName(1), peerName(2), peerName(3)
	top := NewTopology(Peer{Name: a, UID: 1}, seeded(1))
	in := top.Introduce(Peer{Name: b, NickName: "b", UID: 7, Version: 99, ShortID: 12, HasShortID: true})
	if in.Known || in.Restarted {
		t.Errorf("first introduction = %+v, want unknown", in)
	}
	got, _ := top.Peer(b)
	if got.NickName != "b" || got.UID != 7 || got.Version != 0 || got.ShortID != 12 || !got.HasShortID {
		t.Errorf("introduced peer = %+v", got)
	}
	if in := top.Introduce(Peer{Name: b, UID: 7}); !in.Known || in.Restarted || in.Before.UID != 7 {
		t.Errorf("second introduction = %+v, want known", in)
	}
	if in := top.Introduce(Peer{Name: b, NickName: "later", UID: 8}); !in.Restarted {
		t.Errorf("introduction with another UID = %+v, want restarted", in)
	}
	if got, _ := top.Peer(b); got.UID != 7 || got.NickName != "b" {
		t.Errorf("restart changed the entry to %+v; gossip does that", got)
	}
	top.SetConnection(Connection{Peer: c})
	if in := top.Introduce(Peer{Name: c, NickName: "c", UID: 3}); !in.Known || !in.Restarted {
		t.Errorf("introduction of a placeholder = %+v", in)
	}
	if got, _ := top.Peer(c); got.NickName != "c" || got.UID != 3 {
		t.Errorf("placeholder was not filled: %+v", got)
	}
	if in := top.Introduce(Peer{Name: a, UID: 5, NickName: "evil"}); top.Self().NickName != "" || !in.Known {
		t.Error("an introduction changed our own entry")
	}
	checkInvariants(t, top)
}

func TestCollect(t *testing.T) {
	a, b, c, d, e := peerName(1), peerName(2), peerName(3), peerName(4), peerName(5)
	top := NewTopology(Peer{Name: a, UID: 1}, seeded(1))
	top.SetConnection(Connection{Peer: b}) // not established: claimed is enough
	top.Merge([]Peer{
		{Name: b, UID: 2, Version: 1, Connections: both(c)},
		{Name: d, UID: 4, Version: 1, Connections: both(e, a)}, // claims us, but nobody leads there
	}, start)
	keepE := func(n frame.PeerName) bool { return n == e }
	gone, changed := top.Collect(keepE)
	if !slices.Equal(gone, []frame.PeerName{d}) || changed {
		t.Errorf("Collect = %v, %v; want d alone", gone, changed)
	}
	if gone, _ := top.Collect(nil); !slices.Equal(gone, []frame.PeerName{e}) {
		t.Errorf("Collect = %v, want e", gone)
	}
	top.RemoveConnection(b)
	if gone, _ := top.Collect(nil); !slices.Equal(gone, []frame.PeerName{b, c}) {
		t.Errorf("Collect = %v, want b and c", gone)
	}
	if top.Len() != 1 || top.links != 0 {
		t.Errorf("%d peers with %d connections are left, want ourselves", top.Len(), top.links)
	}
	checkInvariants(t, top)
}

func TestShortIDIsPickedAtRandom(t *testing.T) {
	ids := map[uint16]bool{}
	for seed := range uint64(20) {
		self := NewTopology(Peer{Name: peerName(1)}, seeded(seed)).Self()
		if !self.HasShortID || self.ShortID >= ShortIDs {
			t.Fatalf("self = %+v, want a short ID", self)
		}
		ids[self.ShortID] = true
	}
	if len(ids) < 15 {
		t.Errorf("20 starts picked %d different short IDs", len(ids))
	}
	given := NewTopology(Peer{Name: peerName(1), ShortID: 77, HasShortID: true}, nil).Self()
	if given.ShortID != 77 {
		t.Errorf("short ID = %d, want the given 77", given.ShortID)
	}
}

// TestShortIDsRunOut: with none free our entry has none until a collection frees
// one; each change raises the version.
func TestShortIDsRunOut(t *testing.T) {
	self := peerName(0xffff)
	top := NewTopology(Peer{Name: self, UID: 1, ShortID: 0, HasShortID: true}, seeded(1))
	for id := uint16(1); id < ShortIDs; id++ {
		top.Introduce(Peer{Name: peerName(int(id)), UID: 1, ShortID: id, HasShortID: true})
	}
	if got := top.Self(); got.ShortID != 0 || got.Version != 0 {
		t.Fatalf("self = %+v, want short ID 0 still", got)
	}
	in := top.Introduce(Peer{Name: peerName(5000), UID: 1, ShortID: 0, HasShortID: true})
	if got := top.Self(); !in.SelfChanged || got.HasShortID || got.Version != 1 {
		t.Fatalf("after the last one was taken: %+v, self %+v; want none, version 1", in, got)
	}
	keep := func(n frame.PeerName) bool { return n != peerName(321) }
	gone, changed := top.Collect(keep)
	if got := top.Self(); len(gone) != 1 || !changed || !got.HasShortID || got.ShortID != 321 || got.Version != 2 {
		t.Errorf("after 321 became free: gone %v, changed %v, self %+v", gone, changed, got)
	}
}

// checkInvariants checks what holds of every topology at any time.
func checkInvariants(t *testing.T, top *Topology) {
	t.Helper()
	links := 0
	for p := range top.All() {
		links += len(p.Connections)
		if !p.Name.Valid() || len(p.NickName) > MaxNickName || len(p.Connections) > MaxConnections {
			t.Fatalf("entry out of bounds: %+v", p)
		}
		if p.HasShortID && p.ShortID >= ShortIDs {
			t.Fatalf("%v has short ID %d", p.Name, p.ShortID)
		}
		names := ends(p)
		if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) || slices.Contains(names, p.Name) {
			t.Fatalf("%v has connections to %v", p.Name, names)
		}
	}
	if links != top.links || links > MaxLinks {
		t.Fatalf("%d connections are counted as %d", links, top.links)
	}
	if p, ok := top.Peer(top.Self().Name); !ok || p.Version != top.Self().Version {
		t.Fatal("our own entry is not among the peers")
	}
	table := top.Unicast(false)
	for dest, via := range top.Unicast(true) {
		if _, ok := table[dest]; !ok {
			t.Fatalf("%v is reached strictly, over %v, but not otherwise", dest, via)
		}
	}
	for _, strict := range []bool{false, true} {
		table := top.Unicast(strict)
		for p := range top.All() {
			want, reached := table[p.Name]
			if got, ok := top.NextHop(p.Name, strict); got != want || ok != reached {
				t.Fatalf("NextHop(%v, %v) = %v, %v; Unicast has %v, %v", p.Name, strict, got, ok, want, reached)
			}
		}
	}
	if got, ok := top.NextHop(0, true); ok {
		t.Fatalf("NextHop of nobody = %v", got)
	}
}
