package subnet

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"meshd/internal/lab"
)

// host is a namespace with something of everything, where weave is the overlay's:
//
//	weave  10.32.0.1/24, fd00:32::1/64
//	eth0   10.0.0.5/24, 10.0.9.1/32, fd00:1::5/64, fe80::…; gateway 10.0.0.1
//	lo     10.99.0.9/32, fd00:99::9/128
func host(t *testing.T) *lab.Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	l, err := lab.New(fmt.Sprintf("meshd-subnet-%d", os.Getpid()))
	must(t, err)
	t.Cleanup(func() {
		must(t, l.Close())
		if left := l.Leftovers(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	n, err := l.Namespace("host")
	must(t, err)
	for _, link := range []string{"weave", "eth0", "tun0"} {
		must(t, n.AddBridge(link))
		must(t, n.Up(link))
	}
	for _, a := range []struct{ link, addrs string }{
		{"weave", "10.32.0.1/24 fd00:32::1/64"},
		{"eth0", "10.0.0.5/24 10.0.9.1/32 fd00:1::5/64"},
		{"lo", "10.99.0.9/32 fd00:99::9/128"},
	} {
		for _, p := range prefixes(a.addrs) {
			must(t, n.AddAddress(a.link, p))
		}
	}
	gateway := netip.MustParseAddr("10.0.0.1")
	for to, by := range map[string]string{
		"0.0.0.0/0": "eth0", "10.0.0.0/8": "eth0", "10.77.5.0/24": "eth0", "10.78.0.0/16": "eth0", "10.79.0.9/32": "eth0", // by the gateway
		"0.0.0.0/1": "tun0", "128.0.0.0/1": "tun0", "2000::/3": "tun0", // a VPN's
		"10.88.0.0/16": "tun0", "fd00:88::/48": "tun0",
		"10.66.0.0/16": "weave",
	} {
		via := netip.Addr{}
		if by == "eth0" {
			via = gateway
		}
		must(t, n.AddRoute(netip.MustParsePrefix(to), via, by))
	}
	must(t, n.Blackhole(netip.MustParsePrefix("10.44.0.0/16")))
	must(t, n.Do(func() error { return severalWays("10.55.0.0/16", "weave", "tun0") }))
	return n
}

// severalWays makes a route by several devices.
func severalWays(to string, devices ...string) error {
	r := &netlink.Route{}
	var err error
	if r.Dst, err = netlink.ParseIPNet(to); err != nil {
		return err
	}
	for _, d := range devices {
		link, err := netlink.LinkByName(d)
		if err != nil {
			return err
		}
		r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: link.Attrs().Index})
	}
	return netlink.RouteAdd(r)
}

func TestNetworks(t *testing.T) {
	h := host(t)
	var n Networks
	must(t, h.Do(func() error {
		overlay, err := netlink.LinkByName("weave")
		if err == nil {
			n, err = Look(nil, "this host", overlay.Attrs().Index)
		}
		return err
	}))
	for _, tt := range []struct{ name, give, want string }{
		{"elsewhere", "192.168.99.1/24", ""},
		{"elsewhere in IPv6", "fd00:50::1/64", ""},
		{"on the overlay already", "10.32.0.1/24", ""},
		{"another one of its subnet", "10.32.0.2/24", ""},
		{"the same in IPv6", "fd00:32::2/64", ""},
		{"around the overlay's", "10.32.0.1/16", ""},
		{"a route by the overlay", "10.66.1.1/24", ""},
		{"the host's network", "10.0.0.77/24", "10.0.0.77/24 overlaps with the network 10.0.0.0/24 of this host, on its device eth0: choose a subnet that it does not use"},
		{"its own address", "10.0.0.5/24", "the network 10.0.0.0/24 of this host, on its device eth0"},
		{"inside the host's network", "10.0.0.77/28", "the network 10.0.0.0/24"},
		{"around the host's network", "10.1.0.1/15", "the network 10.0.0.0/24"},
		{"the host's network in IPv6", "fd00:1::7/64", "the network fd00:1::/64 of this host, on its device eth0"},
		{"an address without a network", "10.99.0.9/24", "10.99.0.9 is an address of this host already, on its device lo: choose another"},
		{"one of IPv6", "fd00:99::9/64", "fd00:99::9 is an address of this host already, on its device lo"},
		{"beside an address without a network", "10.99.0.1/24", ""},
		{"beside one of eth0", "10.0.9.2/24", ""},
		{"beside one of IPv6", "fd00:99::1/64", ""},
		{"in a wider route by a gateway", "10.9.1.1/24", ""},
		{"in a default route, and its halves", "200.1.1.1/24", ""},
		{"in a default route of IPv6", "2001:db8::1/64", ""},
		{"the same as a route by a gateway", "10.78.0.1/16", "10.78.0.1/16 overlaps with the route of this host to 10.78.0.0/16, by its device eth0: choose a subnet that it has no route to"},
		{"around a route by a gateway", "10.77.0.1/16", "the route of this host to 10.77.5.0/24, by its device eth0"},
		{"around a route to a host", "10.79.0.1/16", "to 10.79.0.9/32, by its device eth0"},
		{"in a route by a link", "10.88.9.1/24", "to 10.88.0.0/16, by its device tun0"},
		{"in a route by a link in IPv6", "fd00:88::1/64", "to fd00:88::/48, by its device tun0"},
		{"in a route of several ways", "10.55.1.1/24", "to 10.55.0.0/16, by its device tun0"},
		{"in a wider route to nowhere", "10.44.1.1/24", ""},
		{"the same as a route to nowhere", "10.44.1.1/16", "to 10.44.0.0/16, which leads nowhere"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantError(t, "Check("+tt.give+")", n.Check(netip.MustParsePrefix(tt.give)), tt.want)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
