package main

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// overlay knows the addresses that lie on the overlay itself. A peer that is
// dialled there would carry its own datagrams.
type overlay struct{ bridge string }

func newOverlay(bridge string) overlay { return overlay{bridge} }

// refuse says why addr must not be dialled; empty: it may.
func (o overlay) refuse(addr netip.Addr) string {
	link, err := netlink.LinkByName(o.bridge)
	if err != nil {
		return "" // no bridge: nothing lies on it
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if ok && netip.PrefixFrom(ip.Unmap(), ones).Contains(addr.Unmap()) && !addr.IsLinkLocalUnicast() {
			return fmt.Sprintf("it lies on the overlay (%s on %s)", a.IPNet, o.bridge)
		}
	}
	return ""
}
