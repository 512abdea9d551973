package containers

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// addresses are those of a bridge in the calling thread's namespace; none where there
// is no such bridge.
func addresses(bridge string) (out []netip.Prefix) {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil
	}
	for _, a := range list {
		ip, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if ok && !ip.IsLinkLocalUnicast() {
			out = append(out, netip.PrefixFrom(ip.Unmap(), bits))
		}
	}
	return out
}

// hostMAC is the MAC of a bridge; empty where there is none.
func hostMAC(bridge string) string {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		return ""
	}
	return link.Attrs().HardwareAddr.String()
}
