package routing

import (
	"iter"
	"sync/atomic"

	"meshd/internal/frame"
	"meshd/transport"
)

// FIB is what the forwarder looks up: over which neighbour each peer is reached
// and to whom flooded frames are passed. It is a snapshot of a topology and does
// not change, so any number of goroutines may use it; only the next hops of
// floods are worked out when a source is first asked for.
type FIB struct {
	graph      *graph
	neighbours []neighbour
	slots      []int32                   // by peer: its place in neighbours, noSlot for others
	unicast    []int32                   // by peer: place of the neighbour that leads to it
	floods     []atomic.Pointer[[]int32] // by source: places of the next hops
}

type neighbour struct {
	name   frame.PeerName
	sender transport.Sender
}

// noSlot stands for no neighbour.
const noSlot = -1

// NewFIB takes a snapshot of t. senders has the way to each neighbour; one that
// is missing there gets no frames.
func NewFIB(t *Topology, senders map[frame.PeerName]transport.Sender) *FIB {
	g := t.graph()
	f := &FIB{
		graph:   g,
		slots:   make([]int32, len(g.names)),
		unicast: make([]int32, len(g.names)),
		floods:  make([]atomic.Pointer[[]int32], len(g.names)),
	}
	for i, name := range g.names {
		f.slots[i] = noSlot
		if s := senders[name]; s != nil && int32(i) != g.self {
			f.slots[i] = int32(len(f.neighbours))
			f.neighbours = append(f.neighbours, neighbour{name, s})
		}
	}
	for i, hop := range g.hop {
		f.unicast[i] = noSlot
		if hop != unreached && int32(i) != g.self {
			f.unicast[i] = f.slots[hop]
		}
	}
	return f
}

// peer returns the number of a peer.
func (f *FIB) peer(name frame.PeerName) (int32, bool) {
	i, ok := f.graph.index[name]
	return i, ok
}

// flood returns the places of the neighbours that get what source flooded. The
// result is not to be modified.
func (f *FIB) flood(source int32) []int32 {
	if to := f.floods[source].Load(); to != nil {
		return *to
	}
	// Two goroutines may both get here; they store the same.
	to := []int32{}
	for _, q := range f.graph.flood(source, f.graph.strict) {
		if s := f.slots[q]; s != noSlot {
			to = append(to, s)
		}
	}
	f.floods[source].Store(&to)
	return to
}

// NextHop returns the neighbour that leads to a peer and the way to that
// neighbour; zero and nil where there is none.
func (f *FIB) NextHop(to frame.PeerName) (via frame.PeerName, way transport.Sender) {
	if i, ok := f.peer(to); ok && f.unicast[i] != noSlot {
		n := &f.neighbours[f.unicast[i]]
		return n.name, n.sender
	}
	return 0, nil
}

// Unicast walks over the peers that frames can be sent to, in the order of their
// names, and the neighbour that leads there: zero for ourselves.
func (f *FIB) Unicast() iter.Seq2[frame.PeerName, frame.PeerName] {
	return func(yield func(dest, via frame.PeerName) bool) {
		for i, name := range f.graph.names {
			via := frame.PeerName(0)
			if s := f.unicast[i]; s != noSlot {
				via = f.neighbours[s].name
			} else if int32(i) != f.graph.self {
				continue
			}
			if !yield(name, via) {
				return
			}
		}
	}
}

// Broadcast walks over all known peers in the order of their names, and the
// neighbours to whom we pass what they flood.
func (f *FIB) Broadcast() iter.Seq2[frame.PeerName, []frame.PeerName] {
	return func(yield func(source frame.PeerName, via []frame.PeerName) bool) {
		for i, name := range f.graph.names {
			var via []frame.PeerName
			for _, s := range f.flood(int32(i)) {
				via = append(via, f.neighbours[s].name)
			}
			if !yield(name, via) {
				return
			}
		}
	}
}
