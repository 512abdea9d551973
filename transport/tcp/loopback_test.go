package tcp

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// The same over the kernel's TCP, on loopback.

// realPort is a control port of the kernel's.
type realPort struct {
	*net.TCPListener
	take func(context.Context, net.Conn)
}

func newRealPort(t *testing.T) *realPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &realPort{TCPListener: l.(*net.TCPListener)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				c.Write([]byte("weave\x01\x02"))
				var h [headerLen]byte
				if _, err := io.ReadFull(c, h[:]); err != nil || h != header {
					c.Close()
					return
				}
				p.take(ctx, c)
			})
		}
	})
	return p
}

func (p *realPort) Handle(_ [headerLen]byte, take func(context.Context, net.Conn)) { p.take = take }

func (p *realPort) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", to.String())
}

func (p *realPort) addr() netip.AddrPort { return p.Addr().(*net.TCPAddr).AddrPort() }

// end is a path over a real port.
type end struct {
	port  *realPort
	path  *path
	count transport.Counters

	mu    sync.Mutex // guards below
	state transport.State
	got   [][]byte
}

func newEnd(t *testing.T) *end {
	t.Helper()
	return &end{port: newRealPort(t)}
}

// run runs the end's path to another one until the test ends.
func (e *end) run(t *testing.T, name, neighbour frame.PeerName, dialled bool, to netip.AddrPort, say func(msg []byte)) {
	t.Helper()
	tr, err := New(Config{Port: e.port, Local: name, MTU: 1400, Deliver: e.deliver})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tr.Open(transport.Session{
		Local: transport.Peer{Name: name, UID: 1}, Remote: transport.Peer{Name: neighbour, UID: 1}, Dialled: dialled,
		RemoteAddr: to, Secret: &secret, Counters: &e.count, Done: make(chan struct{}),
		SendControl: func(_ byte, msg []byte) error { say(bytes.Clone(msg)); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	e.path = p.(*path)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	go func() {
		ended <- p.Run(ctx, func(s transport.State) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.state = s
		})
	}()
}

func (e *end) deliver(batch []frame.Packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range batch {
		e.got = append(e.got, transporttest.Segments(batch[i].Frame)...)
	}
}

func (e *end) up() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state.Up
}

func (e *end) frames() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.got)
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// All that the queue takes arrives, in order.
func TestOverLoopback(t *testing.T) {
	a, b := newEnd(t), newEnd(t)
	hellos := [2]chan []byte{make(chan []byte, 1), make(chan []byte, 1)}
	b.run(t, nameB, nameA, false, netip.AddrPortFrom(a.port.addr().Addr(), 40000), func(msg []byte) { hellos[1] <- msg })
	a.run(t, nameA, nameB, true, b.port.addr(), func(msg []byte) { hellos[0] <- msg })
	b.path.HandleControl(tagHello, <-hellos[0])
	a.path.HandleControl(tagHello, <-hellos[1])
	soon(t, "both are up", func() bool { return a.up() && b.up() })

	const rounds = 300
	var want [][]byte
	for i := range uint64(rounds) {
		for _, f := range []frame.Frame{transporttest.TCP(i, 50000, 1300, i%2 == 0), {Data: transporttest.Frame(i, 700)}} {
			want = append(want, transporttest.Segments(f)...)
			for range 1000 { // until there is room: Send never waits
				before := a.count.Tx.Stats().Drops["queue-full"]
				if err := a.path.Send(frame.Packet{Src: nameA, Dst: nameB, Frame: f}); err != nil {
					t.Fatal(err)
				}
				_ = a.path.Flush()
				if a.count.Tx.Stats().Drops["queue-full"] == before {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
	soon(t, "all frames arrive", func() bool { return b.frames() >= len(want) })
	for i := range want {
		if !bytes.Equal(b.got[i], want[i]) {
			t.Fatalf("frame %d of %d has changed", i, len(want))
		}
	}
	soon(t, "they are counted", func() bool {
		return a.count.Tx.Stats().Frames == uint64(len(want)) && a.count.Tx.Stats().Bytes == b.count.Rx.Stats().Bytes
	})
}

// A neighbour that stops to read holds up nobody: Send goes on, drops are counted,
// and there is no more memory than that of the queue.
func TestNeighbourOnLoopbackDoesNotRead(t *testing.T) {
	e := newEnd(t)
	hellos := make(chan []byte, 1)
	e.run(t, nameB, nameA, false, netip.AddrPortFrom(e.port.addr().Addr(), 40000), func(msg []byte) { hellos <- msg })
	ours, theirs := hello{index: 1, mtu: 1400, can: canAES}.append(nil), <-hellos
	e.path.HandleControl(tagHello, ours)
	key, err := pathKey(&secret, ours, theirs)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", e.port.addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	h, err := parseHello(theirs)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := offer(c, key, h.index)
	if err != nil {
		t.Fatal(err)
	}
	n := newNeighbour(t, c, keys.fromDialler, keys.fromAcceptor)
	n.say(t, encap.AppendNativeProbe(nil, encap.NativeQuestion{}))
	soon(t, "the path is up", e.up)
	if _, err := n.read(); err != nil {
		t.Fatal(err)
	}

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	f := transporttest.TCP(1, 60000, 1300, false)
	const rounds = 4000 // 240 MB
	start := time.Now()
	for range rounds {
		_ = e.path.Send(frame.Packet{Src: nameB, Dst: nameA, Frame: f})
		_ = e.path.Flush()
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("sending took %v: it waited", took)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2*queueSize {
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if n := runtime.NumGoroutine(); n > goroutines+5 {
		t.Errorf("%d goroutines, were %d", n, goroutines)
	}
	if d := e.count.Tx.Stats().Drops["queue-full"]; d < rounds*46/2 {
		t.Errorf("%d frames were dropped as the queue is full, want most of %d", d, rounds*47)
	}
	// Its silence ends the connection, and that the memory.
	soon(t, "the connection is given up", func() bool { return !connected(e.path) })
	e.path.tx.mu.Lock()
	defer e.path.tx.mu.Unlock()
	if e.path.tx.queue.arena != nil {
		t.Error("the queue keeps its memory")
	}
}
