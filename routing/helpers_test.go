package routing

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

// start is when the tests of tables begin.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// peerName returns the name of the n-th peer of a test, 02:00:00:00:xx:xx.
func peerName(n int) frame.PeerName { return 0x02_00_00_00_00_00 + frame.PeerName(n) }

// hostMAC returns the address of the host behind the n-th peer of a test.
func hostMAC(n int) frame.MAC { return frame.MAC{0x0a, 0, 0, 0, byte(n >> 8), byte(n)} }

func mustName(t testing.TB, s string) frame.PeerName {
	t.Helper()
	n, err := frame.ParsePeerName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// both lists established connections to the named peers.
func both(names ...frame.PeerName) []Connection {
	var conns []Connection
	for _, n := range names {
		conns = append(conns, Connection{Peer: n, RemoteAddr: "192.0.2.1:6783", Established: true})
	}
	return conns
}

// topologyOf returns what self knows when it heard all entries, its own among
// them.
func topologyOf(self frame.PeerName, entries []Peer) *Topology {
	i := slices.IndexFunc(entries, func(p Peer) bool { return p.Name == self })
	own := entries[i]
	t := NewTopology(Peer{Name: self, UID: own.UID}, seeded(uint64(self)))
	for _, c := range own.Connections {
		t.SetConnection(c)
	}
	t.Merge(entries, start)
	return t
}

// recorder is a Sender that keeps what it was given.
type recorder struct {
	mu      sync.Mutex
	packets []frame.Packet
	flushes int
	refuse  error // what Send returns where not nil
}

var _ transport.Sender = (*recorder)(nil)

func (r *recorder) Send(p frame.Packet) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return r.refuse
	}
	p.Frame.Data = slices.Clone(p.Frame.Data)
	r.packets = append(r.packets, p)
	return nil
}

func (r *recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flushes++
	return nil
}

// take returns what came since the last time and how often it was flushed.
func (r *recorder) take() (packets []frame.Packet, flushes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	packets, flushes = r.packets, r.flushes
	r.packets, r.flushes = nil, 0
	return packets, flushes
}

// memoryPort is a Port that keeps what was written.
type memoryPort struct {
	mu     sync.Mutex
	frames []frame.Frame
	writes int
	limit  int   // frames taken per write where not zero
	err    error // what Write returns
}

var _ Port = (*memoryPort)(nil)

func (p *memoryPort) Write(frames []frame.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	if p.limit > 0 {
		frames = frames[:min(p.limit, len(frames))]
	}
	for _, f := range frames {
		f.Data = slices.Clone(f.Data)
		p.frames = append(p.frames, f)
	}
	return len(frames), p.err
}

// take returns what was written since the last time and in how many calls.
func (p *memoryPort) take() (frames []frame.Frame, writes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	frames, writes = p.frames, p.writes
	p.frames, p.writes = nil, 0
	return frames, writes
}

// ethernet builds a frame.
func ethernet(dst, src frame.MAC, etherType uint16, payload ...byte) frame.Frame {
	data := slices.Concat(dst[:], src[:], []byte{byte(etherType >> 8), byte(etherType)}, payload)
	return frame.Frame{Data: data}
}

var broadcastMAC = frame.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
