package nat_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"meshd/nat"
	"meshd/nat/nattest"
)

// TestFilteringUnasked: soon after it has joined a host knows who may send to it, though
// nobody has asked, and helpers are asked once.
func TestFilteringUnasked(t *testing.T) {
	open := []nat.Filtering{nat.OpenFiltering, nat.OpenOrAddressFiltering}
	want := map[nattest.Kind][]nat.Filtering{
		nattest.None: open, nattest.FullCone: open, nattest.AddressRestricted: {nat.AddressFiltering, nat.OpenOrAddressFiltering},
		nattest.UDPBlocked: {nat.UnknownFiltering},
	}
	for _, k := range nattest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				probes := 0
				count := func(c *nat.Config) {
					probe := c.Probe
					c.Probe = func(to netip.AddrPort, b []byte) error {
						w.mu.Lock()
						probes++
						w.mu.Unlock()
						return probe(to, b)
					}
				}
				w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], count)
				site := w.net.Site(nattest.SiteConfig{Kind: k})
				x := w.join(site.Hosts[0], nil)
				if x.seen = site.Outside; !x.seen.IsValid() {
					x.seen = site.Hosts[0].Addrs[0]
				}
				y := w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.Symmetric}).Hosts[0], nil)
				w.look()
				time.Sleep(10 * time.Second)
				all := want[k]
				if all == nil {
					all = []nat.Filtering{nat.AddressPortFiltering}
				}
				if v4, _ := x.Behaviours(); !slices.Contains(all, v4.Filtering) {
					t.Errorf("%+v, want one of %q", v4, all)
				}
				if !nattest.Direct(k, nattest.Symmetric) && k != nattest.UDPBlocked { // the other one is told
					time.Sleep(2 * time.Minute)
					tries := y.Status(x.name).Tries
					if last := tries[len(tries)-1]; !slices.Contains(all, last.Theirs[0].Filtering) {
						t.Errorf("told of %+v", last.Theirs)
					}
				}
				time.Sleep(2 * time.Hour)
				w.mu.Lock()
				defer w.mu.Unlock()
				if probes > 2*3*2 {
					t.Errorf("%d probes", probes)
				}
			})
		})
	}
}
