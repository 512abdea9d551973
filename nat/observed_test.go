package nat_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/nat"
	"meshd/nat/nattest"
)

// TestStockInTheMiddle: the only neighbour that two hosts have in common answers no
// STUN, as a stock router. Their NATs keep ports, so that the addresses at which it sees
// their control connections are enough.
func TestStockInTheMiddle(t *testing.T) {
	for _, tells := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nattest.Config{})
			stock := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
			noSTUN := func(c *nat.Config) {
				find := c.Find
				c.Find = func(p frame.PeerName) (nat.Known, bool) {
					if p == stock.name {
						return nat.Known{}, false
					}
					return find(p)
				}
			}
			sites := []*nattest.Site{w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted}), w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted})}
			x, y := w.join(sites[0].Hosts[0], noSTUN), w.join(sites[1].Hosts[0], noSTUN)
			if tells {
				x.seen, y.seen = sites[0].Outside, sites[1].Outside
			}
			w.look()
			time.Sleep(10 * time.Second)
			if got := x.metAt(y); got.IsValid() != tells || tells && got != netip.AddrPortFrom(sites[1].Outside, dataPort) {
				t.Errorf("the neighbour tells %v: met at %v; %v", tells, got, x.Status(y.name).Tries)
			}
		})
	}
}

// TestObserved: of the addresses that neighbours tell, a few are offered, those that
// most agree on, and none that cannot be.
func TestObserved(t *testing.T) {
	ip := netip.MustParseAddr
	overlay := netip.MustParsePrefix("10.32.0.0/12")
	a := nat.New(nat.Config{
		Port: dataPort, Families: func() (bool, bool) { return true, false },
		Addresses: func() []netip.Addr { return []netip.Addr{ip("192.168.1.2")} },
		Refuse: func(ip netip.Addr) string {
			if overlay.Contains(ip) {
				return "it lies on the overlay"
			}
			return ""
		},
	})
	var peers []nat.Peer
	for i, sees := range []string{
		"203.0.113.7", "203.0.113.7", "203.0.113.7", "203.0.113.7", "127.0.0.1", "127.0.0.1", "127.0.0.1", "10.32.0.1", "10.32.0.1",
		"192.168.1.2", "192.168.1.2", "198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4",
	} {
		peers = append(peers, nat.Peer{Name: frame.PeerName(i + 1), Session: true, Sees: ip(sees)})
	}
	peers = append(peers, nat.Peer{Name: 99, Sees: ip("198.51.100.99")})
	a.Look(time.Now(), peers)
	_, _, got := a.Survey(t.Context())
	want := []nat.Candidate{{Kind: nat.Host, Addr: netip.MustParseAddrPort("192.168.1.2:6785")}}
	for _, at := range []string{"203.0.113.7:6785", "198.51.100.1:6785", "198.51.100.2:6785", "198.51.100.3:6785"} {
		want = append(want, nat.Candidate{Kind: nat.Observed, Addr: netip.MustParseAddrPort(at)})
	}
	if !slices.Equal(got, want) {
		t.Errorf("offered %v, want %v", got, want)
	}
}
