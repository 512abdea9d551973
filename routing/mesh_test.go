package routing

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

// world is a mesh of real forwarders in memory. Links are perfect but slow:
// packets wait in a queue until a test delivers them, in any order it likes.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	nodes map[frame.PeerName]*node
	names []frame.PeerName
	wire  []inFlight
}

// node is one host: its bridge is a port in memory with one host behind it.
type node struct {
	*Forwarder
	port *memoryPort
	macs *MACTable
}

type inFlight struct {
	to   frame.PeerName
	p    frame.Packet
	hops int
}

// wireSender is one direction of a link.
type wireSender struct {
	w       *world
	to      frame.PeerName
	pending []inFlight
}

var _ transport.Sender = (*wireSender)(nil)

func (s *wireSender) Send(p frame.Packet) error {
	p.Frame.Data = slices.Clone(p.Frame.Data)
	s.pending = append(s.pending, inFlight{to: s.to, p: p})
	return nil
}

func (s *wireSender) Flush() error {
	if len(s.pending) == 0 {
		s.w.t.Errorf("a link to %v was flushed with nothing sent", s.to)
	}
	s.w.wire = append(s.w.wire, s.pending...)
	s.pending = s.pending[:0]
	return nil
}

func newWorld(t *testing.T, rng *rand.Rand, n int) *world {
	w := &world{t: t, rng: rng, nodes: map[frame.PeerName]*node{}}
	for i := range n {
		name := peerName(i + 1)
		nd := &node{port: &memoryPort{}, macs: NewMACTable(MACConfig{Self: name})}
		nd.Forwarder = NewForwarder(Config{Self: name, Port: nd.port, MACs: nd.macs, Now: func() time.Time { return start }})
		nd.macs.Learn(hostMAC(i+1), name, false, start)
		w.nodes[name], w.names = nd, append(w.names, name)
	}
	return w
}

// fib returns what a node's FIB is under a topology. Every pair that claims a
// connection has a link that works.
func (w *world) fib(name frame.PeerName, entries []Peer) *FIB {
	senders := map[frame.PeerName]transport.Sender{}
	for _, n := range w.names {
		senders[n] = &wireSender{w: w, to: n}
	}
	return NewFIB(topologyOf(name, entries), senders)
}

func (w *world) setFIBs(entries []Peer) {
	for _, n := range w.names {
		w.nodes[n].SetFIB(w.fib(n, entries))
	}
}

// deliver takes one packet from the wire, any one, to where it goes.
func (w *world) deliver() inFlight {
	i := w.rng.IntN(len(w.wire))
	f := w.wire[i]
	w.wire = slices.Delete(w.wire, i, i+1)
	was := len(w.wire)
	w.nodes[f.to].FromLinks([]frame.Packet{f.p})
	for j := was; j < len(w.wire); j++ {
		w.wire[j].hops = f.hops + 1
	}
	return f
}

// drain delivers until nothing is under way and fails after limit packets.
func (w *world) drain(limit int) {
	w.t.Helper()
	for n := 0; len(w.wire) > 0; n++ {
		if n > limit {
			w.t.Fatalf("%d packets are still under way after %d deliveries: they circulate", len(w.wire), limit)
		}
		w.deliver()
	}
}

// randomMesh returns entries of n peers with random connections, some listed by
// one end only, some not established by one end.
func randomMesh(rng *rand.Rand, n int) []Peer {
	entries := make([]Peer, n)
	for i := range entries {
		entries[i] = Peer{Name: peerName(i + 1), UID: uint64(i + 1), Version: 1}
	}
	density := 0.1 + 0.8*rng.Float64()
	for i := range n {
		for j := range i {
			if rng.Float64() > density {
				continue
			}
			for _, end := range [][2]int{{i, j}, {j, i}} {
				if rng.IntN(12) > 0 {
					c := Connection{Peer: peerName(end[1] + 1), Established: rng.IntN(8) > 0}
					entries[end[0]].Connections = append(entries[end[0]].Connections, c)
				}
			}
		}
	}
	return entries
}

// distances returns how many strict hops each peer is away from one, by a search
// that knows nothing of the package's own.
func distances(entries []Peer, from frame.PeerName) map[frame.PeerName]int {
	usable := func(p, q frame.PeerName) bool {
		for _, e := range entries {
			if e.Name == p {
				i := slices.IndexFunc(e.Connections, func(c Connection) bool { return c.Peer == q })
				return i >= 0 && e.Connections[i].Established
			}
		}
		return false
	}
	d := map[frame.PeerName]int{from: 0}
	for grown := true; grown; {
		grown = false
		for _, p := range entries {
			for _, q := range entries {
				at, ok := d[p.Name]
				if was, known := d[q.Name]; ok && (!known || was > at+1) && usable(p.Name, q.Name) && usable(q.Name, p.Name) {
					d[q.Name], grown = at+1, true
				}
			}
		}
	}
	return d
}

const randomMeshes = 60

// TestBroadcastReachesEachOnce: on any topology, a flooded frame gets to each
// peer that can be reached exactly once, to no other, and to the sender never.
func TestBroadcastReachesEachOnce(t *testing.T) {
	for seed := range uint64(randomMeshes) {
		rng := seeded(seed)
		n := 2 + rng.IntN(12)
		w, entries := newWorld(t, rng, n), randomMesh(rng, n)
		w.setFIBs(entries)
		for i, source := range w.names {
			w.nodes[source].FromPort([]frame.Frame{text(broadcastMAC, hostMAC(i+1), "hello")})
			w.drain(n * n)
			reached := distances(entries, source)
			for _, name := range w.names {
				want := 0
				if _, ok := reached[name]; ok && name != source {
					want = 1
				}
				if got, _ := w.nodes[name].port.take(); len(got) != want {
					t.Errorf("seed %d: %v got %d copies of what %v flooded, want %d", seed, name, len(got), source, want)
				}
			}
		}
		for _, name := range w.names {
			wantDrops(t, w.nodes[name].Forwarder, nil)
		}
	}
}

// TestUnicastTakesShortestPath: on any topology, a frame for one host gets there
// over as few hops as there can be, and to nobody else's bridge.
func TestUnicastTakesShortestPath(t *testing.T) {
	for seed := range uint64(randomMeshes) {
		rng := seeded(seed)
		n := 2 + rng.IntN(12)
		w, entries := newWorld(t, rng, n), randomMesh(rng, n)
		w.setFIBs(entries)
		for i, source := range w.names {
			away := distances(entries, source)
			for j, dest := range w.names {
				if i == j {
					continue
				}
				w.nodes[source].macs.Learn(hostMAC(j+1), dest, false, start)
				w.nodes[source].FromPort([]frame.Frame{text(hostMAC(j+1), hostMAC(i+1), "hello")})
				hops := 0
				for len(w.wire) > 0 {
					if hops++; hops > n {
						t.Fatalf("seed %d: from %v to %v the frame circulates", seed, source, dest)
					}
					w.deliver()
				}
				want, reached := away[dest]
				got, _ := w.nodes[dest].port.take()
				if hops != want || reached != (len(got) == 1) {
					t.Errorf("seed %d: from %v to %v: %d hops, %d copies; want %d hops", seed, source, dest, hops, len(got), want)
				}
			}
		}
	}
}

// change adds, removes and breaks connections of a mesh.
func change(rng *rand.Rand, entries []Peer) []Peer {
	next := randomMesh(rng, len(entries))
	for i := range next {
		next[i].Version = entries[i].Version + 1
		if rng.IntN(2) == 0 {
			next[i].Connections = entries[i].Connections
		}
	}
	return next
}

// TestNothingCirculatesAfterChange: while routers take up new routes one by one,
// frames may take odd ways; once all have them, whatever is under way ends after
// at most one more trip through the mesh, and floods are exact again.
func TestNothingCirculatesAfterChange(t *testing.T) {
	odd := 0
	for seed := range uint64(randomMeshes) {
		rng := seeded(seed)
		n := 3 + rng.IntN(8)
		w, entries := newWorld(t, rng, n), randomMesh(rng, n)
		w.setFIBs(entries)
		for range 3 {
			next := change(rng, entries)
			late := slices.Clone(w.names)
			for len(late) > 0 {
				w.disturb(8)
				i := rng.IntN(len(late))
				w.nodes[late[i]].SetFIB(w.fib(late[i], next))
				late = slices.Delete(late, i, i+1)
			}
			for _, f := range w.wire {
				if f.hops > n {
					odd++
				}
			}
			// Each packet under way reaches each peer at most once from here on.
			w.drain(len(w.wire) * n)
			entries = next
			for _, name := range w.names {
				w.nodes[name].port.take()
			}
		}
		w.nodes[w.names[0]].FromPort([]frame.Frame{text(broadcastMAC, hostMAC(1), "after")})
		w.drain(n * n)
		reached := distances(entries, w.names[0])
		for _, name := range w.names[1:] {
			_, want := reached[name]
			if got, _ := w.nodes[name].port.take(); len(got) > 1 || (len(got) == 1) != want {
				t.Errorf("seed %d: %v got %d copies after the change, reachable: %v", seed, name, len(got), want)
			}
		}
	}
	if odd == 0 {
		t.Error("no packet circulated during any change: the test shows nothing")
	}
}

// disturb has hosts send frames and delivers some of what is under way.
func (w *world) disturb(n int) {
	for range n {
		i, j := w.rng.IntN(len(w.names)), w.rng.IntN(len(w.names))
		dst := hostMAC(j + 1)
		if w.rng.IntN(3) == 0 {
			dst = broadcastMAC
		}
		w.nodes[w.names[i]].FromPort([]frame.Frame{text(dst, hostMAC(i+1), "during")})
		for range w.rng.IntN(12) {
			if len(w.wire) > 0 {
				w.deliver()
			}
		}
	}
}
