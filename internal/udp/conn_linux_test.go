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

// listenShared opens an ordinary socket that lets others share its port by a
// socket option.
func listenShared(t *testing.T, addr netip.AddrPort, option int) (*net.UDPConn, error) {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(err, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, 1)
		}))
	}}
	c, err := lc.ListenPacket(context.Background(), "udp", addr.String())
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UDPConn), nil
}

var sharing = map[string]int{"SO_REUSEPORT": unix.SO_REUSEPORT, "SO_REUSEADDR": unix.SO_REUSEADDR}

// TestPortInUseShared: a daemon that would share its port is still noticed.
func TestPortInUseShared(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		for name, option := range sharing {
			foreign, err := listenShared(t, netip.AddrPortFrom(ip, 0), option)
			if err != nil {
				t.Fatal(err)
			}
			addr := foreign.LocalAddr().(*net.UDPAddr).AddrPort()
			if c, err := Listen(addr, Offload{}); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%s: Listen = %v, %v; want EADDRINUSE", name, c, err)
			}
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
		if c, err := Listen(netip.AddrPortFrom(all, a.LocalAddr().Port()), Offload{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("Listen = %v, %v; want EADDRINUSE", c, err)
		}
	})
}

// TestPortIsNotShared: nobody may join later, and take what comes to us.
func TestPortIsNotShared(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		for name, option := range sharing {
			if c, err := listenShared(t, a.LocalAddr(), option); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%s: listen = %v, %v; want EADDRINUSE", name, c, err)
			}
		}
	})
}

// TestEverythingArrivesAtTheReader sends from many ports, which the kernel could
// spread over both sockets.
func TestEverythingArrivesAtTheReader(t *testing.T) {
	eachFamily(t, func(t *testing.T, ip netip.Addr) {
		a := listenOn(t, ip)
		const senders = 100
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
	})
}

// option reads a socket option.
func option(t *testing.T, fd, level, name int) int {
	t.Helper()
	value, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestBuffers: the whole fragmentation test fits, several times.
func TestBuffers(t *testing.T) {
	a := listenOn(t, loopbacks["IPv4"])
	for _, fd := range []int{a.df, a.plain} {
		for _, name := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
			if got := option(t, fd, unix.SOL_SOCKET, name); got < 4*60021 {
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
		if c, err := Listen(addr, Offload{}); err == nil {
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

// An error that all datagrams to an address would meet is told from others.
func TestNoWay(t *testing.T) {
	for errno, want := range map[unix.Errno]bool{
		unix.ENETUNREACH: true, unix.EHOSTUNREACH: true, unix.ENETDOWN: true, unix.ENODEV: true,
		unix.EPERM: false, unix.EMSGSIZE: false, unix.ENOBUFS: false,
	} {
		err := sendError(errno)
		if got := errors.Is(err, ErrNoWay); got != want {
			t.Errorf("%v is no way: %v, want %v", errno, got, want)
		}
		if want && (!errors.Is(err, errno) || err.Error() != errno.Error()) {
			t.Errorf("%v became %v", errno, err)
		}
	}
}
