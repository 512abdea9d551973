package nattest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/mux"
	"meshd/internal/udp"
)

// TestOrderLatencyAndLoss: what is not lost arrives in order, when it should.
func TestOrderLatencyAndLoss(t *testing.T) {
	const count = 1000
	for _, loss := range []float64{0, 0.3} {
		synctest.Test(t, func(t *testing.T) {
			n := New(Config{Seed: 3, Latency: 40 * time.Millisecond, Loss: loss})
			watched := 0
			n.Watch(func(d Datagram) { watched++ })
			a, b := n.Host(addr("198.51.100.1")), n.Host(addr("198.51.100.2"))
			sa, sb := listen(t, a, at(a.Addrs[0])), listen(t, b, at(b.Addrs[0]))
			for i := range count {
				text := fmt.Sprintf("%4d", i)
				if _, err := sa.WriteBatch([]udp.Message{{Buf: []byte(text), N: 4, Addr: sb.LocalAddr()}}, false); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(40*time.Millisecond - 1)
			synctest.Wait()
			if k := unread(sb); k > 0 {
				t.Errorf("%d datagrams arrive early", k)
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			ms := make([]udp.Message, count)
			for i := range ms {
				ms[i].Buf = make([]byte, 10)
			}
			k, err := sb.ReadBatch(ms)
			if err != nil || watched != count || float64(k) < count*(1-loss)-50 || float64(k) > count*(1-loss)+50 {
				t.Errorf("%d of %d datagrams arrive, %v", k, watched, err)
			}
			last := ""
			for _, m := range ms[:k] {
				text := string(m.Buf[:m.N])
				if text <= last || m.Addr != sa.LocalAddr() {
					t.Fatalf("%q from %v after %q", text, m.Addr, last)
				}
				last = text
			}
		})
	}
}

func TestListen(t *testing.T) {
	n := New(Config{})
	h := n.Host(addr("198.51.100.1"), addr("198.51.100.2"), addr("2001:db8::1"))
	all := netip.AddrPortFrom(netip.IPv4Unspecified(), 1000)
	both := listen(t, h, all)
	for _, tt := range []struct {
		at   string
		want error
	}{
		{"198.51.100.1:1000", syscall.EADDRINUSE},
		{"0.0.0.0:1000", syscall.EADDRINUSE},
		{"[::]:1000", nil},
		{"[2001:db8::1]:1000", syscall.EADDRINUSE},
		{"198.51.100.2:1001", nil},
		{"0.0.0.0:1001", syscall.EADDRINUSE},
	} {
		if _, err := h.Listen(netip.MustParseAddrPort(tt.at)); !errors.Is(err, tt.want) {
			t.Errorf("Listen(%s) = %v, want %v", tt.at, err, tt.want)
		}
	}
	if _, err := h.Listen(netip.MustParseAddrPort("198.51.100.3:1")); err == nil {
		t.Error("Listen at another's address = nil, want an error")
	}
	if _, err := h.ListenAll(1001); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("ListenAll(1001) = %v, want it in use", err)
	}
	one, two := listen(t, h, at(h.Addrs[0])), listen(t, h, at(h.Addrs[0]))
	if one.LocalAddr() == two.LocalAddr() || one.LocalAddr().Port() == 0 {
		t.Errorf("sockets at any port: %v and %v", one.LocalAddr(), two.LocalAddr())
	}
	if err := both.Close(); err != nil {
		t.Error(err)
	}
	if err := both.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close = %v, want net.ErrClosed", err)
	}
	if _, err := both.ReadBatch(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch after Close = %v, want net.ErrClosed", err)
	}
	listen(t, h, all)
}

func TestWriteErrors(t *testing.T) {
	n := New(Config{MTU: 1400})
	h := n.Host(addr("198.51.100.1"))
	s := listen(t, h, netip.AddrPortFrom(netip.IPv4Unspecified(), 1))
	s6 := listen(t, h, netip.AddrPortFrom(netip.IPv6Unspecified(), 1))
	to, to6 := netip.MustParseAddrPort("198.51.100.2:1"), netip.MustParseAddrPort("[2001:db8::1]:1")
	for _, tt := range []struct {
		from *Socket
		to   netip.AddrPort
		size int
		df   bool
		want error
	}{
		{s, to, 1372, true, nil},
		{s, to, 1373, true, udp.ErrTooBig},
		{s, to, 1373, false, nil},
		{s, to, 65508, false, udp.ErrTooBig},
		{s, to6, 1, true, udp.ErrNoWay},
		{s6, to6, 1, true, udp.ErrNoWay},
	} {
		m := udp.Message{Buf: make([]byte, tt.size), N: tt.size, Addr: tt.to}
		ok := udp.Message{Buf: make([]byte, 1), N: 1, Addr: to}
		ms, want := []udp.Message{m}, 0
		if tt.from == s {
			ms, want = []udp.Message{ok, m}, 1
		}
		k, err := tt.from.WriteBatch(ms, tt.df)
		if tt.want == nil {
			want = len(ms)
		}
		if !errors.Is(err, tt.want) || k != want {
			t.Errorf("%d bytes to %v, df %v: %d, %v, want %d, %v", tt.size, tt.to, tt.df, k, err, want, tt.want)
		}
	}
	s.Close()
	if _, err := s.WriteBatch([]udp.Message{{Addr: to}}, false); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteBatch after Close = %v, want net.ErrClosed", err)
	}
	if mtu, err := s.PathMTU(to); mtu != 1400 || err != nil {
		t.Errorf("PathMTU = %d, %v, want 1400", mtu, err)
	}
}

// TestFullSocket: what does not fit is lost.
func TestFullSocket(t *testing.T) {
	n := New(Config{})
	h := n.Host(addr("198.51.100.1"))
	a, b := listen(t, h, at(h.Addrs[0])), listen(t, h, at(h.Addrs[0]))
	for range maxDatagrams + 10 {
		if _, err := a.WriteBatch([]udp.Message{{Addr: b.LocalAddr()}}, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := unread(b); got != maxDatagrams {
		t.Errorf("%d datagrams are in the inbox, want %d", got, maxDatagrams)
	}
}

// TestMux: the mux owns the sockets of a host behind a NAT.
func TestMux(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, server := world(t, Config{Latency: time.Millisecond})
		s := listen(t, server, at(server.Addrs[0]))
		h := n.Site(SiteConfig{Kind: Double, IPv6: OpenIPv6}).Hosts[0]
		var sockets []mux.Socket
		for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			sockets = append(sockets, listen(t, h, netip.AddrPortFrom(a, 6785)))
		}
		m, err := mux.New(sockets, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []udp.Message
		m.Handle(mux.STUN, func(mux.Socket) mux.Handler {
			return func(batch []udp.Message) { got = append(got, batch...) }
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		as, ok := send(t, sockets[0].(*Socket), s.LocalAddr(), s)
		if !ok {
			t.Fatal("the server gets nothing")
		}
		stun := []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
		if _, err := s.WriteBatch([]udp.Message{{Buf: stun, N: len(stun), Addr: as}}, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil || len(got) != 1 || got[0].Addr != s.LocalAddr() {
			t.Errorf("Run = %v, the mux handed on %v", err, got)
		}
	})
}

func TestAddressTaken(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a second host with one address: no panic")
		}
	}()
	n := New(Config{})
	n.NAT(Behaviour{}, addr("203.0.113.1"))
	n.Host(addr("203.0.113.1"))
}
