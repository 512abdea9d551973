package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/ethtool"
	"meshd/internal/frame"
	"meshd/internal/lab"
)

// weaves gives a container what `weave attach` does: another name, no alias, the
// checksum offload off.
func (h host) weaves(c *lab.Namespace, hostSide, addr string) frame.MAC {
	h.t.Helper()
	must(h.t, lab.Connect(h.Namespace, hostSide, c, DefaultDevice))
	must(h.t, h.Join(hostSide, bridge))
	must(h.t, c.SetFeatures(DefaultDevice, false, "tx-checksum-ip-generic", "tx-checksum-sctp"))
	must(h.t, c.AddAddress(DefaultDevice, netip.MustParsePrefix(addr)))
	link, err := c.Look(DefaultDevice)
	must(h.t, err)
	return frame.MAC(link.MAC)
}

// TestTakesOverWeaves: MAC and addresses stay, the rest is as if we had made it.
func TestTakesOverWeaves(t *testing.T) {
	h := build(t)
	was := h.weaves(h.c1, "vethwepl4711", "10.32.0.1/24")
	h.attached(h.c2, "10.32.0.2/24")
	if i, ok := h.inspect(h.c1); ok {
		t.Errorf("Inspect() = %+v before it is attached", i)
	}
	ns := h.open(h.c1)
	must(t, h.Do(func() error {
		i, ok, err := OfWeave(ns, bridge)
		if !ok || i.MAC != was || !slices.Equal(i.Addresses, prefixes("10.32.0.1/24")) {
			t.Errorf("OfWeave() = %+v, %v", i, ok)
		}
		return err
	}))

	got := h.attached(h.c1, "10.32.0.1/24", "10.32.0.3/24")
	if got.MAC != was || got.MTU != bridgeMTU || !sameAddresses(got.Addresses, prefixes("10.32.0.1/24", "10.32.0.3/24")) {
		t.Errorf("Attach() = %+v, want the MAC %s", got, was)
	}
	if names, err := h.Links(); err != nil || slices.Contains(names, "vethwepl4711") {
		t.Errorf("devices = %v, %v", names, err)
	}
	if left := h.leftovers(); !slices.Contains(left, Leftover{Key: h.c1.Name, Device: got.HostDevice, Joined: true}) {
		t.Errorf("Leftovers() = %+v", left)
	}
	features, err := h.c1.Features(DefaultDevice)
	must(t, err)
	if !features["tx-checksum-ip-generic"] || !features["tx-tcp-segmentation"] {
		t.Errorf("offloads are off still: %v", features)
	}
	if value := setting(t, h.c1, "ipv4/neigh/ethwe/base_reachable_time_ms"); value != "5000" {
		t.Errorf("base_reachable_time_ms = %s", value)
	}
	ping(t, h.c1, "10.32.0.2")
	if again := h.attached(h.c1, "10.32.0.1/24"); !same(again, got) {
		t.Errorf("attached again it is %+v, was %+v", again, got)
	}
	left, err := h.detach(h.c1)
	if len(left) > 0 || err != nil {
		t.Errorf("Detach() = %v, %v", left, err)
	}
	wantLinks(t, h.c1, "lo")
}

// TestWeavesStaysOnFailure: what does not work out leaves Weave's interface as it was.
func TestWeavesStaysOnFailure(t *testing.T) {
	h := build(t)
	h.weaves(h.c1, "vethwepl4711", "10.32.0.1/24")
	must(t, errors.Join(h.SetMTU("vethwepl4711", bridgeMTU-10), h.c1.SetMTU(DefaultDevice, bridgeMTU-10)))
	ns := h.open(h.c1)
	unmount(t, h.c1) // as if it ended meanwhile
	err := h.Do(func() error {
		_, err := Attach(ns, options(h.c1, "10.32.0.1/24", "10.32.0.3/24"))
		return err
	})
	if !errors.Is(err, ErrEnded) {
		t.Errorf("Attach() = %v, want %v", err, ErrEnded)
	}
	wantLinks(t, h.Namespace, "lo", "vethwepl4711", bridge)
	if alias := aliasOf(t, h.Namespace, "vethwepl4711"); alias != "" {
		t.Errorf("its alias is %q", alias)
	}
	must(t, h.Do(func() error {
		i, ok, err := OfWeave(ns, bridge)
		if !ok || !slices.Equal(i.Addresses, prefixes("10.32.0.1/24")) || i.MTU != bridgeMTU-10 {
			t.Errorf("OfWeave() = %+v, %v", i, ok)
		}
		return err
	}))
	if outer, err := h.Look("vethwepl4711"); err != nil || outer.MTU != bridgeMTU-10 || !outer.Up {
		t.Errorf("host side = %+v, %v", outer, err)
	}
	must(t, ns.do(func() error {
		on, err := ethtool.Get(DefaultDevice, unix.ETHTOOL_GTXCSUM)
		if on != 0 {
			t.Errorf("its checksum offload is on, and Weave's router captures what it sends")
		}
		return err
	}))
}

// TestNeverHalfOurs: whoever ends in the middle of a takeover leaves Weave's device or
// ours. One with our name alone would be in the way of the next attempt.
func TestNeverHalfOurs(t *testing.T) {
	h := build(t)
	h.weaves(h.c1, "vethwepl4711", "10.32.0.1/24")
	key, ours := h.c1.Name, hostName(h.c1.Name)
	ns := h.open(h.c1)
	done := make(chan error, 1) // one send
	var end atomic.Bool
	go func() {
		done <- h.Do(func() error {
			for !end.Load() {
				link, err := netlink.LinkByName(ours)
				if err == nil && link.Attrs().Alias != tag+key {
					return fmt.Errorf("%s has the alias %q", ours, link.Attrs().Alias)
				}
			}
			return nil
		})
	}()
	must(t, h.Do(func() error {
		p, err := openPair(ns, key, DefaultDevice)
		if err != nil {
			return err
		}
		defer p.close()
		a := &attachment{pair: p}
		if a.outer, err = netlink.LinkByName("vethwepl4711"); err != nil {
			return err
		}
		for range 200 {
			if err := errors.Join(a.nameOuter(ours, tag+key), a.nameOuter("vethwepl4711", "")); err != nil {
				return err
			}
		}
		return nil
	}))
	end.Store(true)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNotWeaves: what only looks like Weave's is left alone.
func TestNotWeaves(t *testing.T) {
	for _, tt := range []struct {
		name, hostSide string
		change         func(h host) error
	}{
		{"another name", "vethwexy4711", func(host) error { return nil }},
		{"another's alias", "vethwepl4711", func(h host) error {
			return h.Do(func() error { return setAlias("vethwepl4711", "theirs") })
		}},
		{"another bridge", "vethwepl4711", func(h host) error {
			return errors.Join(h.AddBridge("other"), h.Join("vethwepl4711", "other"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := build(t)
			h.weaves(h.c1, tt.hostSide, "10.32.0.1/24")
			must(t, tt.change(h))
			if _, err := h.attach(h.c1, options(h.c1, "10.32.0.1/24")); !errors.Is(err, ErrForeign) {
				t.Errorf("Attach() = %v, want %v", err, ErrForeign)
			}
		})
	}
}

// TestNotAnothersWeaves: a container that may make devices cannot have the interface of
// another one taken over for its own.
func TestNotAnothersWeaves(t *testing.T) {
	h := build(t)
	h.weaves(h.c2, "vethwepl4711", "10.32.0.2/24")
	index := 0
	must(t, h.Do(func() error {
		link, err := netlink.LinkByName("vethwepl4711")
		if err == nil {
			index = link.Attrs().Index
		}
		return err
	}))
	must(t, h.c1.Do(func() error { // the number of its other end is that of the host's
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "end", Index: index}, PeerName: DefaultDevice})
	}))
	ns := h.open(h.c1)
	must(t, h.Do(func() error {
		i, ok, err := OfWeave(ns, bridge)
		if ok {
			t.Errorf("OfWeave() = %+v", i)
		}
		return err
	}))
	if _, err := h.attach(h.c1, options(h.c1, "10.32.0.1/24")); !errors.Is(err, ErrForeign) {
		t.Errorf("Attach() = %v, want %v", err, ErrForeign)
	}
	if alias := aliasOf(t, h.Namespace, "vethwepl4711"); alias != "" {
		t.Errorf("the other one's alias is %q", alias)
	}
}
