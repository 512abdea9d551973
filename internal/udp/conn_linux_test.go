package udp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// listenShared opens an ordinary socket that lets others share its port.
func listenShared(t *testing.T, addr netip.AddrPort) *net.UDPConn {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(err, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}))
	}}
	c, err := lc.ListenPacket(context.Background(), "udp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn)
}

// TestPortInUseShared: a daemon that would share its port is still noticed.
func TestPortInUseShared(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		foreign := listenShared(t, netip.AddrPortFrom(ip, 0))
		addr := foreign.LocalAddr().(*net.UDPAddr).AddrPort()
		if c, err := Listen(addr); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("Listen = %v, %v; want EADDRINUSE", c, err)
		}
	})
}

// TestPortInUseWildcard: one address of the port is enough to be in use.
func TestPortInUseWildcard(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		all := netip.IPv6Unspecified()
		if ip.Is4() {
			all = netip.IPv4Unspecified()
		}
		if c, err := Listen(netip.AddrPortFrom(all, a.LocalAddr().Port())); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("Listen = %v, %v; want EADDRINUSE", c, err)
		}
	})
}

// TestEverythingArrivesAtTheReader sends from many ports, which the kernel would
// spread over all sockets that share the port: ours, and one of somebody who
// joined later.
func TestEverythingArrivesAtTheReader(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		const senders = 100
		for range 2 {
			for range senders {
				s, err := net.Dial("udp", a.LocalAddr().String())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Write([]byte("datagram")); err != nil {
					t.Fatal(err)
				}
				s.Close()
			}
			if got := len(readAll(t, a, senders)); got != senders {
				t.Errorf("%d datagrams, want %d", got, senders)
			}
			listenShared(t, a.LocalAddr())
		}
	})
}

// option reads a socket option.
func option(t *testing.T, s socket, level, name int) (value int) {
	t.Helper()
	var err error
	if e := s.raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return value
}

// TestBuffers: the whole fragmentation test fits, several times.
func TestBuffers(t *testing.T) {
	a := listenOn(t, loopbacks["IPv4"])
	for _, s := range []socket{a.df, a.plain} {
		for _, name := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
			if got := option(t, s, unix.SOL_SOCKET, name); got < 4*60021 {
				t.Errorf("buffer %d has %d bytes", name, got)
			}
		}
	}
}

func TestListenRefuses(t *testing.T) {
	for _, addr := range []netip.AddrPort{
		{},
		netip.MustParseAddrPort("[::ffff:127.0.0.1]:0"),
		netip.MustParseAddrPort("[fe80::1%nosuchlink]:0"),
		netip.MustParseAddrPort("203.0.113.1:0"),
	} {
		if c, err := Listen(addr); err == nil {
			c.Close()
			t.Errorf("Listen(%v) succeeded", addr)
		}
	}
}

func TestPathMTULoopback(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		ifc, err := net.InterfaceByIndex(1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := a.PathMTU(a.LocalAddr())
		if want := min(ifc.MTU, 65535); err != nil || got < want {
			t.Errorf("PathMTU = %d, %v; want at least %d", got, err, want)
		}
		for _, other := range loopbacks {
			if other.Is4() != ip.Is4() {
				if got, err := a.PathMTU(netip.AddrPortFrom(other, 9)); err == nil {
					t.Errorf("PathMTU to the other family = %d", got)
				}
			}
		}
	})
}
