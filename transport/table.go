package transport

import (
	"crypto/rand"
	"encoding/binary"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"meshd/internal/frame"
)

// MaxIncarnations is how many paths of one transport to one neighbour may run at a
// time: the one in use, the one that takes over, and those of two connections of which
// one is about to lose (weave protocol, section 1.9).
const MaxIncarnations = 4

// Table has the paths of a transport that run, by the index that the neighbour names
// them by: in each datagram, or once for a connection. Its methods may be called
// concurrently; Find takes no lock and does not allocate. The zero value is empty.
type Table[I uint32 | uint64, P interface{ Evict() }] struct {
	mu    sync.Mutex              // guards changes of paths, and order
	paths atomic.Pointer[map[I]P] // never changed, only replaced; nil: empty
	order []tableEntry[I, P]      // newest first
}

type tableEntry[I, P any] struct {
	peer  frame.PeerName
	index I
	path  P
}

// Add enters a path under an index of its own, which is random and not 0. Of too many to
// one neighbour the oldest is evicted.
func (t *Table[I, P]) Add(peer frame.PeerName, path P) (index I) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(t.load())
	if next == nil {
		next = map[I]P{}
	}
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails
		index = I(binary.BigEndian.Uint64(b[:]))
		if _, taken := next[index]; index != 0 && !taken {
			break
		}
	}
	next[index] = path
	t.paths.Store(&next)
	t.order = slices.Insert(t.order, 0, tableEntry[I, P]{peer, index, path})
	same := 0
	for _, e := range t.order {
		if e.peer == peer {
			if same++; same > MaxIncarnations {
				e.path.Evict()
			}
		}
	}
	return index
}

// Remove takes a path out, so that it is found no more.
func (t *Table[I, P]) Remove(index I) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(t.load())
	delete(next, index)
	t.paths.Store(&next)
	t.order = slices.DeleteFunc(t.order, func(e tableEntry[I, P]) bool { return e.index == index })
}

// Find is the path with an index; P's zero value: there is none.
func (t *Table[I, P]) Find(index I) P { return t.load()[index] }

// All lists the paths in no order.
func (t *Table[I, P]) All() []P { return slices.Collect(maps.Values(t.load())) }

func (t *Table[I, P]) load() map[I]P {
	if paths := t.paths.Load(); paths != nil {
		return *paths
	}
	return nil
}
