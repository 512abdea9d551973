package subnet

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/dump"
)

// Networks are those that a network namespace has to do with already, other than by
// the overlay.
type Networks struct {
	Owner     string // whose they are, in words: "this host"
	Addresses []Address
	Routes    []Route // without those to everywhere
}

// Address is one of a device, with the network that the device is connected to.
type Address struct {
	Prefix netip.Prefix
	Device string
}

// Route is one to a network.
type Route struct {
	To     netip.Prefix
	Device string // empty: it refuses or drops
	// Direct: the hosts of the network are on the device's link, not behind a gateway.
	Direct bool
}

// Look looks at the networks of a namespace, that of nl; nil is that of the calling
// thread. The device with the index overlay is left out.
func Look(nl *netlink.Handle, owner string, overlay int) (Networks, error) {
	if nl == nil {
		nl = &netlink.Handle{} // opens a socket for each request
	}
	n := Networks{Owner: owner}
	links, err := dump.Whole(nl.LinkList)
	if err != nil {
		return n, fmt.Errorf("list devices of %s: %w", owner, err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return n, fmt.Errorf("list addresses of %s: %w", owner, err)
	}
	for _, a := range addrs {
		p, ok := PrefixOf(a.IPNet)
		if ok && a.LinkIndex != overlay && !p.Addr().IsLinkLocalUnicast() {
			n.Addresses = append(n.Addresses, Address{p, names[a.LinkIndex]})
		}
	}
	routes, err := dump.Whole(func() ([]netlink.Route, error) { return nl.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return n, fmt.Errorf("list routes of %s: %w", owner, err)
	}
	for _, r := range routes {
		if to, ok := PrefixOf(r.Dst); ok && !everywhere(to) && !to.Addr().IsLinkLocalUnicast() && !to.Addr().IsMulticast() {
			n.addRoute(to, r, overlay, names)
		}
	}
	return n, nil
}

// addRoute takes a route by the first of its ways that is not the overlay.
func (n *Networks) addRoute(to netip.Prefix, r netlink.Route, overlay int, names map[int]string) {
	switch r.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		n.Routes = append(n.Routes, Route{To: to})
		return
	case unix.RTN_UNICAST:
	default:
		return
	}
	ways := r.MultiPath
	if len(ways) == 0 {
		ways = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
	}
	for _, w := range ways {
		if w.LinkIndex != overlay {
			n.Routes = append(n.Routes, Route{to, names[w.LinkIndex], w.Gw == nil && w.Via == nil})
			return
		}
	}
}

// everywhere reports whether a route is a default one, or a part of one as VPNs make
// them so as to win over it: halves, and all that is in use of IPv6, 2000::/3.
func everywhere(to netip.Prefix) bool {
	return to.Bits() <= 1 || to.Addr().Is6() && to.Bits() <= 3
}

// Check says what an address on the overlay, with its subnet, collides with; nil if
// with nothing:
//
//   - an address that a device has, and the network that it is connected to. An
//     address without a network, that of a service, takes nothing but itself;
//   - a route to a network on a device's link, and to a part of the subnet or all of
//     it by whatever way. A wider one by way of a gateway, or to nowhere, works
//     beside the subnet, as a default route does: the narrower one wins.
func (n Networks) Check(p netip.Prefix) error {
	for _, a := range n.Addresses {
		switch alone := a.Prefix.IsSingleIP(); {
		case alone && a.Prefix.Addr() == p.Addr():
			return fmt.Errorf("%s is an address of %s already, on its device %s: choose another", p.Addr(), n.Owner, a.Device)
		case !alone && a.Prefix.Overlaps(p):
			return fmt.Errorf("%s overlaps with the network %s of %s, on its device %s: choose a subnet that it does not use", p, a.Prefix.Masked(), n.Owner, a.Device)
		}
	}
	for _, r := range n.Routes {
		if r.To.Overlaps(p) && (r.Direct || r.To.Bits() >= p.Bits()) && !n.isAddress(r.To) {
			return fmt.Errorf("%s overlaps with the route of %s to %s, %s: choose a subnet that it has no route to", p, n.Owner, r.To, r.way())
		}
	}
	return nil
}

// isAddress reports whether a network is nothing but an address that a device has:
// IPv6 has a route to each.
func (n Networks) isAddress(to netip.Prefix) bool {
	for _, a := range n.Addresses {
		if to.IsSingleIP() && a.Prefix.Addr() == to.Addr() {
			return true
		}
	}
	return false
}

func (r Route) way() string {
	if r.Device == "" {
		return "which leads nowhere"
	}
	return "by its device " + r.Device
}

// PrefixOf is an address with its subnet as netlink has them.
func PrefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	return netip.PrefixFrom(a, ones), ok && bits == a.BitLen()
}
