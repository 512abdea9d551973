package main

import (
	"context"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// Times of following the host's network.
const (
	roamSettle = 200 * time.Millisecond // changes come in bursts
	roamLook   = time.Second            // for what no event tells, a suspended process
	roamAsleep = 5 * time.Second        // a look that comes that much too late
)

// follow makes the agent begin anew when the host's addresses or default routes have
// changed, or the process has slept, until ctx is done.
func (t *traversal) follow(ctx context.Context) {
	done := make(chan struct{})
	defer close(done)
	addrs, routes := make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64)
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		t.log.Warn("changes of addresses are not noticed", "err", err)
		addrs = nil
	}
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		t.log.Warn("changes of routes are not noticed", "err", err)
		routes = nil
	}
	known := t.network()
	tick := time.NewTicker(roamLook)
	defer tick.Stop()
	var settle <-chan time.Time
	looked := time.Now().Round(0) // the clock on the wall goes on in sleep
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-addrs:
			if !ok {
				addrs = nil
			}
			settle = time.After(roamSettle)
		case _, ok := <-routes:
			if !ok {
				routes = nil
			}
			settle = time.After(roamSettle)
		case <-settle:
			settle = nil
			if now := t.network(); !slices.Equal(now, known) {
				known = now
				t.kick("addresses or routes have changed")
			}
		case <-tick.C:
			now := time.Now().Round(0)
			if now.Sub(looked) > roamAsleep {
				t.kick("the process slept")
			}
			looked = now
		}
	}
}

// kick begins anew.
func (t *traversal) kick(why string) {
	t.log.Info("looking for direct ways anew", "reason", why)
	t.hurry()
	t.agent.Kick()
	if t.mapper != nil {
		t.mapper.Again()
	}
}

// network is what direct ways depend on, as far as the host knows: its addresses, and
// its default routes.
func (t *traversal) network() (out []string) {
	for _, ip := range t.addresses.fresh() {
		out = append(out, ip.String())
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return out
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			out = append(out, r.String())
		}
	}
	return out
}
