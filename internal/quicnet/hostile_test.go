package quicnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"meshd/transport/transporttest"
)

// record keeps what is sent to an address.
func (w *world) record(to netip.AddrPort) func() [][]byte {
	var mu sync.Mutex
	var seen [][]byte
	w.net.Watch(func(d transporttest.Datagram) {
		mu.Lock()
		defer mu.Unlock()
		if d.To == to {
			seen = append(seen, bytes.Clone(d.Payload))
		}
	})
	return func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		got := seen
		seen = nil
		return got
	}
}

func (n *node) halfOpen() (half, all int) {
	n.admitted.mu.Lock()
	defer n.admitted.mu.Unlock()
	return n.admitted.halfOpen, n.admitted.all
}

// Initials from forged addresses take little, for a short time, and keep nobody
// out: who comes then has to show its address.
func TestFloodOfInitials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		attacker, victim, friend := w.node(t, certificate(t)), w.node(t, certificate(t)), w.node(t, certificate(t))
		old, held := connect(t, friend, victim)
		seen := w.record(victim.addr)
		w.net.SetLink(attacker.host, victim.host, transporttest.Link{Cut: true})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := attacker.transports[0].Dial(ctx, net.UDPAddrFromAddrPort(victim.addr), attacker.tls, quicConfig()); err == nil {
					t.Error("dialled over a cut link")
				}
			})
		}
		wg.Wait()
		initials := seen()
		if len(initials) < 1000 {
			t.Fatalf("%d Initials, want 1000 at least", len(initials))
		}
		for i, d := range initials {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}), 4000)
			w.net.Inject(from, victim.addr, d)
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		synctest.Wait()
		if half, _ := victim.halfOpen(); half < retryAbove || half > retryAbove+1 {
			t.Errorf("%d half-open connections under a flood, want %d", half, retryAbove)
		}
		answers := w.record(friend.addr)
		d, ac := connect(t, friend, victim)
		if !slices.ContainsFunc(answers(), func(d []byte) bool { return d[0]&0xf0 == 0xf0 }) {
			t.Error("no Retry (RFC 9000, section 17.2.5)")
		}
		echoes(t, d, ac, 10000)
		echoes(t, old, held, 10000)
		time.Sleep(3 * tlsWithin)
		if half, all := victim.halfOpen(); half != 0 || all != 2 {
			t.Errorf("%d half-open connections of %d after the flood, want 0 of 2", half, all)
		}
	})
}

func TestAdmission(t *testing.T) {
	a := newAdmission()
	var cancels []context.CancelFunc
	enter := func(ip string) error {
		ctx, cancel := context.WithCancel(context.Background())
		cancels = append(cancels, cancel)
		addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(1+len(cancels))))
		ctx, err := a.enter(ctx, &quic.ClientInfo{RemoteAddr: addr})
		if err == nil && len(cancels)%2 == 0 {
			ctx.Value(guestKey{}).(*guest).settle()
		}
		return err
	}
	for i := range maxPerSource + 1 {
		for _, ip := range []string{"10.0.0.1", "::ffff:10.0.0.2", fmt.Sprintf("2001:db8::%x", i+1)} {
			if err := enter(ip); (err != nil) != (i == maxPerSource) {
				t.Fatalf("connection %d of %s: %v", i+1, ip, err)
			}
		}
	}
	if err := enter("2001:db8:0:1::1"); err != nil {
		t.Errorf("another /64: %v", err)
	}
	for i := 0; a.halfOpen < maxHalfOpen; i++ {
		if err := enter(fmt.Sprintf("10.1.%d.%d", i>>8, i&255)); err != nil {
			t.Fatalf("with %d half-open ones: %v", a.halfOpen, err)
		}
	}
	if err := enter("10.2.0.1"); !errors.Is(err, errTooMany) {
		t.Errorf("with %d half-open ones: %v, want %v", maxHalfOpen, err, errTooMany)
	}
	if !a.unverified(nil) {
		t.Error("forged addresses are taken with many half-open ones")
	}
	for _, cancel := range cancels {
		cancel()
	}
	for end := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		a.mu.Lock()
		all, half, sources := a.all, a.halfOpen, len(a.sources)
		a.mu.Unlock()
		if all == 0 && half == 0 && sources == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("all have gone: %d, %d half-open, %d sources, want none", all, half, sources)
		}
	}
}

// A peer that does not read stops who writes to it, and nobody else.
func TestPeerStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, lazy, b := w.node(t, certificate(t)), w.node(t, certificate(t)), w.node(t, certificate(t))
		d, _ := connect(t, a, lazy)
		if err := d.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := d.Write(make([]byte, 64<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n > streamWindow+1<<20 {
			t.Errorf("Write = %d, %v; want a timeout after %d bytes at most", n, err, streamWindow)
		}
		good, ac := connect(t, a, b)
		echoes(t, good, ac, 1<<20)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = d.SetWriteDeadline(time.Time{})
			_, _ = d.Write(make([]byte, 1<<20))
		}()
		time.Sleep(time.Second)
		d.Close()
		select {
		case <-done:
		case <-time.After(time.Second):
			t.Error("Write still waits after Close")
		}
	})
}

// A peer that opens streams and says nothing on them has few of them, and not for
// long.
func TestSilentStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		d, ac := connect(t, a, b)
		opened := 0
		for range 2 * maxStreams {
			q, err := d.Conn().q.OpenStream()
			if err != nil {
				break
			}
			opened++
			if _, err := q.Write([]byte{'m'}); err != nil {
				t.Fatal(err)
			}
		}
		if opened != maxStreams-1 {
			t.Errorf("%d streams opened beside the session's, want %d", opened, maxStreams-1)
		}
		time.Sleep(headerWithin + time.Second)
		if _, err := d.Conn().q.OpenStream(); err != nil {
			t.Errorf("refused streams make no room for others: %v", err)
		}
		echoes(t, d, ac, 1000)
	})
}

func TestGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		seen := w.record(b.addr)
		d, ac := connect(t, a, b)
		elsewhere := netip.MustParseAddrPort("203.0.113.9:1")
		rng := mrand.New(mrand.NewPCG(1, 2))
		for n, data := range seen() {
			for i := 0; i < len(data); i += 7 {
				c := bytes.Clone(data)
				c[i] ^= 1 << rng.IntN(8)
				w.net.Inject([]netip.AddrPort{a.addr, elsewhere}[i%2], b.addr, c)
				w.net.Inject(elsewhere, b.addr, data[:i])
			}
			buf := make([]byte, rng.IntN(3000))
			for i := range buf {
				buf[i] = byte(rng.Uint32())
			}
			w.net.Inject(a.addr, b.addr, buf)
			if n%10 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		if got := ac.Conn().RemoteAddr(); got != a.addr {
			t.Errorf("datagrams that are not authentic moved the neighbour to %v", got)
		}
		echoes(t, d, ac, 10000)
		if half, _ := b.halfOpen(); half > retryAbove {
			t.Errorf("%d half-open connections by garbage", half)
		}
	})
}

// What quic-go is too slow for is dropped and counted.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a := w.node(t, certificate(t))
		friend := netip.MustParseAddrPort("10.1.0.1:1")
		a.favour(friend, 1)
		a.conns[0].mu.Lock() // nobody reads
		for i := range 10 {
			a.conns[0].pushLocked(make([]byte, maxQUIC+i), netip.MustParseAddrPort("10.0.0.1:1"))
		}
		for i := range 2 * maxQueued {
			a.conns[0].pushLocked([]byte{0x40}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1))
		}
		known := len(a.conns[0].known)
		dropped := uint64(9 + 2*maxQueued + 1 - maxStrangers)
		if got := a.Dropped(); got != dropped {
			t.Errorf("%d datagrams dropped, want %d", got, dropped)
		}
		for range maxQueued {
			a.conns[0].pushLocked([]byte{0x40}, friend)
		}
		a.conns[0].mu.Unlock()
		dropped += maxStrangers
		if got := a.Dropped(); got != dropped {
			t.Errorf("%d datagrams dropped, want %d: strangers took the place of who has a path", got, dropped)
		}
		if known > maxAddresses {
			t.Errorf("%d addresses remembered, want %d at most", known, maxAddresses)
		}
	})
}

// Room in the queue is kept for a connection's address from when a path has it
// until the connection is gone, once for each connection.
func TestFavour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		favours := func() int {
			synctest.Wait()
			a.conns[0].mu.Lock()
			defer a.conns[0].mu.Unlock()
			return a.conns[0].favours[b.addr]
		}
		first, _ := connect(t, a, b)
		second, _ := connect(t, a, b)
		for _, step := range []struct {
			name string
			do   func()
			want int
		}{
			{"no path has the connections", func() {}, 0},
			{"a path has one", func() { first.Conn().Own(t) }, 1},
			{"it asks again, and so does another", func() { first.Conn().Own(t); first.Conn().Own(w) }, 1},
			{"a path has the other one too", func() { second.Conn().Own(t) }, 2},
			{"the first is closed", func() { first.Conn().Break("test") }, 1},
			{"both are closed", func() { second.Conn().Break("test") }, 0},
		} {
			step.do()
			if got := favours(); got != step.want {
				t.Errorf("%s: favoured %d times, want %d", step.name, got, step.want)
			}
		}
		third, _ := connect(t, a, b)
		third.Conn().Break("test")
		synctest.Wait()
		if third.Conn().Own(t); favours() != 0 {
			t.Error("a connection that is gone is favoured for good")
		}
		if n := len(a.conns[0].favours); n != 0 {
			t.Errorf("%d addresses are remembered for nothing", n)
		}
	})
}

// An endpoint that ends says so to its neighbours, and its calls return.
func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		d, ac := connect(t, a, b)
		read := make(chan error, 1)
		go func() { _, err := ac.Read(make([]byte, 1)); read <- err }()
		a.stop()
		if err := <-read; err == nil {
			t.Error("Read = nil after the neighbour's end")
		}
		gone(t, ac.Conn(), time.Second)
		if _, err := d.Write([]byte{1}); err == nil {
			t.Error("Write = nil after the end")
		}
		if _, err := a.Dial(t.Context(), b.addr); !errors.Is(err, ErrNotRunning) {
			t.Errorf("Dial = %v, want %v", err, ErrNotRunning)
		}
	})
}

// A host that is killed and started again leaves its neighbours with connections
// that nobody knows: they learn that with the next datagram, not after silence.
func TestRestartResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		cert := certificate(t)
		a, b := w.node(t, certificate(t)), w.node(t, cert)
		d, _ := connect(t, a, b)
		time.Sleep(time.Second)
		w.net.Connect(a.host, b.host, transporttest.Link{Cut: true}) // its goodbye is lost
		b.stop()
		s, err := b.host.Listen(b.addr)
		if err != nil {
			t.Fatal(err)
		}
		run(t, cert, nil, s)
		w.net.Connect(a.host, b.host, transporttest.Link{Latency: latency})
		if _, err := d.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		gone(t, d.Conn(), time.Second)
		if err := d.Conn().Err(); err == nil || !strings.Contains(err.Error(), "stateless reset") {
			t.Errorf("the connection ended with %v, want a stateless reset", d.Conn().Err())
		}
	})
}
