package portmap

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/lab"
)

// TestGateways reads default routes in a namespace of two interfaces:
//
//	lan0 192.168.7.2/24, 192.168.7.3/24     lan1 10.9.0.2/30, 172.16.0.9/32
func TestGateways(t *testing.T) {
	lan0 := Gateway{
		Addr: netip.MustParseAddr("192.168.7.1"), Interface: "lan0",
		Local: netip.MustParseAddr("192.168.7.2"), Link: netip.MustParsePrefix("192.168.7.0/24"),
	}
	lan1 := Gateway{
		Addr: netip.MustParseAddr("10.9.0.1"), Interface: "lan1",
		Local: netip.MustParseAddr("10.9.0.2"), Link: netip.MustParsePrefix("10.9.0.0/30"),
	}
	second := lan0
	second.Local = netip.MustParseAddr("192.168.7.3")
	alone := Gateway{
		Addr: netip.MustParseAddr("100.99.0.1"), Interface: "lan1",
		Local: netip.MustParseAddr("10.9.0.2"), Link: netip.MustParsePrefix("100.99.0.1/32"),
	}
	type route = netlink.Route
	tests := []struct {
		name   string
		routes []route
		want   []Gateway
	}{
		{"none", nil, nil},
		{"one", []route{{Gw: ip("192.168.7.1")}}, []Gateway{lan0}},
		{
			"by metric",
			[]route{{Gw: ip("192.168.7.1"), Priority: 600}, {Gw: ip("10.9.0.1"), Priority: 100}},
			[]Gateway{lan1, lan0},
		},
		{"with a source", []route{{Gw: ip("192.168.7.1"), Src: ip("192.168.7.3")}}, []Gateway{second}},
		{
			"two ways at once",
			[]route{{MultiPath: []*netlink.NexthopInfo{{Gw: ip("192.168.7.1")}, {Gw: ip("10.9.0.1")}}}},
			[]Gateway{lan0, lan1},
		},
		{
			"outside the prefix", []route{{Gw: ip("100.99.0.1"), LinkIndex: -1, Flags: int(netlink.FLAG_ONLINK)}},
			[]Gateway{alone},
		},
		{"no gateway", []route{{LinkIndex: -1, Scope: netlink.SCOPE_LINK}}, nil},
		{"a dead end", []route{{Type: unix.RTN_BLACKHOLE}}, nil},
		{"another table", []route{{Gw: ip("192.168.7.1"), Table: 77}}, nil},
		{"half the internet", []route{{Gw: ip("192.168.7.1"), Dst: &net.IPNet{IP: ip("0.0.0.0").To4(), Mask: net.CIDRMask(1, 32)}}}, nil},
	}
	l := newLab(t)
	n, err := l.Namespace("host")
	must(t, err)
	gw, err := l.Namespace("gw")
	must(t, err)
	must(t, lab.Connect(n, "lan0", gw, "lan0"))
	must(t, lab.Connect(n, "lan1", gw, "lan1"))
	for _, a := range [][2]string{
		{"lan0", "192.168.7.2/24"}, {"lan0", "192.168.7.3/24"}, {"lan1", "172.16.0.9/32"}, {"lan1", "10.9.0.2/30"},
	} {
		must(t, n.AddAddress(a[0], netip.MustParsePrefix(a[1])))
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []Gateway
			must(t, n.Do(func() (err error) {
				lan1, err := netlink.LinkByName("lan1")
				if err != nil {
					return err
				}
				for _, r := range tt.routes {
					if r.Dst == nil {
						r.Dst = &net.IPNet{IP: ip("0.0.0.0").To4(), Mask: net.CIDRMask(0, 32)}
					}
					if r.LinkIndex == -1 {
						r.LinkIndex = lan1.Attrs().Index
					}
					if err := netlink.RouteAdd(&r); err != nil {
						return err
					}
					defer netlink.RouteDel(&r)
				}
				got, err = Gateways()
				return err
			}))
			for i, g := range got {
				if g.Interface == "lan1" && g.Addr == alone.Addr && g.Local == netip.MustParseAddr("172.16.0.9") {
					got[i].Local = alone.Local // either is right
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("Gateways() = %v, want %v", got, tt.want)
			}
		})
	}
}

func ip(s string) net.IP { return net.ParseIP(s) }
