package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v3"

	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/nat/nattest"
)

// quiet is how long a datagram may take in the kernel. What does not come is
// waited for as long.
const quiet = 300 * time.Millisecond

// sockets opens two ports at each of a server's two addresses.
func sockets(t *testing.T, h *SiteHost) (out [2][2]mux.Socket) {
	t.Helper()
	for a := range out {
		for p := range out[a] {
			c, err := h.ListenUDP(netip.AddrPortFrom(h.IPv4[a], uint16(3478+p)))
			must(t, err)
			out[a][p] = c
		}
	}
	return out
}

func TestNATKindsAreNattests(t *testing.T) {
	var here, there []string
	for _, k := range NATKinds() {
		here = append(here, string(k))
	}
	for _, k := range nattest.Kinds() {
		there = append(there, string(k))
	}
	if !slices.Equal(here, there) {
		t.Errorf("kinds here are %q, nattest's are %q", here, there)
	}
	for _, k := range []NATKind{"", "nat", NATDouble} {
		if _, err := natRules(k, false); err == nil {
			t.Errorf("natRules(%q) = nil, want an error", k)
		}
	}
}

// TestNATKinds sees what each kind does, and that it is what nattest's does.
//
//	home ── home-gw (── home-carrier) ── internet ── server-gw ── server, 2 addresses
func TestNATKinds(t *testing.T) {
	for _, kind := range NATKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			i := internet(t, newLab(t))
			server := site(t, i, "server", SiteConfig{Addresses: 2})
			home := site(t, i, "home", SiteConfig{NAT: kind})
			open := func() (mux.Socket, error) {
				return home.Host().ListenUDP(netip.AddrPortFrom(home.Inside(), 0))
			}
			got, err := nattest.Observe(open, sockets(t, server.Host()), quiet)
			if want := nattest.Kind(kind).Seen(); err != nil || got != want {
				t.Errorf("%s is %+v, %v\nwant %+v", kind, got, err, want)
			}
		})
	}
}

// TestNATTCP: a host behind any NAT reaches servers by TCP, and is not reached
// itself.
func TestNATTCP(t *testing.T) {
	for _, kind := range NATKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			i := internet(t, newLab(t))
			server := site(t, i, "server", SiteConfig{})
			home := site(t, i, "home", SiteConfig{NAT: kind})
			ctx := within(t, 20*time.Second)
			l, err := server.Host().Listen("tcp", netip.AddrPortFrom(server.Inside(), 0).String())
			must(t, err)
			c, err := home.Host().Dial(ctx, "tcp", l.Addr().String())
			must(t, err)
			defer c.Close()
			s, err := l.Accept()
			must(t, err)
			defer s.Close()
			from := netip.MustParseAddrPort(s.RemoteAddr().String()).Addr()
			to := home.Outside
			if kind == NATNone {
				to = home.Inside()
			}
			if from != to {
				t.Errorf("connection from %v, want %v", from, to)
			}

			const port = 6783
			_, err = home.Host().Listen("tcp", fmt.Sprintf("%v:%d", home.Inside(), port))
			must(t, err)
			short, cancel := context.WithTimeout(ctx, quiet)
			defer cancel()
			in, err := server.Host().Dial(short, "tcp", netip.AddrPortFrom(to, port).String())
			if in != nil {
				in.Close()
			}
			timeout, late := errors.AsType[net.Error](err)
			late = late && timeout.Timeout()
			switch kind {
			case NATNone:
				must(t, err)
			case NATPortRestrictedOpen:
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("dial the NAT from outside = %v, want connection refused", err)
				}
			default:
				if !late {
					t.Errorf("dial the NAT from outside = %v, want a timeout", err)
				}
			}
		})
	}
}

// TestNATReboot: after a reboot nothing is let in until the host has sent again.
func TestNATReboot(t *testing.T) {
	for _, kind := range NATKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			i := internet(t, newLab(t))
			server := site(t, i, "server", SiteConfig{})
			home := site(t, i, "home", SiteConfig{NAT: kind})
			s, h := listen(t, server.Host().Namespace, at(server.Inside())), listen(t, home.Host().Namespace, at(home.Inside()))
			seen, ok := h.reaches(t, s, s.LocalAddr())
			if kind == NATUDPBlocked {
				if ok {
					t.Errorf("the server got a datagram from %v", seen)
				}
				return
			}
			if !ok {
				t.Fatal("the server got no datagram")
			}
			must(t, home.Reboot())
			if _, ok := s.reaches(t, h, seen); ok != (kind == NATNone) {
				t.Errorf("after the reboot an answer is let in: %v", ok)
			}
			if seen, ok = h.reaches(t, s, s.LocalAddr()); !ok {
				t.Fatal("the server got no datagram after the reboot")
			}
			if _, ok := s.reaches(t, h, seen); !ok {
				t.Error("an answer is not let in after the reboot")
			}
		})
	}
}

// TestNATShortLived: a mapping that nothing is sent from for 10 s is gone.
func TestNATShortLived(t *testing.T) {
	t.Parallel()
	i := internet(t, newLab(t))
	server := site(t, i, "server", SiteConfig{})
	home := site(t, i, "home", SiteConfig{NAT: NATShortLived})
	s := listen(t, server.Host().Namespace, at(server.Inside()))
	var inside [2]end
	var seen [2]netip.AddrPort
	for i := range inside {
		inside[i] = listen(t, home.Host().Namespace, at(home.Inside()))
		seen[i], _ = inside[i].reaches(t, s, s.LocalAddr())
	}
	time.Sleep(8 * time.Second)
	if _, ok := s.reaches(t, inside[0], seen[0]); !ok {
		t.Error("after 8 s an answer is not let in")
	}
	time.Sleep(3 * time.Second)
	if _, ok := s.reaches(t, inside[1], seen[1]); ok {
		t.Error("after 11 s an answer is let in")
	}
	if _, ok := s.reaches(t, inside[0], seen[0]); !ok {
		t.Error("3 s after an answer another is not let in")
	}
}

// end is a UDP socket and what it received.
type end struct {
	mux.Socket
	in chan arrival
}

type arrival struct {
	from netip.AddrPort
	text string
}

// newEnd reads from a socket until it is closed.
func newEnd(s mux.Socket, wg *sync.WaitGroup) end {
	e := end{s, make(chan arrival, 1000)} // more than any test sends to it
	wg.Go(e.read)
	return e
}

func (e end) read() {
	ms := []udp.Message{{Buf: make([]byte, udp.MaxDatagram)}}
	for {
		n, err := e.ReadBatch(ms)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for _, m := range ms[:n] {
			e.in <- arrival{m.Addr, string(m.Buf[:m.N])}
		}
	}
}

// listen opens a socket that is closed at the end of the test.
func listen(t *testing.T, n *Namespace, at netip.AddrPort) end {
	t.Helper()
	c, err := n.ListenUDP(at)
	must(t, err)
	var wg sync.WaitGroup
	e := newEnd(c, &wg)
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
	return e
}

// at is any port of an address.
func at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

// reaches sends a datagram to an address and tells whether it arrives at another
// socket, and from where.
func (e end) reaches(t *testing.T, other end, at netip.AddrPort) (from netip.AddrPort, ok bool) {
	t.Helper()
	text := fmt.Sprint(time.Now().UnixNano())
	_, err := e.WriteBatch([]udp.Message{{Buf: []byte(text), N: len(text), Addr: at}}, false)
	must(t, err)
	return other.awaits(text, quiet)
}

// awaits says where a datagram came from, if it arrives.
func (e end) awaits(text string, wait time.Duration) (from netip.AddrPort, ok bool) {
	timeout := time.After(wait)
	for {
		select {
		case a := <-e.in:
			if a.text == text {
				return a.from, true
			}
		case <-timeout:
			return netip.AddrPort{}, false
		}
	}
}

// TestNATSTUN: nattest's STUN server serves namespaces too.
func TestNATSTUN(t *testing.T) {
	i := internet(t, newLab(t))
	server := site(t, i, "server", SiteConfig{})
	home := site(t, i, "home", SiteConfig{NAT: NATPortRestricted})
	c, err := server.Host().ListenUDP(netip.AddrPortFrom(server.Inside(), nattest.STUNPort))
	must(t, err)
	s := nattest.NewSTUN(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	h := listen(t, home.Host().Namespace, at(home.Inside()))
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	_, err = h.WriteBatch([]udp.Message{{Buf: request.Raw, N: len(request.Raw), Addr: c.LocalAddr()}}, false)
	must(t, err)
	select {
	case a := <-h.in:
		var m stun.Message
		var mapped stun.XORMappedAddress
		must(t, stun.Decode([]byte(a.text), &m))
		must(t, mapped.GetFrom(&m))
		if want := netip.AddrPortFrom(home.Outside, h.LocalAddr().Port()); mapped.String() != want.String() {
			t.Errorf("the server says %v, want %v", mapped, want)
		}
	case <-time.After(5 * time.Second):
		t.Error("the server does not answer")
	}
	cancel()
	must(t, <-done)
}
