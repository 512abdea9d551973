package expose

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// minMTU6 is the least MTU, in bytes, that carries IPv6: RFC 8200, section 5.
const minMTU6 = 1280

// host is what an exposed address must not collide with.
type host struct {
	bridge string
	mtu    int        // of the bridge, bytes
	used   []neighbor // subnets of other devices
	routes []neighbor // other routes, but default ones
	own    []netip.Prefix
}

// neighbor is a network with the device that it is behind.
type neighbor struct {
	net    netip.Prefix
	device string
}

// check returns all faults of what is to be exposed, each in a sentence that says
// what to do.
func (h host) check(exposed []Exposed) error {
	var errs []error
	for i, x := range exposed {
		err := checkPrefix(x.Prefix)
		if err == nil {
			err = h.checkHost(x.Prefix)
		}
		for _, other := range exposed[:i] {
			if err == nil && other.Prefix.IsValid() {
				err = checkPair(x, other)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkPrefix checks an address by itself.
func checkPrefix(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !p.IsValid() || a.Is4In6() || a.Zone() != "":
		return fmt.Errorf("%q is not an address with a prefix length: give one such as 192.168.99.1/24", p)
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a link-local address, of use on one link only: give one of a private range, such as 192.168.99.1/24 or fd00:99::1/64", p)
	case a.IsLoopback() || a.IsMulticast() || a.IsUnspecified() || a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return fmt.Errorf("%s is not an address for a host: give one of a private range, such as 192.168.99.1/24 or fd00:99::1/64", p)
	case p.IsSingleIP():
		return fmt.Errorf("%s has no subnet: give the prefix length of the overlay's, such as %s", p, netip.PrefixFrom(a, a.BitLen()*3/4-a.BitLen()/128*32))
	case p.Bits() == 0:
		return fmt.Errorf("%s takes in all addresses: give the prefix length of the overlay's subnet", p)
	case a.BitLen()-p.Bits() == 1:
		return nil // RFC 3021, RFC 6164: two hosts and nothing else
	case p.Masked().Addr() == a:
		return fmt.Errorf("%s is the subnet's own address, not a host's: give another, such as %s", p, netip.PrefixFrom(a.Next(), p.Bits()))
	case a.Is4() && lastOf(p) == a:
		return fmt.Errorf("%s is the broadcast address of its subnet: give another, such as %s", p, netip.PrefixFrom(a.Prev(), p.Bits()))
	}
	return nil
}

// checkHost checks an address against what the host has.
func (h host) checkHost(p netip.Prefix) error {
	if p.Addr().Is6() && h.mtu < minMTU6 {
		return fmt.Errorf("%s cannot be exposed: the bridge %s has MTU %d and IPv6 needs %d: raise bridge.mtu", p, h.bridge, h.mtu, minMTU6)
	}
	for _, o := range h.own {
		if o.Addr() == p.Addr() && o != p {
			return fmt.Errorf("the bridge %s has the address %s already, with another prefix length: give %[2]s, or remove it first (ip addr del %[2]s dev %[1]s)", h.bridge, o)
		}
	}
	for _, n := range h.used {
		if n.net.Overlaps(p) {
			return fmt.Errorf("%s overlaps %s of this host's %s: give an address of a subnet that the host does not use", p, n.net, n.device)
		}
	}
	for _, n := range h.routes {
		if n.net.Overlaps(p) {
			return fmt.Errorf("%s overlaps this host's route to %s by %s: give an address of a subnet that the host has no route to", p, n.net, n.device)
		}
	}
	return nil
}

func checkPair(x, other Exposed) error {
	switch {
	case x.Prefix.Addr() == other.Prefix.Addr():
		return fmt.Errorf("%s and %s are one address: give it once", other.Prefix, x.Prefix)
	case x.Prefix.Overlaps(other.Prefix) && x.Prefix.Masked() != other.Prefix.Masked():
		return fmt.Errorf("%s overlaps %s, which is exposed too: give both the same prefix length, or hide one first", x.Prefix, other.Prefix)
	}
	return nil
}

// lookAtHost sees what exposed addresses must not collide with.
func lookAtHost(bridge netlink.Link) (host, error) {
	h := host{bridge: bridge.Attrs().Name, mtu: bridge.Attrs().MTU}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return h, fmt.Errorf("list addresses: %w", err)
	}
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return h, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(ip.Unmap(), ones)
		switch {
		case a.LinkIndex == bridge.Attrs().Index:
			h.own = append(h.own, p)
		case !ip.IsLinkLocalUnicast():
			h.used = append(h.used, neighbor{p.Masked(), names[a.LinkIndex]})
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return h, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if n, ok := routeOf(r, names); ok && r.LinkIndex != bridge.Attrs().Index {
			h.routes = append(h.routes, n)
		}
	}
	return h, nil
}

// routeOf takes routes to somewhere: default routes, and the halves that VPNs
// make of them, are to everywhere.
func routeOf(r netlink.Route, names map[int]string) (neighbor, bool) {
	if r.Dst == nil || r.Type != unix.RTN_UNICAST {
		return neighbor{}, false
	}
	ip, _ := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	p := netip.PrefixFrom(ip.Unmap(), ones)
	everywhere := ones <= 1 || p.Addr().Is6() && ones <= 3 // 2000::/3
	if !p.IsValid() || everywhere || p.Addr().IsLinkLocalUnicast() || p.Addr().IsMulticast() {
		return neighbor{}, false
	}
	device := names[r.LinkIndex]
	if len(r.MultiPath) > 0 {
		device = names[r.MultiPath[0].LinkIndex]
	}
	return neighbor{p, device}, true
}

// normal sorts and completes a list of exposed, so that equal ones are equal.
func normal(exposed []Exposed) []Exposed {
	list := slices.Clone(exposed)
	slices.SortStableFunc(list, func(a, b Exposed) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return slices.Compact(list)
}
