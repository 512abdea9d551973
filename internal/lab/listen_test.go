package lab

import (
	"net/netip"

	"meshd/internal/udp"
)

// ListenUDP opens a batched UDP socket in the namespace, at one of its addresses
// or all of a family; port 0 is any. It closes with the namespace at the latest.
func (n *Namespace) ListenUDP(at netip.AddrPort) (*udp.Conn, error) {
	var c *udp.Conn
	err := n.Do(func() (err error) {
		c, err = udp.Listen(at, udp.Offload{})
		return err
	})
	if err != nil {
		return nil, err
	}
	n.adopt(c)
	return c, nil
}
