package sleeve

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// deadline is how long real sockets may take on a busy machine.
const deadline = 20 * time.Second

// loopNode is one end on real sockets.
type loopNode struct {
	tr     *Transport
	socket *ethernet
	path   transport.Path
	got    chan frame.Packet
	up     chan transport.State // the newest state; holds one

	discard atomic.Bool // what comes is only counted
	frames  atomic.Int64
	more    chan struct{} // the reader says that frames has grown; holds one
}

// ethernet is a socket on the loopback device that believes in an MTU, and counts
// the runs that it reads.
type ethernet struct {
	*udp.Conn
	mtu  int // bytes; 0: the device's
	runs atomic.Int64
}

func (e *ethernet) PathMTU(dst netip.AddrPort) (int, error) {
	if e.mtu != 0 {
		return e.mtu, nil
	}
	return e.Conn.PathMTU(dst)
}

func (e *ethernet) ReadBatch(ms []udp.Message) (int, error) {
	n, err := e.Conn.ReadBatch(ms)
	for _, m := range ms[:n] {
		if m.Segment > 0 {
			e.runs.Add(1)
		}
	}
	return n, err
}

// newLoop connects two transports over the loopback device, over an MTU of that
// many bytes; 0: the device's.
func newLoop(t testing.TB, host string, key *[32]byte, o udp.Offload, mtu int) (a, b *loopNode) {
	t.Helper()
	nodes := [2]*loopNode{}
	for i, name := range []frame.PeerName{host1, host2} {
		n := &loopNode{got: make(chan frame.Packet, 1<<16), up: make(chan transport.State, 1), more: make(chan struct{}, 1)}
		c, err := udp.Listen(netip.AddrPortFrom(netip.MustParseAddr(host), 0), o)
		if err != nil {
			t.Skipf("no socket on %s: %v", host, err)
		}
		n.socket = &ethernet{Conn: c, mtu: mtu}
		n.tr, err = New(Config{Sockets: []PacketConn{n.socket}, Local: name, Deliver: n.take})
		if err != nil {
			t.Fatal(err)
		}
		nodes[i] = n
	}
	a, b = nodes[0], nodes[1]
	addr := func(n *loopNode) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(host), n.tr.Port()) }
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i, n := range nodes {
		other := nodes[1-i]
		s := session([]frame.PeerName{host1, host2}[i], key, i == 0)
		s.Native, s.RemoteAddr = true, addr(other)
		s.SendControl = func(tag byte, msg []byte) error {
			other.path.HandleControl(tag, bytes.Clone(msg))
			return nil
		}
		p, err := n.tr.Open(s)
		if err != nil {
			t.Fatal(err)
		}
		n.path = p
	}
	for _, n := range nodes {
		wg.Go(func() {
			if err := n.tr.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { _ = n.path.Run(ctx, n.report) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return a, b
}

func (n *loopNode) take(batch []frame.Packet) {
	n.frames.Add(int64(len(batch)))
	if n.discard.Load() {
		select {
		case n.more <- struct{}{}:
		default: // it will look anyway
		}
		return
	}
	for _, p := range batch {
		p.Frame.Data = bytes.Clone(p.Frame.Data)
		n.got <- p
	}
}

func (n *loopNode) report(s transport.State) {
	select {
	case <-n.up:
	default:
	}
	n.up <- s
}

// await waits for a state.
func (n *loopNode) await(t testing.TB, what string, ok func(transport.State) bool) {
	t.Helper()
	over := time.After(deadline)
	for {
		select {
		case s := <-n.up:
			if ok(s) {
				return
			}
		case <-over:
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

func TestLoopback(t *testing.T) {
	for _, tt := range []struct {
		host     string
		key      *[32]byte
		overhead int
	}{{"127.0.0.1", nil, 62}, {"127.0.0.1", &[32]byte{1}, 86}, {"::1", nil, 82}, {"::1", &[32]byte{1}, 106}} {
		t.Run(fmt.Sprintf("%s/sealed %v", tt.host, tt.key != nil), func(t *testing.T) {
			a, b := newLoop(t, tt.host, tt.key, udp.Offload{}, 0)
			for _, n := range []*loopNode{a, b} {
				n.await(t, "up with the MTU of the loopback device", func(s transport.State) bool {
					return s.Up && s.MTU == 65535-tt.overhead && s.RTT > 0
				})
			}
			want := 0
			for _, size := range []int{60, 1400, 9000, 40000, 65535 - tt.overhead} {
				for i := range uint64(20) {
					want++
					pk := toHost2(transporttest.IPv4Frame(i, size, i%2 == 0))
					if err := a.path.Send(pk); err != nil {
						t.Fatal(err)
					}
					if err := a.path.Flush(); err != nil {
						t.Fatal(err)
					}
					select {
					case got := <-b.got:
						if got.Src != pk.Src || got.Dst != pk.Dst || !bytes.Equal(got.Frame.Data, pk.Frame.Data) {
							t.Fatalf("frame of %d bytes came as %d bytes", len(pk.Frame.Data), len(got.Frame.Data))
						}
					case <-time.After(deadline):
						t.Fatalf("a frame with an IP packet of %d bytes did not come", size)
					}
				}
			}
		})
	}
}

// Super-frames go through real sockets as runs, and come out as their segments.
func TestLoopbackOffload(t *testing.T) {
	for _, o := range []udp.Offload{{}, udp.Probe()} {
		for _, key := range []*[32]byte{nil, {1}} {
			t.Run(fmt.Sprintf("GSO %v, GRO %v, sealed %v", o.GSO, o.GRO, key != nil), func(t *testing.T) {
				a, b := newLoop(t, "127.0.0.1", key, o, 1500)
				for _, n := range []*loopNode{a, b} {
					n.await(t, "up with an MTU", func(s transport.State) bool { return s.Up && s.MTU > 1400 })
				}
				for i := range uint64(10) {
					for _, f := range []frame.Frame{
						transporttest.TCP(i, 65000, 1362, false), transporttest.TCP(i, 65000, 1300, true),
						transporttest.UDP(i, 30000, 1000, i%2 == 0), transporttest.TCP(i, 100, 0, false),
					} {
						b.takes(t, a, f)
					}
				}
				if runs := b.socket.runs.Load(); (runs > 0) != (o.GSO && o.GRO) {
					t.Errorf("%d runs were read", runs)
				}
			})
		}
	}
}

// takes sends a frame from the other end and waits for its segments.
func (n *loopNode) takes(t *testing.T, from *loopNode, f frame.Frame) {
	t.Helper()
	if err := from.path.Send(frame.Packet{Src: host1, Dst: host2, Frame: f}); err != nil {
		t.Fatal(err)
	}
	if err := from.path.Flush(); err != nil {
		t.Fatal(err)
	}
	over := time.After(deadline)
	for i, want := range transporttest.Segments(f) {
		select {
		case got := <-n.got:
			if !bytes.Equal(got.Frame.Data, want) {
				t.Fatalf("segment %d came as %d bytes, want %d others", i, len(got.Frame.Data), len(want))
			}
		case <-over:
			t.Fatalf("segment %d of %d bytes did not come", i, len(want))
		}
	}
}

func TestListen(t *testing.T) {
	tr, err := New(Config{Listen: ":0", Local: host1, Deliver: ignore})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	port := tr.Port()
	if port == 0 || !tr.conns[0].LocalAddr().Addr().Is4() {
		t.Errorf("listens on %v, want an IPv4 port", tr.conns[0].LocalAddr())
	}
	for _, c := range tr.conns {
		if c.LocalAddr().Port() != port {
			t.Errorf("listens on %v, want port %d", c.LocalAddr(), port)
		}
	}
	if again, err := New(Config{Listen: fmt.Sprintf(":%d", port), Local: host1, Deliver: ignore}); err == nil {
		again.Close()
		t.Error("a second transport opened the same port")
	}
	if tr.conn(netip.MustParseAddrPort("192.0.2.1:1")) != tr.conns[0] {
		t.Error("an IPv4 address does not go through the IPv4 socket")
	}
	if err := tr.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := tr.Close(); err != nil {
		t.Errorf("Close again = %v", err)
	}
}

// BenchmarkLoopback sends super-frames through real sockets, of which at most
// window are under way.
func BenchmarkLoopback(b *testing.B) {
	const window = 8
	for _, bm := range []struct {
		name string
		key  *[32]byte
		o    udp.Offload
	}{
		{"plain, no offload", nil, udp.Offload{}}, {"plain", nil, udp.Probe()},
		{"sealed, no offload", &[32]byte{1}, udp.Offload{}}, {"sealed", &[32]byte{1}, udp.Probe()},
	} {
		b.Run(bm.name, func(b *testing.B) {
			from, to := newLoop(b, "127.0.0.1", bm.key, bm.o, 1500)
			to.discard.Store(true)
			from.await(b, "up with an MTU", func(s transport.State) bool { return s.Up && s.MTU > 1400 })
			pk := frame.Packet{Src: host1, Dst: host2, Frame: transporttest.TCP(1, 65000, 1362, false)}
			segments := int64(len(transporttest.Segments(pk.Frame)))
			sent := to.frames.Load()
			lost := time.NewTimer(time.Minute)
			defer lost.Stop()
			b.SetBytes(int64(len(pk.Frame.Data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := from.path.Send(pk); err != nil {
					b.Fatal(err)
				}
				_ = from.path.Flush()
				sent += segments
				for to.frames.Load() < sent-window*segments {
					select {
					case <-to.more:
					case <-lost.C:
						b.Fatalf("%d segments did not come", sent-to.frames.Load())
					}
				}
			}
		})
	}
}
