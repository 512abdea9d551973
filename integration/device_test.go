package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab/peer"
)

// pair is two hosts that are joined, with a container each.
//
//	weave01 ── lan ── weave02
func pair(t *testing.T) (w *world, l *lan, hosts []*host, boxes []*box) {
	t.Helper()
	w = newWorld(t)
	l = w.lan("lan")
	hosts = []*host{w.host("weave01", l.at("10.0.0.1/24")), w.host("weave02", l.at("10.0.0.2/24"))}
	w.mesh(hosts...)
	boxes = w.boxes(hosts...)
	w.answers(boxes...)
	return w, l, hosts, boxes
}

// TestPortComesBack: whatever is done to the port and its bridge, the port joins
// again.
func TestPortComesBack(t *testing.T) {
	t.Parallel()
	w, _, hosts, boxes := pair(t)
	ns := hosts[1].Host
	const tap, bridge = "meshd0", peer.DefaultBridge
	for _, tt := range []struct {
		name string
		harm func()
		mend func()
	}{
		{"port taken off the bridge", func() { w.must(ns.Leave(tap)) }, nil},
		{"port set down", func() { w.must(ns.Down(tap)) }, nil},
		{"port deleted", func() { w.must(ns.Delete(tap)) }, nil},
		{"bridge set down", func() { w.must(ns.Down(bridge)) }, nil},
		{"bridge deleted", func() { w.must(ns.Delete(bridge)) }, func() {
			w.eventually("the bridge is there", func(context.Context) error {
				_, err := ns.Look(bridge)
				return err
			})
			boxes[1].reattach()
		}},
		{"bridge replaced", func() {
			w.must(ns.Delete(bridge))
			if err := ns.AddBridge(bridge); err != nil && !strings.Contains(err.Error(), "file exists") {
				w.Fatal(err) // meshd may have been quicker
			}
		}, func() { boxes[1].reattach() }},
	} {
		w.Logf("%s", tt.name)
		tt.harm()
		if tt.mend != nil {
			tt.mend()
		}
		w.eventually(tt.name+": port joined", func(context.Context) error {
			link, err := ns.Look(tap)
			if err != nil {
				return err
			}
			b, err := ns.Look(bridge)
			if err != nil {
				return err
			}
			if link.Master != bridge || !link.Up || !b.Up {
				return fmt.Errorf("port %+v, bridge %+v", link, b)
			}
			return nil
		})
		w.answers(boxes...)
	}
	if r := hosts[0].report(); !r.Reaches(hosts[1].Name) {
		t.Error("the other host lost its neighbour over this")
	}
}

// TestAddressChange: a host gets another address and finds back.
//
//	weave01 ── lan ── weave02, 10.0.0.2, then 10.0.0.22
func TestAddressChange(t *testing.T) {
	once(t)
	t.Parallel()
	w, _, hosts, boxes := pair(t)
	for _, h := range hosts {
		old := h.plugs[0].addrs[0]
		next := netip.PrefixFrom(netip.MustParseAddr(h.addr()+"2"), old.Bits())
		w.Logf("%s: %v becomes %v", h.NickName, old, next)
		w.must(h.Host.DelAddress("eth0", old))
		w.must(h.Host.AddAddress("eth0", next))
		h.plugs[0].addrs[0] = next
		if h == hosts[0] {
			// weave02's only target is gone: somebody has to tell it.
			_, err := hosts[1].Command(w.within(patience), "connect", h.addr())
			w.must(err)
		}
		w.joined(hosts...)
		w.answers(boxes...)
	}
}

// TestNATRebind: a NAT between two hosts gives the inner one's datagrams another
// port; the path follows, and the control connection stays.
//
//	weave01 10.0.0.1 ── lan ── 10.0.0.254 nat 10.1.0.254 ── home ── weave02 10.1.0.2
func TestNATRebind(t *testing.T) {
	once(t)
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan, home := w.lan("lan"), w.lan("home")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", home.at("10.1.0.2/24"))
	nat := w.router("nat", lan.at("10.0.0.254/24"), home.at("10.1.0.254/24"))
	b.gateway("10.1.0.254")
	w.nft(nat, `
table ip nat {
	chain post { type nat hook postrouting priority 100; oifname "eth0" masquerade random; }
}`)
	a.start()
	b.start(a.addr())
	w.joined(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)

	before, _ := a.report().Active(b.Name)
	pings := boxes[0].pings(boxes[1])
	w.forgetMappings(nat)
	w.eventually("the path follows", func(ctx context.Context) error {
		r, err := a.Report(ctx)
		if err != nil {
			return err
		}
		after, ok := r.Active(b.Name)
		if !ok || after.Paths[0].Address == before.Paths[0].Address {
			return fmt.Errorf("path of %s is %+v", b.NickName, after.Paths)
		}
		return nil
	})
	pings.more(20)
	s := pings.end()
	if s.Outage > relayOutage {
		t.Errorf("pings: %v, want an outage of at most %v", s, relayOutage)
	}
	after, _ := a.report().Active(b.Name)
	if after.Address != before.Address {
		t.Errorf("control connection from %s, was %s: want the same one", after.Address, before.Address)
	}
}

// TestCleanEnd: a daemon that ends leaves what others use and nothing else.
func TestCleanEnd(t *testing.T) {
	t.Parallel()
	w, _, hosts, boxes := pair(t)
	a := hosts[0]
	links := func() []string {
		names, err := a.Host.Links()
		w.must(err)
		slices.Sort(names)
		return names
	}
	a.down()
	if got := links(); !slices.Contains(got, peer.DefaultBridge) || slices.Contains(got, "meshd0") {
		t.Errorf("with a container attached: %v left, want the bridge and no port", got)
	}
	a.again()
	w.joined(hosts...)
	w.answers(boxes...)

	w.must(boxes[0].Delete("ethwe"))
	w.eventually("the container's cable is gone", func(context.Context) error {
		if got := len(links()); got != 4 {
			return fmt.Errorf("%d interfaces, want lo, eth0, bridge and port: %v", got, links())
		}
		return nil
	})
	a.down()
	if got := links(); !slices.Equal(got, []string{"eth0", "lo"}) {
		t.Errorf("with nothing attached: %v left, want eth0 and lo", got)
	}
}

// TestDown: `meshd down` ends the daemon.
func TestDown(t *testing.T) {
	t.Parallel()
	w, _, hosts, _ := pair(t)
	proc := hosts[1].Last()
	if out, err := hosts[1].Command(w.within(patience), "down"); err != nil {
		t.Errorf("meshd down = %q, %v", out, err)
	}
	select {
	case <-proc.Done():
		if err := proc.Err(); err != nil {
			t.Errorf("meshd up ended with %v, want exit code 0", err)
		}
	case <-time.After(endTime):
		t.Error("meshd up goes on")
	}
	w.lost(hosts[1], hosts[0])
}
