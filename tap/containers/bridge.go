package containers

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"meshd/internal/dump"
)

// addresses are those of a bridge in the calling thread's namespace; none where there
// is no such bridge.
func addresses(bridge string) (out []netip.Prefix, err error) {
	link, err := netlink.LinkByName(bridge)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	list, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses of bridge %s: %w", bridge, err)
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ok && !ip.IsLinkLocalUnicast() {
			out = append(out, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	return out, nil
}

// hostMAC is the MAC of a bridge; empty where there is none.
func hostMAC(bridge string) string {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		return ""
	}
	return link.Attrs().HardwareAddr.String()
}

// checkHost says which network of this host a subnet overlaps with: packets for the
// one would go to the other. A wider route through a gateway is no fault: the kernel
// prefers the narrower one.
func checkHost(bridge string, p netip.Prefix) error {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil // without a bridge nothing can be attached, which says so itself
	}
	family := netlink.FAMILY_V4
	if p.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := dump.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
	if err != nil {
		return fmt.Errorf("list the routes of this host: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == link.Attrs().Index {
			continue
		}
		ip, ok := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		dst := netip.PrefixFrom(ip.Unmap(), bits)
		if !ok || bits == 0 || !dst.Overlaps(p) || r.Gw != nil && bits < p.Bits() {
			continue
		}
		return fmt.Errorf("%s overlaps with the network %s of this host%s: choose another subnet", p, dst, onDevice(r.LinkIndex))
	}
	return nil
}

func onDevice(index int) string {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return ""
	}
	return ", on " + link.Attrs().Name
}
