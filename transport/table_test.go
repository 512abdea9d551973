package transport

import (
	"testing"

	"meshd/internal/frame"
)

// tablePath is a path that notes that it has to end.
type tablePath struct{ evicted bool }

func (p *tablePath) Evict() { p.evicted = true }

func TestTable(t *testing.T) {
	var table Table[uint32, *tablePath]
	if table.Find(7) != nil || len(table.All()) != 0 {
		t.Error("an empty table has paths")
	}
	const peer, other = frame.PeerName(1), frame.PeerName(2)
	elsewhere := &tablePath{}
	index := map[*tablePath]uint32{elsewhere: table.Add(other, elsewhere)}
	var paths []*tablePath
	for range MaxIncarnations + 1 {
		p := &tablePath{}
		paths = append(paths, p)
		index[p] = table.Add(peer, p)
	}
	for i, p := range paths {
		if p.evicted != (i == 0) {
			t.Errorf("path %d of %d: evicted = %v", i, len(paths), p.evicted)
		}
	}
	if elsewhere.evicted {
		t.Error("another neighbour's path was evicted")
	}
	for p, i := range index {
		if i == 0 || table.Find(i) != p {
			t.Errorf("Find(%d) = %p, want %p", i, table.Find(i), p)
		}
	}
	if got := len(table.All()); got != len(index) {
		t.Errorf("All has %d paths, want %d", got, len(index))
	}
	for p, i := range index {
		table.Remove(i)
		if table.Find(i) != nil {
			t.Errorf("path %p is found after it was removed", p)
		}
	}
	if len(table.All()) != 0 || len(table.order) != 0 {
		t.Error("an empty table has paths")
	}
}

func TestTableFindDoesNotAllocate(t *testing.T) {
	var table Table[uint64, *tablePath]
	p := &tablePath{}
	index := table.Add(1, p)
	if n := testing.AllocsPerRun(100, func() {
		if table.Find(index) != p {
			t.Error("the path is not found")
		}
	}); n != 0 {
		t.Errorf("Find allocates %v times", n)
	}
}
