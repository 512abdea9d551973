package containers

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"meshd/internal/dump"
	"meshd/internal/subnet"
)

// addressesOf are the addresses of a bridge in the calling thread's namespace; none where
// there is no such bridge.
func addressesOf(bridge string) (out []netip.Prefix, err error) {
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
		if p, ok := subnet.PrefixOf(a.IPNet); ok && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p)
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

// checkHost says what of this host addresses with their subnets collide with: packets
// for the one would go to the other. The rules are those of exposed addresses, as the
// host may be exposed to these subnets later.
func checkHost(bridge string, addresses []netip.Prefix) error {
	link, err := netlink.LinkByName(bridge)
	if err != nil || len(addresses) == 0 {
		return nil // without a bridge nothing can be attached, which says so itself
	}
	others, err := subnet.Look(nil, "this host", link.Attrs().Index)
	if err != nil {
		return err
	}
	for _, p := range addresses {
		if err := others.Check(p); err != nil {
			return err
		}
	}
	return nil
}
