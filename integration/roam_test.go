package integration

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"meshd/internal/lab"
)

// roamed bounds how long no answer comes after a change of the network.
const roamed = 3 * time.Second

// outage pings from a to b while something happens, until answers come again, and
// returns the longest time without any that began with it.
func (w *world) outage(a, b *box, happens func()) time.Duration {
	w.Helper()
	x := a.pings(b)
	happens()
	time.Sleep(roamed + time.Second)
	x.more(50)
	return x.end().Outage
}

// TestNATReboot: NATs forget all mappings while frames flow.
func TestNATReboot(t *testing.T) {
	once(t)
	for _, kinds := range [][2]lab.NATKind{
		{lab.NATPortRestricted, lab.NATPortRestricted}, {lab.NATSymmetric, lab.NATAddressRestricted}, {lab.NATDouble, lab.NATPortRestrictedOpen},
	} {
		t.Run(fmt.Sprintf("%s-%s", kinds[0], kinds[1]), func(t *testing.T) {
			t.Parallel()
			w := newNATWorld(t)
			a, siteA := w.behind("a", lab.SiteConfig{NAT: kinds[0]})
			b, siteB := w.behind("b", lab.SiteConfig{NAT: kinds[1]})
			boxes := w.meet(a, b)
			d := w.outage(boxes[0], boxes[1], func() {
				w.must(siteA.Reboot())
				w.must(siteB.Reboot())
			})
			if d > roamed {
				t.Errorf("no answer for %v", d)
			}
		})
	}
}

// TestRoaming: a host behind a NAT gets another address, loses its link for a while,
// and is stopped for a while. Frames flow again soon after it has a way again.
func TestRoaming(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	a, siteA := w.behind("a", lab.SiteConfig{NAT: lab.NATPortRestricted})
	b, _ := w.behind("b", lab.SiteConfig{NAT: lab.NATPortRestricted})
	boxes := w.meet(a, b)
	old := siteA.Inside()
	next := old.Next().Next().Next()
	gateway := netip.PrefixFrom(old, 24).Masked().Addr().Next()
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)

	t.Run("address", func(t *testing.T) {
		d := w.outage(boxes[0], boxes[1], func() {
			w.must(a.Host.DelAddress("eth0", netip.PrefixFrom(old, 24)))
			w.must(a.Host.AddAddress("eth0", netip.PrefixFrom(next, 24)))
			w.must(a.Host.AddRoute(all, gateway, "eth0"))
		})
		if d > roamed {
			t.Errorf("no answer for %v", d)
		}
	})
	t.Run("link", func(t *testing.T) {
		w.must(a.Host.Down("eth0"))
		time.Sleep(5 * time.Second)
		w.must(a.Host.Up("eth0"))
		w.must(a.Host.AddRoute(all, gateway, "eth0"))
		w.back(boxes[0], boxes[1])
	})
	t.Run("stopped", func(t *testing.T) {
		a.freeze()
		time.Sleep(20 * time.Second)
		a.thaw()
		w.back(boxes[0], boxes[1])
	})
	w.direct(a, b)
}

// betterTime is how long it may take to move to a pair that has become better: a
// comparison soon after the change, and two more to be sure.
const betterTime = 60 * time.Second

// TestIPv6Appears: two hosts behind NATs meet over IPv4, and then the one gets IPv6, as the
// other one has it. Frames move there, and none is lost.
func TestIPv6Appears(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	dual := lab.SiteConfig{NAT: lab.NATPortRestricted, IPv6: lab.FirewalledIPv6}
	a, site := w.behind("a", dual)
	b, _ := w.behind("b", dual)
	v6 := netip.PrefixFrom(site.Host().IPv6, 64)
	gateway := v6.Masked().Addr().Next()
	w.must(a.Host.DelAddress("eth0", v6))
	boxes := w.meet(a, b)
	over := func(is6 bool) error {
		for _, x := range [][2]*host{{a, b}, {b, a}} {
			c, _ := x[0].report().Active(x[1].Name)
			active := 0
			for _, p := range c.Paths {
				if !p.Active {
					continue
				}
				active++
				if at, err := netip.ParseAddrPort(p.Address); err != nil || at.Addr().Is6() != is6 {
					return fmt.Errorf("%s goes to %s over %s %s", x[0].NickName, x[1].NickName, p.Transport, p.Address)
				}
			}
			if active != 1 {
				return fmt.Errorf("%s goes to %s over %d paths", x[0].NickName, x[1].NickName, active)
			}
		}
		return nil
	}
	w.must(over(false))
	ping := boxes[0].pings(boxes[1])
	w.must(a.Host.AddAddress("eth0", v6))
	w.must(a.Host.AddRoute(netip.PrefixFrom(netip.IPv6Unspecified(), 0), gateway, "eth0"))
	begin := time.Now()
	w.must(lab.Poll(w.within(betterTime), time.Second, func() error { return over(true) }))
	t.Logf("moved after %v", time.Since(begin))
	ping.more(100)
	if s := ping.end(); s.Lost()+s.Duplicates > 0 {
		t.Errorf("%v", s)
	}
	w.must(over(true))
}

// back checks that answers come again soon.
func (w *world) back(a, b *box) {
	w.Helper()
	begin := time.Now()
	w.eventually("answers again", func(ctx context.Context) error {
		limited, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		defer cancel()
		_, err := a.PingOnce(limited, b.addr())
		return err
	})
	if d := time.Since(begin); d > roamed {
		w.Errorf("%v until answers came again", d)
	}
}

// TestDirectWayDies: where the Internet loses all datagrams between two hosts, frames go
// over the relay again.
func TestDirectWayDies(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	a, siteA := w.behind("a", lab.SiteConfig{NAT: lab.NATPortRestricted})
	b, siteB := w.behind("b", lab.SiteConfig{NAT: lab.NATPortRestricted})
	boxes := w.meet(a, b)
	d := w.outage(boxes[0], boxes[1], func() {
		w.nft(w.net.Namespace, fmt.Sprintf(`
table inet cut {
	chain forward {
		type filter hook forward priority 0
		ip saddr %[1]s ip daddr %[2]s drop
		ip saddr %[2]s ip daddr %[1]s drop
	}
}`, siteA.Outside, siteB.Outside))
	})
	if d > roamed {
		t.Errorf("no answer for %v", d)
	}
	answer, text, err := a.why(w.within(patience), b)
	if err != nil || answer.Path != "relayed" || answer.Via != "weave01" {
		t.Errorf("why says %v, %s", err, text)
	}
}
