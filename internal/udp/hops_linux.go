package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WriteHops sends one datagram that no more than hops routers pass on: with that TTL
// (RFC 791) or hop limit (RFC 8200), from 1 to 255. It does not wait for room in a
// buffer.
func (c *Conn) WriteHops(b []byte, to netip.AddrPort, hops int) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed.Load() {
		return net.ErrClosed
	}
	sa, err := c.zones.sockaddr(to)
	if err != nil {
		return err
	}
	oob := hopLimit(c.local.Addr().Is4(), hops)
	if err := unix.Sendmsg(c.plain, b, oob, sa, unix.MSG_DONTWAIT); err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	return nil
}

// hopLimit is the control message that sets a datagram's TTL or hop limit.
func hopLimit(is4 bool, hops int) []byte {
	oob := make([]byte, unix.CmsgSpace(4))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
	if is4 {
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_TTL
	}
	h.SetLen(unix.CmsgLen(4))
	binary.NativeEndian.PutUint32(oob[unix.CmsgLen(0):], uint32(hops))
	return oob
}
