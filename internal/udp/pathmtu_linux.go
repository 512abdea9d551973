package udp

import (
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// PathMTU asks the kernel for the MTU in bytes of the route to dst, IP header
// included: that of the device, or less where an ICMP error has said so. It
// makes a few system calls.
func (c *Conn) PathMTU(dst netip.AddrPort) (int, error) {
	mtu, err := c.pathMTU(dst)
	if err != nil {
		return 0, fmt.Errorf("ask for the path MTU to %s: %w", dst.Addr(), err)
	}
	return mtu, nil
}

// pathMTU connects a socket, which sends nothing, since only a connected one
// knows its route.
func (c *Conn) pathMTU(dst netip.AddrPort) (int, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	v4 := c.local.Addr().Is4()
	if !dst.IsValid() || dst.Addr().Is4() != v4 {
		return 0, unix.EAFNOSUPPORT
	}
	family, level, option := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU
	if v4 {
		family, level, option = unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU
	}
	fd, err := newSocket(family)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// The route may depend on the source address.
	from, err := c.zones.sockaddr(netip.AddrPortFrom(c.local.Addr(), 0))
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, from); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	to, err := c.zones.sockaddr(dst)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, to); err != nil {
		return 0, os.NewSyscallError("connect", err)
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	return mtu, os.NewSyscallError("getsockopt", err)
}
