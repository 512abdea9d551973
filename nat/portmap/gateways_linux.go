package portmap

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateway is an IPv4 gateway of a default route, and where we stand before it.
type Gateway struct {
	Addr      netip.Addr
	Interface string     // the default route's
	Local     netip.Addr // our source address towards it
	// Link is what lies on the interface with it. It contains Addr, and may be
	// nothing but that.
	Link netip.Prefix
}

// Gateways asks the kernel for the gateways of the default routes in the main
// table, the preferred route first. A default route without a gateway, as a
// tunnel's, is left out.
func Gateways() ([]Gateway, error) {
	routes, err := defaultRoutes()
	if err != nil {
		return nil, fmt.Errorf("list default routes: %w", err)
	}
	var gateways []Gateway
	for _, r := range routes {
		for _, hop := range hops(r) {
			g, err := gatewayOf(hop)
			// An interface may go while we look at it.
			if err == nil && !slices.Contains(gateways, g) {
				gateways = append(gateways, g)
			}
		}
	}
	return gateways, nil
}

// defaultRoutes are those that lead somewhere, by metric.
func defaultRoutes() ([]netlink.Route, error) {
	var routes []netlink.Route
	var err error
	for range 3 { // a dump that the table changes under is to be asked for again
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4,
			&netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Type != unix.RTN_UNICAST || r.Tos != 0 || !isDefault(r.Dst)
	})
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	return routes, nil
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0
}

// hop is one way that a route takes.
type hop struct {
	index int
	via   netip.Addr
	src   netip.Addr // as the route sets it; invalid: the kernel chooses
}

func hops(r netlink.Route) []hop {
	const dead = unix.RTNH_F_DEAD | unix.RTNH_F_LINKDOWN
	src := addrOf(r.Src)
	var all []hop
	if r.Flags&dead == 0 {
		all = append(all, hop{r.LinkIndex, addrOf(r.Gw), src})
	}
	for _, h := range r.MultiPath {
		if h.Flags&dead == 0 {
			all = append(all, hop{h.LinkIndex, addrOf(h.Gw), src})
		}
	}
	return slices.DeleteFunc(all, func(h hop) bool { return !h.via.Is4() })
}

func gatewayOf(h hop) (Gateway, error) {
	link, err := netlink.LinkByIndex(h.index)
	if err != nil {
		return Gateway{}, fmt.Errorf("look at interface %d: %w", h.index, err)
	}
	g := Gateway{Addr: h.via, Interface: link.Attrs().Name}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return Gateway{}, fmt.Errorf("list addresses of %s: %w", g.Interface, err)
	}
	for _, a := range addrs {
		ones, _ := a.Mask.Size()
		addr := netip.PrefixFrom(addrOf(a.IP), ones)
		if !addr.IsValid() || h.src.IsValid() && addr.Addr() != h.src {
			continue
		}
		link := addr.Masked()
		if !link.Contains(h.via) {
			// A gateway outside our prefix, as hosters have them: nothing else is
			// known to be on the link.
			link = netip.PrefixFrom(h.via, h.via.BitLen())
		}
		if !g.Local.IsValid() || g.Link.IsSingleIP() && !link.IsSingleIP() {
			g.Local, g.Link = addr.Addr(), link
		}
	}
	if !g.Local.IsValid() {
		return Gateway{}, fmt.Errorf("%s has no address towards %s", g.Interface, h.via)
	}
	return g, nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
