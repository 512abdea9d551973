package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// keepAlive finds a connection whose other end is gone within 3 minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 8}

// InUseError says that a port that should be published is taken. It is
// syscall.EADDRINUSE.
type InUseError struct {
	HostPort HostPort
	Addr     netip.AddrPort // which of its addresses is taken
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s port %s is taken: end what listens there or publish another port",
		e.HostPort.Protocol(), e.Addr)
}

func (e *InUseError) Unwrap() error { return syscall.EADDRINUSE }

// listenAll opens the sockets of h with listen: one, or one of each family on the
// same port where h is all addresses. A host without IPv6 has only the other.
func listenAll[S interface {
	io.Closer
	comparable
}](h HostPort, listen func(netip.AddrPort) (S, netip.AddrPort, error)) ([]S, []netip.AddrPort, error) {
	first := netip.AddrPortFrom(h.IP, h.Port)
	if !h.IP.IsValid() {
		first = netip.AddrPortFrom(netip.IPv4Unspecified(), h.Port)
	}
	s4, a4, err := listen(first)
	if err != nil {
		return nil, nil, listenError(h, first, err)
	}
	if h.IP.IsValid() {
		return []S{s4}, []netip.AddrPort{a4}, nil
	}
	second := netip.AddrPortFrom(netip.IPv6Unspecified(), a4.Port())
	s6, a6, err := listen(second)
	switch {
	case err == nil:
		return []S{s4, s6}, []netip.AddrPort{a4, a6}, nil
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EPROTONOSUPPORT):
		return []S{s4}, []netip.AddrPort{a4}, nil
	}
	return nil, nil, errors.Join(listenError(h, second, err), s4.Close())
}

// listenError says what to do about an error of opening a socket at addr.
func listenError(h HostPort, addr netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return &InUseError{HostPort: h, Addr: addr}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s is not an address of this host: give one that is, or none for all: %w", addr.Addr(), err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d needs the capability NET_BIND_SERVICE: give it to meshd, or publish a port from 1024 up: %w", addr.Port(), err)
	}
	return fmt.Errorf("listen on %s: %w", addr, err)
}

func listenTCP(addr netip.AddrPort) (*net.TCPListener, netip.AddrPort, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	// Go would listen with MPTCP, whose sockets are not in /proc/net/tcp, where the
	// owner of a port is looked up.
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), family("tcp", addr.Addr()), addr.String())
	if err != nil {
		return nil, addr, err
	}
	tcp := l.(*net.TCPListener)
	return tcp, unmap(tcp.Addr().(*net.TCPAddr).AddrPort()), nil
}

// listenUDP opens a socket that says for each datagram where it was sent to, if it
// may be more than one address.
func listenUDP(addr netip.AddrPort) (*net.UDPConn, netip.AddrPort, error) {
	c, err := net.ListenUDP(family("udp", addr.Addr()), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, addr, err
	}
	switch {
	case !addr.Addr().IsUnspecified():
	case addr.Addr().Is4():
		err = ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	default:
		err = ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	}
	if err != nil {
		c.Close()
		return nil, addr, fmt.Errorf("ask for the address that datagrams are sent to: %w", err)
	}
	return c, unmap(c.LocalAddr().(*net.UDPAddr).AddrPort()), nil
}

// family returns the network of one family; an IPv6 socket of it is IPv6 only.
func family(protocol string, a netip.Addr) string {
	if a.Is4() {
		return protocol + "4"
	}
	return protocol + "6"
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
