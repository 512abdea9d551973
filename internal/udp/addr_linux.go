package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// putAddr writes addr to sa for a socket of the family of local and returns the
// length of what it wrote.
func (z *zones) putAddr(sa *unix.RawSockaddrInet6, local, addr netip.AddrPort) (uint32, error) {
	ip := addr.Addr().Unmap()
	if !ip.IsValid() || ip.Is4() != local.Addr().Is4() {
		return 0, unix.EAFNOSUPPORT
	}
	if ip.Is4() {
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		sa4.Family, sa4.Addr = unix.AF_INET, ip.As4()
		putPort(&sa4.Port, addr.Port())
		return unix.SizeofSockaddrInet4, nil
	}
	*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: ip.As16()}
	putPort(&sa.Port, addr.Port())
	if zone := ip.Zone(); zone != "" {
		index, ok := z.index(zone)
		if !ok {
			return 0, unix.ENODEV
		}
		sa.Scope_id = index
	}
	return unix.SizeofSockaddrInet6, nil
}

// addrOf reads what the kernel wrote.
func (z *zones) addrOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	switch sa.Family {
	case unix.AF_INET:
		sa4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa4.Addr), port(&sa4.Port))
	case unix.AF_INET6:
		ip := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.Scope_id != 0 {
			ip = ip.WithZone(z.name(sa.Scope_id))
		}
		return netip.AddrPortFrom(ip, port(&sa.Port))
	}
	return netip.AddrPort{}
}

// sockaddr is putAddr for the calls that are not on the hot path.
func (z *zones) sockaddr(addr netip.AddrPort) (unix.Sockaddr, error) {
	ip := addr.Addr()
	if ip.Is4() {
		return &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(addr.Port()), Addr: ip.As16()}
	if zone := ip.Zone(); zone != "" {
		index, ok := z.index(zone)
		if !ok {
			return nil, unix.ENODEV
		}
		sa.ZoneId = index
	}
	return sa, nil
}

// addrPort reads what getsockname gave.
func (z *zones) addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			ip = ip.WithZone(z.name(sa.ZoneId))
		}
		return netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// A port lies in a sockaddr in network byte order.
func port(p *uint16) uint16       { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
func putPort(p *uint16, n uint16) { binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], n) }
