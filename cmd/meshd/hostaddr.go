package main

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// addressAge is how old the host's addresses may be that are given out.
const addressAge = time.Second

// hostAddresses are the addresses of this host where peers may reach it. Its methods
// may be called concurrently.
type hostAddresses struct {
	refuse func(netip.Addr) string

	mu   sync.Mutex // guards below
	list []netip.Addr
	read time.Time
}

// all are the addresses of now, or of a moment ago. The caller must not change them.
func (h *hostAddresses) all() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.read) >= addressAge {
		h.read, h.list = now, hostAddressList(h.refuse)
	}
	return h.list
}

// fresh are the addresses of now.
func (h *hostAddresses) fresh() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.read, h.list = time.Now(), hostAddressList(h.refuse)
	return h.list
}

// hostAddressList reads the addresses of all interfaces that lead to other hosts: not
// those of the overlay and of bridges that only containers are on.
func hostAddressList(refuse func(netip.Addr) string) (out []netip.Addr) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	for _, l := range links {
		if inner(l, links) {
			continue
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			ip, ok := netip.AddrFromSlice(a.IP)
			if ip = ip.Unmap(); !ok || !ip.IsGlobalUnicast() || slices.Contains(out, ip) || refuse(ip) != "" {
				continue
			}
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// inner reports whether an interface is a bridge that leads to no other host: it has
// no port but those of containers and virtual machines.
func inner(l netlink.Link, all []netlink.Link) bool {
	if l.Type() != "bridge" {
		return false
	}
	for _, port := range all {
		if port.Attrs().MasterIndex == l.Attrs().Index && port.Type() != "veth" && port.Type() != "tuntap" {
			return false
		}
	}
	return true
}
