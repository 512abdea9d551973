package expose

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"meshd/internal/dump"
	"meshd/internal/frame"
	"meshd/internal/subnet"
)

// host is what an exposed address must not collide with.
type host struct {
	bridge string
	mtu    int             // of the bridge, bytes
	own    []netip.Prefix  // of the bridge
	others subnet.Networks // of other devices
}

// check returns all faults of what is to be exposed, each in a sentence that says
// what to do.
func (h host) check(exposed []Exposed) error {
	var errs []error
	for i, x := range exposed {
		err := subnet.Check(x.Address)
		if err == nil {
			err = h.checkBridge(x.Address)
		}
		if err == nil {
			err = h.others.Check(x.Address)
		}
		for _, other := range exposed[:i] {
			if err == nil && other.Address.IsValid() {
				err = subnet.CheckPair(other.Address, x.Address)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// checkBridge checks an address against what the bridge is and has.
func (h host) checkBridge(p netip.Prefix) error {
	if p.Addr().Is6() && h.mtu < frame.MinMTUIPv6 {
		return fmt.Errorf("%s cannot be exposed: the bridge %s has MTU %d and IPv6 needs %d: raise bridge.mtu", p, h.bridge, h.mtu, frame.MinMTUIPv6)
	}
	for _, o := range h.own {
		if o.Addr() == p.Addr() && o != p {
			return fmt.Errorf("the bridge %s has the address %s already, with another prefix length: give %[2]s, or remove it first (ip addr del %[2]s dev %[1]s)", h.bridge, o)
		}
	}
	return nil
}

// lookAtHost sees what exposed addresses must not collide with.
func lookAtHost(bridge netlink.Link) (h host, err error) {
	h = host{bridge: bridge.Attrs().Name, mtu: bridge.Attrs().MTU}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return h, fmt.Errorf("list the addresses of bridge %s: %w", h.bridge, err)
	}
	for _, a := range addrs {
		if p, ok := subnet.PrefixOf(a.IPNet); ok {
			h.own = append(h.own, p)
		}
	}
	h.others, err = subnet.Look(nil, "this host", bridge.Attrs().Index)
	return h, err
}

// normal sorts and completes a list of exposed, so that equal ones are equal.
func normal(exposed []Exposed) []Exposed {
	list := slices.Clone(exposed)
	slices.SortStableFunc(list, func(a, b Exposed) int { return a.Address.Addr().Compare(b.Address.Addr()) })
	return slices.Compact(list)
}
