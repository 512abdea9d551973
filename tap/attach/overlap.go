package attach

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/dump"
)

// checkOverlaps refuses addresses that collide with what the container has: with
// have, which its interface on the overlay has, and with other devices.
func (a *attachment) checkOverlaps(fresh, have []netip.Prefix) error {
	for _, p := range fresh {
		for _, q := range have {
			if p.Addr() == q.Addr() {
				return fmt.Errorf("the container has %s as %s already: detach that first", p.Addr(), q)
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	names, err := a.otherDevices()
	if err != nil {
		return err
	}
	if err := a.checkNetworks(fresh, names); err != nil {
		return err
	}
	return a.checkRoutes(fresh, names)
}

// otherDevices are the names of the container's other devices by their index.
func (a *attachment) otherDevices() (map[int]string, error) {
	links, err := dump.Whole(a.inside.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices of the container: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		if a.inner == nil || l.Attrs().Index != a.inner.Attrs().Index {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	return names, nil
}

// checkNetworks compares with the networks that other devices are connected to.
func (a *attachment) checkNetworks(fresh []netip.Prefix, names map[int]string) error {
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return a.inside.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of the container: %w", err)
	}
	for _, addr := range addrs {
		name, other := names[addr.LinkIndex]
		q, ok := prefixOf(addr.IPNet)
		if !other || !ok {
			continue
		}
		for _, p := range fresh {
			switch {
			case p.Addr() == q.Addr():
				return fmt.Errorf("the container has the address %s on its device %s already: %w", q.Addr(), name, ErrOverlap)
			case q.IsSingleIP():
				// An address of a service, say: it takes nothing from the subnet.
			case p.Masked().Overlaps(q.Masked()):
				return fmt.Errorf("%s overlaps with the network %s of the container's device %s: %w", p, q.Masked(), name, ErrOverlap)
			}
		}
	}
	return nil
}

// checkRoutes compares with the routes by other devices. One by way of a gateway
// that is for more than our subnet, as the default route is, works beside it.
func (a *attachment) checkRoutes(fresh []netip.Prefix, names map[int]string) error {
	routes, err := dump.Whole(func() ([]netlink.Route, error) {
		return a.inside.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_UNICAST}, netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return fmt.Errorf("list routes of the container: %w", err)
	}
	for _, r := range routes {
		name, other := names[r.LinkIndex]
		dst, ok := prefixOf(r.Dst)
		if !other || !ok || dst.Bits() == 0 || dst.Addr().IsMulticast() {
			continue
		}
		gateway := r.Gw != nil || r.Via != nil
		for _, p := range fresh {
			if p.Masked().Overlaps(dst) && (!gateway || dst.Bits() >= p.Bits()) {
				return fmt.Errorf("%s overlaps with the container's route to %s by its device %s: %w", p, dst, name, ErrOverlap)
			}
		}
	}
	return nil
}
