package transporttest

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/udp"
)

// twoHosts are two sockets on a network.
func twoHosts(t *testing.T, l Link) (n *Network, a, b *Socket) {
	t.Helper()
	n = NewNetwork(1, l)
	for i, s := range []**Socket{&a, &b} {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 1000)
		var err error
		if *s, err = n.Host(at.Addr()).Listen(at); err != nil {
			t.Fatal(err)
		}
	}
	return n, a, b
}

// write sends one datagram of size bytes that begin with a number.
func write(from, to *Socket, number byte, size int, df bool) error {
	b := make([]byte, size)
	b[0] = number
	_, err := from.WriteBatch([]udp.Message{{Buf: b, N: size, Addr: to.LocalAddr()}}, df)
	return err
}

// read takes what is there, without waiting, and splits runs.
func read(s *Socket) (got []udp.Message) {
	for len(s.unread()) > 0 {
		ms := make([]udp.Message, 3)
		for i := range ms {
			ms[i].Buf = make([]byte, 65535)
		}
		k, err := s.ReadBatch(ms)
		if err != nil {
			return got
		}
		for _, m := range ms[:k] {
			got = append(got, split(m)...)
		}
	}
	return got
}

func (s *Socket) unread() []parcel {
	s.host.net.mu.Lock()
	defer s.host.net.mu.Unlock()
	return s.inbox
}

// split makes messages of the datagrams of a run.
func split(m udp.Message) (ms []udp.Message) {
	for m.Segment > 0 && m.N > m.Segment {
		ms = append(ms, udp.Message{Buf: m.Buf[:m.Segment], N: m.Segment, Addr: m.Addr})
		m.Buf, m.N = m.Buf[m.Segment:], m.N-m.Segment
	}
	m.Segment = 0
	return append(ms, m)
}

// Equal datagrams are sometimes read as a run, and sometimes one by one; runs are
// what the kernel makes: of one sender, equal but for the last.
func TestNetworkRuns(t *testing.T) {
	n, a, b := twoHosts(t, Link{})
	third := netip.MustParseAddrPort("192.0.2.1:1")
	runs, singles := 0, 0
	for range 200 {
		sizes := []int{100, 100, 100, 40, 100, 100, 200, 200, 0, 0, 200}
		for i, size := range sizes {
			from := a.LocalAddr()
			if i == 5 {
				from = third
			}
			n.Inject(from, b.LocalAddr(), make([]byte, size))
		}
		ms := make([]udp.Message, len(sizes))
		for i := range ms {
			ms[i].Buf = make([]byte, 350)
		}
		for at := 0; at < len(sizes); {
			k, err := b.ReadBatch(ms)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms[:k] {
				if m.Segment > 0 {
					runs++
				} else {
					singles++
				}
				for _, d := range split(m) {
					if d.N != sizes[at] || (d.Addr == third) != (at == 5) {
						t.Fatalf("datagram %d of %v: %d bytes from %v", at, sizes, d.N, d.Addr)
					}
					at++
				}
			}
		}
	}
	if runs == 0 || singles == 0 {
		t.Errorf("%d runs, %d datagrams alone, want some of both", runs, singles)
	}
}

func TestNetworkTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := twoHosts(t, Link{})
		a.TooBig(b.LocalAddr(), 1400) // nobody asked for it
		var got []int
		a.OnTooBig(func(dst netip.AddrPort, mtu int) {
			if dst != b.LocalAddr() {
				t.Errorf("told of %v", dst)
			}
			got = append(got, mtu)
			if mtu == 1300 {
				a.TooBig(dst, 1200) // nothing is lost that comes meanwhile
			}
		})
		ended := make(chan error, 1)
		go func() {
			_, err := a.ReadBatch(make([]udp.Message, 1))
			ended <- err
		}()
		synctest.Wait()
		a.TooBig(b.LocalAddr(), 1300)
		synctest.Wait()
		a.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadBatch = %v, want closed", err)
		}
		if len(got) != 2 || got[0] != 1300 || got[1] != 1200 {
			t.Errorf("told of %v, want 1300 and 1200", got)
		}
	})
}

func TestNetworkDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := twoHosts(t, Link{Latency: 30 * time.Millisecond})
		for i := range byte(10) {
			if err := write(a, b, i, 100+int(i), i%2 == 0); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(30*time.Millisecond - 1)
		if got := read(b); len(got) != 0 {
			t.Errorf("%d datagrams arrived early", len(got))
		}
		<-time.After(1)
		synctest.Wait()
		got := read(b)
		if len(got) != 10 {
			t.Fatalf("%d datagrams arrived, want 10", len(got))
		}
		for i, m := range got {
			if m.Buf[0] != byte(i) || m.N != 100+i || m.Addr != a.LocalAddr() {
				t.Errorf("datagram %d: number %d, %d bytes from %v", i, m.Buf[0], m.N, m.Addr)
			}
		}
	})
}

func TestNetworkMTU(t *testing.T) {
	tests := []struct {
		name    string
		link    Link
		size    int
		df      bool
		err     error
		arrives bool
	}{
		{"fits", Link{}, 1472, true, nil, true},
		{"too big", Link{}, 1473, true, udp.ErrTooBig, false},
		{"fragments", Link{}, 60000, false, nil, true},
		{"fragments dropped", Link{DropFragments: true}, 1473, false, nil, false},
		{"whole where fragments are dropped", Link{DropFragments: true}, 1472, false, nil, true},
		{"black hole", Link{MTU: 1400, KnownMTU: 1500}, 1373, true, nil, false},
		{"through a black hole", Link{MTU: 1400, KnownMTU: 1500}, 1372, true, nil, true},
		{"no datagram", Link{MTU: 65535}, 65508, false, udp.ErrTooBig, false},
		{"cut", Link{Cut: true}, 10, true, nil, false},
		{"all lost", Link{Loss: 1}, 10, true, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, a, b := twoHosts(t, tt.link)
			if err := write(a, b, 1, tt.size, tt.df); !errors.Is(err, tt.err) {
				t.Errorf("WriteBatch = %v, want %v", err, tt.err)
			}
			if got := len(read(b)) == 1; got != tt.arrives {
				t.Errorf("arrives = %v, want %v", got, tt.arrives)
			}
		})
	}
}

func TestNetworkLoss(t *testing.T) {
	_, a, b := twoHosts(t, Link{Loss: 0.25})
	count := func(size int) (arrived int) {
		for range 2000 {
			if err := write(a, b, 1, size, false); err != nil {
				t.Fatal(err)
			}
			arrived += len(read(b))
		}
		return arrived
	}
	if n := count(100); n < 1400 || n > 1600 {
		t.Errorf("%d of 2000 arrived, want about 1500", n)
	}
	if n := count(2900); n < 1000 || n > 1250 { // two fragments: 0.75²
		t.Errorf("%d of 2000 in two fragments arrived, want about 1125", n)
	}
}

func TestNetworkOneWay(t *testing.T) {
	n, a, b := twoHosts(t, Link{})
	n.SetLink(a.host, b.host, Link{Cut: true, KnownMTU: 1400})
	_ = write(a, b, 1, 10, true)
	_ = write(b, a, 1, 10, true)
	if len(read(b)) != 0 || len(read(a)) != 1 {
		t.Error("a cut in one direction is one in the other, or in none")
	}
	if mtu, err := a.PathMTU(b.LocalAddr()); mtu != 1400 || err != nil {
		t.Errorf("PathMTU = %d, %v, want 1400", mtu, err)
	}
	if mtu, err := b.PathMTU(a.LocalAddr()); mtu != 1500 || err != nil {
		t.Errorf("PathMTU = %d, %v, want 1500", mtu, err)
	}
}

func TestNAT(t *testing.T) {
	n, a, b := twoHosts(t, Link{})
	public := netip.MustParseAddr("192.0.2.1")
	nat := n.PutBehindNAT(a.host, public)
	source := func() netip.AddrPort {
		t.Helper()
		_ = write(a, b, 1, 10, true)
		got := read(b)
		if len(got) != 1 {
			t.Fatalf("%d datagrams came through the NAT, want 1", len(got))
		}
		return got[0].Addr
	}
	first := source()
	if first.Addr() != public || source() != first {
		t.Errorf("mapping %v, then %v, want the same at %v", first, source(), public)
	}
	back := func(to netip.AddrPort) int {
		_, _ = b.WriteBatch([]udp.Message{{Buf: []byte{1}, N: 1, Addr: to}}, true)
		return len(read(a))
	}
	if back(first) != 1 {
		t.Error("nothing comes back through the mapping")
	}
	nat.Rebind()
	if back(first) != 0 {
		t.Error("the old mapping still works after a rebind")
	}
	if second := source(); second == first || back(second) != 1 {
		t.Errorf("mapping after a rebind = %v, was %v", second, first)
	}
}

func TestInjectAndWatch(t *testing.T) {
	n, a, b := twoHosts(t, Link{Cut: true})
	var seen []Datagram
	n.Watch(func(d Datagram) { seen = append(seen, d) })
	forged := netip.MustParseAddrPort("203.0.113.1:99")
	n.Inject(forged, b.LocalAddr(), []byte("x"))
	n.Inject(forged, netip.MustParseAddrPort("10.0.0.9:1"), []byte("x"))
	if got := read(b); len(got) != 1 || got[0].Addr != forged {
		t.Errorf("injected datagram came as %v", got)
	}
	_ = write(a, b, 7, 10, true)
	if len(seen) != 1 || seen[0].From != a.LocalAddr() || seen[0].To != b.LocalAddr() || !seen[0].DF || seen[0].Payload[0] != 7 {
		t.Errorf("watched %v", seen)
	}
}

func TestSocket(t *testing.T) {
	n, a, b := twoHosts(t, Link{})
	if _, err := a.host.Listen(a.LocalAddr()); err == nil {
		t.Error("a second socket at an address")
	}
	if _, err := a.host.Listen(b.LocalAddr()); err == nil {
		t.Error("a socket at another host's address")
	}
	for range maxDatagrams + 10 {
		n.Inject(a.LocalAddr(), b.LocalAddr(), []byte("x"))
	}
	if got := len(read(b)); got != maxDatagrams {
		t.Errorf("a socket holds %d datagrams, want %d", got, maxDatagrams)
	}
	ended := make(chan error)
	go func() {
		_, err := b.ReadBatch(make([]udp.Message, 1))
		ended <- err
	}()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch of a closed socket = %v, want %v", err, net.ErrClosed)
	}
	if err := write(b, a, 1, 10, true); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteBatch of a closed socket = %v, want %v", err, net.ErrClosed)
	}
	if err := write(a, b, 1, 10, true); err != nil {
		t.Errorf("WriteBatch to nobody = %v, want nil", err)
	}
	if _, err := b.host.Listen(b.addr); err != nil {
		t.Errorf("Listen again = %v", err)
	}
}

func TestFrames(t *testing.T) {
	if got := len(Frame(1, 3)); got != 14 {
		t.Errorf("a frame has %d bytes, want 14 at least", got)
	}
	a, b := IPv4Frame(3, 100, true), IPv6Frame(3, 100)
	if len(a) != 114 || len(b) != 114 {
		t.Errorf("frames of %d, %d bytes, want 114", len(a), len(b))
	}
	var sum uint32
	for i := 14; i < 34; i += 2 {
		sum += uint32(a[i])<<8 | uint32(a[i+1])
	}
	if sum = sum&0xffff + sum>>16; sum&0xffff+sum>>16 != 0xffff {
		t.Errorf("the IPv4 header's checksum is wrong: %#x", sum)
	}
}
