package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// ListenPort opens the sockets for "host:port": one for an IP address; without a
// host, ":port", one of each family on the same port, of which IPv4 is the
// first, and IPv6 may be missing where the system has none. An address in use is
// an error that is syscall.EADDRINUSE.
func ListenPort(hostPort string, o Offload) ([]*Conn, error) {
	host, portText, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %q: %w", hostPort, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %q: the port is not a number up to 65535", hostPort)
	}
	if host == "" {
		return listenBoth(uint16(port), o)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %q: %w", hostPort, err)
	}
	c, err := Listen(netip.AddrPortFrom(addr.Unmap(), uint16(port)), o)
	if err != nil {
		return nil, err
	}
	return []*Conn{c}, nil
}

// listenBoth opens a socket of each family on the same port. A system without
// IPv6 has IPv4 alone; another owner of the IPv6 port is an error.
func listenBoth(port uint16, o Offload) ([]*Conn, error) {
	c4, err := Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), port), o)
	if err != nil {
		return nil, err
	}
	c6, err := Listen(netip.AddrPortFrom(netip.IPv6Unspecified(), c4.LocalAddr().Port()), o)
	switch {
	case err == nil:
		return []*Conn{c4, c6}, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, errors.Join(err, c4.Close())
	}
	return []*Conn{c4}, nil
}
