package lab

import (
	"context"
	"net"
	"time"
)

// Listen opens a stream socket in the namespace; it closes with the namespace at
// the latest.
func (n *Namespace) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	n.adopt(l)
	return l, nil
}

// ListenPacket opens a datagram or raw IP socket in the namespace; it closes
// with the namespace at the latest.
func (n *Namespace) ListenPacket(network, addr string) (net.PacketConn, error) {
	var c net.PacketConn
	err := n.Do(func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	n.adopt(c)
	return c, nil
}

// ListenMulticast joins a multicast group on an interface of the namespace.
func (n *Namespace) ListenMulticast(network, link, group string) (net.PacketConn, error) {
	var c *net.UDPConn
	err := n.Do(func() error {
		ifi, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		addr, err := net.ResolveUDPAddr(network, group)
		if err != nil {
			return err
		}
		c, err = net.ListenMulticastUDP(network, ifi, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	n.adopt(c)
	return c, nil
}

// Dial connects from the namespace. addr holds an IP address, not a name: Go
// would look a name up, and try several addresses, outside.
func (n *Namespace) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := n.Do(func() (err error) {
		// Happy eyeballs would dial on another goroutine, in another namespace.
		d := net.Dialer{FallbackDelay: -1, Timeout: 10 * time.Second}
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
