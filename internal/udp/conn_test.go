package udp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

var loopbacks = map[string]netip.Addr{
	"IPv4": netip.AddrFrom4([4]byte{127, 0, 0, 1}),
	"IPv6": netip.IPv6Loopback(),
}

// eachFamily runs f for the families that this machine's loopback has.
func eachFamily(t *testing.T, f func(t *testing.T, ip netip.Addr)) {
	for name, ip := range loopbacks {
		t.Run(name, func(t *testing.T) {
			c, err := Listen(netip.AddrPortFrom(ip, 0), Offload{})
			if errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Skipf("%s is not an address of this machine", ip)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			f(t, ip)
		})
	}
}

// offloads are the two ways of moving datagrams; a kernel that has no offload
// takes the first twice.
var offloads = map[string]Offload{"single": {}, "runs": {GSO: true, GRO: true}}

// eachWay runs f for the families, without and with offloads.
func eachWay(t *testing.T, f func(t *testing.T, ip netip.Addr, o Offload)) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		for name, o := range offloads {
			t.Run(name, func(t *testing.T) { f(t, ip, o) })
		}
	})
}

func listenOn(t testing.TB, ip netip.Addr) *Conn {
	t.Helper()
	return listenWith(t, ip, Offload{})
}

func listenWith(t testing.TB, ip netip.Addr, o Offload) *Conn {
	t.Helper()
	c, err := Listen(netip.AddrPortFrom(ip, 0), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// message makes a datagram of n bytes that begins with i.
func message(i, n int, to netip.AddrPort) Message {
	b := bytes.Repeat([]byte{byte(i)}, n)
	return Message{Buf: b, N: n, Addr: to}
}

// buffers makes n messages to read into.
func buffers(n int) []Message {
	ms := make([]Message, n)
	for i := range ms {
		ms[i].Buf = make([]byte, 65536)
	}
	return ms
}

// split makes single messages of runs.
func split(ms []Message) (out []Message) {
	for _, m := range ms {
		b, size := m.Buf[:m.N], m.Segment
		if size == 0 {
			size = m.N
		}
		for {
			n := min(size, len(b))
			out = append(out, Message{Buf: b[:n], N: n, Addr: m.Addr})
			if b = b[n:]; len(b) == 0 {
				break
			}
		}
	}
	return out
}

// datagrams counts them, also those in runs.
func datagrams(ms []Message) (n int) {
	for _, m := range ms {
		if m.Segment == 0 {
			n++
		} else {
			n += (m.N + m.Segment - 1) / m.Segment
		}
	}
	return n
}

// arena makes n datagrams of size bytes that lie behind each other.
func arena(n, size int, to netip.AddrPort) (ms []Message) {
	b := make([]byte, n*size)
	for i := range n {
		ms = append(ms, Message{Buf: b[i*size : (i+1)*size], N: size, Addr: to})
	}
	return ms
}

// readAll reads until there are want datagrams. Closing the connection after
// some time turns one that is missing into an error.
func readAll(t *testing.T, c *Conn, want int) (got []Message) {
	t.Helper()
	watchdog := time.AfterFunc(10*time.Second, func() { c.Close() })
	defer watchdog.Stop()
	for len(got) < want {
		ms := buffers(min(want-len(got), MaxRead))
		n, err := c.ReadBatch(ms)
		if err != nil {
			t.Fatalf("ReadBatch after %d of %d datagrams: %v", len(got), want, err)
		}
		got = append(got, split(ms[:n])...)
	}
	if len(got) > want {
		t.Fatalf("%d datagrams, want %d", len(got), want)
	}
	return got
}

func TestSizes(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a, b := listenWith(t, ip, o), listenWith(t, ip, o)
		for _, df := range []bool{true, false} {
			for i, n := range []int{0, 1, 42, 1472, 9000, 60021} {
				m := message(i, n, b.LocalAddr())
				m.Buf = append(m.Buf, "not sent"...)
				if sent, err := a.WriteBatch([]Message{m}, df); sent != 1 || err != nil {
					t.Fatalf("WriteBatch(%d bytes, %v) = %d, %v", n, df, sent, err)
				}
				got := readAll(t, b, 1)[0]
				if got.Addr != a.LocalAddr() || !bytes.Equal(got.Buf[:got.N], m.Buf[:n]) {
					t.Errorf("%d bytes from %v, df %v, arrived as %d from %v", n, a.LocalAddr(), df, got.N, got.Addr)
				}
			}
		}
	})
}

func TestBatches(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a, b := listenWith(t, ip, o), listenWith(t, ip, o)
		for _, n := range []int{0, 1, MaxBatch - 1, MaxBatch, MaxBatch + 1, 3*MaxBatch + 5} {
			var ms []Message
			for i := range n {
				ms = append(ms, message(i, 100+i, b.LocalAddr()))
			}
			if sent, err := a.WriteBatch(ms, n%2 == 0); sent != n || err != nil {
				t.Fatalf("WriteBatch(%d messages) = %d, %v", n, sent, err)
			}
			for i, got := range readAll(t, b, n) {
				if got.N != 100+i || got.Buf[0] != byte(i) {
					t.Fatalf("datagram %d of %d has %d bytes of %d", i, n, got.N, got.Buf[0])
				}
			}
		}
	})
}

func TestReadBatchCuts(t *testing.T) {
	a, b := listenOn(t, loopbacks["IPv4"]), listenOn(t, loopbacks["IPv4"])
	if _, err := a.WriteBatch([]Message{message(7, 100, b.LocalAddr()), message(8, 5, b.LocalAddr())}, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{10, 5} {
		ms := []Message{{Buf: make([]byte, 10)}}
		if n, err := b.ReadBatch(ms); n != 1 || err != nil || ms[0].N != want {
			t.Errorf("ReadBatch = %d, %v, N %d; want 1, nil, %d", n, err, ms[0].N, want)
		}
	}
	if n, err := b.ReadBatch(nil); n != 0 || err != nil {
		t.Errorf("ReadBatch(nil) = %d, %v", n, err)
	}
}

func TestPortInUse(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		if c, err := Listen(a.LocalAddr(), Offload{}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen on our own port = %v, %v; want EADDRINUSE", c, err)
		}
		foreign, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
		if err != nil {
			t.Fatal(err)
		}
		defer foreign.Close()
		port := foreign.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		if c, err := Listen(netip.AddrPortFrom(ip, port), Offload{}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("Listen on a foreign port = %v, %v; want EADDRINUSE", c, err)
		}
	})
}

func TestPortIsFreeAfterClose(t *testing.T) {
	a := listenOn(t, loopbacks["IPv4"])
	addr := a.LocalAddr()
	for range 3 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if a, err = Listen(addr, Offload{}); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
}

func TestBothFamiliesOnOnePort(t *testing.T) {
	c4 := listenOn(t, netip.IPv4Unspecified())
	c6, err := Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), c4.LocalAddr().Port()), Offload{})
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skip("this machine has no IPv6")
	}
	if err != nil {
		t.Fatal(err)
	}
	c6.Close()
}

func TestWrongFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:9"), netip.MustParseAddrPort("[::1]:9")
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		wrong := v6
		if ip.Is6() {
			wrong = v4
		}
		ms := []Message{message(1, 10, a.LocalAddr()), message(2, 10, wrong), message(3, 10, a.LocalAddr())}
		if n, err := a.WriteBatch(ms, true); n != 1 || err == nil {
			t.Errorf("WriteBatch to %v = %d, %v; want 1 and an error", wrong, n, err)
		}
		if n, err := a.WriteBatch([]Message{message(1, 10, netip.AddrPort{})}, true); n != 0 || err == nil {
			t.Errorf("WriteBatch to no address = %d, %v; want an error", n, err)
		}
	})
}

func TestClose(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a := listenWith(t, ip, o)
		read := make(chan error)
		go func() {
			_, err := a.ReadBatch(buffers(1))
			read <- err
		}()
		if err := a.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch = %v, want %v", err, net.ErrClosed)
		}
		if _, err := a.ReadBatch(buffers(1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch after Close = %v, want %v", err, net.ErrClosed)
		}
		for _, df := range []bool{true, false} {
			n, err := a.WriteBatch([]Message{message(1, 1, a.LocalAddr())}, df)
			if n != 0 || !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteBatch after Close = %d, %v; want 0, %v", n, err, net.ErrClosed)
			}
		}
		if err := a.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second Close = %v, want %v", err, net.ErrClosed)
		}
	})
}

// TestUnreachable: what one destination refuses must not fail a send to another,
// nor a read.
func TestUnreachable(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a, b, gone := listenWith(t, ip, o), listenWith(t, ip, o), listenWith(t, ip, o)
		nobody := gone.LocalAddr()
		gone.Close()
		for _, df := range []bool{true, false} {
			for range 10 {
				ms := []Message{message(1, 10, nobody), message(2, 20, b.LocalAddr())}
				if n, err := a.WriteBatch(ms, df); n != 2 || err != nil {
					t.Fatalf("WriteBatch = %d, %v", n, err)
				}
			}
			for _, got := range readAll(t, b, 10) {
				if got.N != 20 {
					t.Errorf("%d bytes arrived, want 20", got.N)
				}
			}
			if _, err := b.WriteBatch([]Message{message(3, 30, a.LocalAddr())}, df); err != nil {
				t.Fatal(err)
			}
			if got := readAll(t, a, 1)[0].N; got != 30 {
				t.Errorf("%d bytes arrived, want 30", got)
			}
		}
	})
}

func TestConcurrentWriters(t *testing.T) {
	const writers, batches, size = 4, 20, 32
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a, b := listenWith(t, ip, o), listenWith(t, ip, o)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for range batches {
					var ms []Message
					for range size {
						ms = append(ms, message(w, 200+w, b.LocalAddr()))
					}
					if n, err := a.WriteBatch(ms, w%2 == 0); n != size || err != nil {
						t.Errorf("writer %d: WriteBatch = %d, %v", w, n, err)
					}
				}
			})
		}
		var count [writers]int
		for _, m := range readAll(t, b, writers*batches*size) {
			w := int(m.Buf[0])
			if m.N != 200+w || m.Buf[m.N-1] != byte(w) || m.Addr != a.LocalAddr() {
				t.Fatalf("%d bytes of writer %d from %v", m.N, w, m.Addr)
			}
			count[w]++
		}
		wg.Wait()
		for w, n := range count {
			if n != batches*size {
				t.Errorf("%d datagrams of writer %d arrived, want %d", n, w, batches*size)
			}
		}
	})
}

func TestAllocations(t *testing.T) {
	eachWay(t, func(t *testing.T, ip netip.Addr, o Offload) {
		a, b := listenWith(t, ip, o), listenWith(t, ip, o)
		out := append(arena(2*MaxBatch, 1400, b.LocalAddr()), message(1, 700, b.LocalAddr()), message(2, 700, b.LocalAddr()))
		in := buffers(MaxRead)
		watchdog := time.AfterFunc(time.Minute, func() { b.Close() }) // or a lost datagram would hang it
		defer watchdog.Stop()
		var df bool
		got := testing.AllocsPerRun(200, func() {
			df = !df
			if _, err := a.WriteBatch(out, df); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(out); {
				got, err := b.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				n += datagrams(in[:got])
			}
		})
		if got != 0 {
			t.Errorf("%v allocations for %d datagrams there and back, want 0", got, len(out))
		}
	})
}

// BenchmarkLoopback sends and reads one batch after the other.
func BenchmarkLoopback(b *testing.B) {
	for name, ip := range loopbacks {
		for offload, o := range offloads {
			for _, batch := range []int{1, 16, MaxBatch, 4 * MaxBatch} {
				b.Run(fmt.Sprintf("%s/%s/%d", name, offload, batch), func(b *testing.B) {
					from, to := listenWith(b, ip, o), listenWith(b, ip, o)
					out := arena(batch, 1400, to.LocalAddr())
					in := buffers(MaxRead)
					b.SetBytes(int64(batch * 1400))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := from.WriteBatch(out, true); err != nil {
							b.Fatal(err)
						}
						for n := 0; n < batch; {
							got, err := to.ReadBatch(in)
							if err != nil {
								b.Fatal(err)
							}
							n += datagrams(in[:got])
						}
					}
				})
			}
		}
	}
}
