package demo

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// first is the address that weave02 and weave03 are given.
const first = "10.142.130.16"

// hostPlan is one host and its container.
type hostPlan struct {
	nick, name string // peer name
	vlan       int    // index of vlans
	addr       netip.Prefix
	container  string
	inner      netip.Prefix // the container's address on the mesh
	targets    []string
}

var plan = []hostPlan{
	{"weave01", "02:00:00:00:00:01", 0, netip.MustParsePrefix(first + "/26"),
		"c10", netip.MustParsePrefix("192.168.99.10/24"), nil},
	{"weave02", "02:00:00:00:00:02", 0, netip.MustParsePrefix("10.142.130.17/26"),
		"c21", netip.MustParsePrefix("192.168.99.21/24"), []string{first}},
	{"weave03", "02:00:00:00:00:03", 1, netip.MustParsePrefix("10.107.153.153/26"),
		"c31", netip.MustParsePrefix("192.168.99.31/24"), []string{first}},
}

// vlans are the switches, with the router's address on each.
var vlans = []struct {
	name    string
	gateway netip.Prefix
}{
	{"vlan1", netip.MustParsePrefix("10.142.130.1/26")},
	{"vlan2", netip.MustParsePrefix("10.107.153.129/26")},
}

// host is one host of the story with what is on it.
type host struct {
	hostPlan
	peer      *peer.Peer
	container *lab.Namespace
}

// inside is the container's address without its prefix length.
func (h *host) inside() netip.Addr { return h.inner.Addr() }

// build makes switches, router, hosts and containers.
func (s *story) build(ctx context.Context) error {
	router, err := s.lab.Router("router")
	if err != nil {
		return err
	}
	var switches []*lab.Switch
	for i, v := range vlans {
		sw, err := s.lab.Switch(v.name)
		if err != nil {
			return err
		}
		if err := sw.Plug(router, fmt.Sprintf("eth%d", i), v.gateway); err != nil {
			return err
		}
		switches = append(switches, sw)
	}
	for _, p := range plan {
		if err := s.addHost(p, switches[p.vlan]); err != nil {
			return err
		}
	}
	s.drawNetwork()
	return s.checkNetwork(ctx)
}

func (s *story) addHost(p hostPlan, sw *lab.Switch) error {
	n, err := s.lab.Namespace(p.nick)
	if err != nil {
		return err
	}
	if err := sw.Plug(n, "eth0", p.addr); err != nil {
		return err
	}
	gateway := vlans[p.vlan].gateway.Addr()
	if err := n.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), gateway, "eth0"); err != nil {
		return err
	}
	container, err := s.lab.Namespace(p.container)
	if err != nil {
		return err
	}
	node, err := peer.New(n, peer.Config{
		Binary: s.Binary, Dir: filepath.Join(s.lab.Dir(), p.nick),
		Name: p.name, NickName: p.nick, Peers: p.targets,
	})
	if err != nil {
		return err
	}
	s.hosts = append(s.hosts, &host{hostPlan: p, peer: node, container: container})
	return nil
}

func (s *story) drawNetwork() {
	s.say.text(
		"weave01 10.142.130.16/26 ─┐ VLAN 1             VLAN 2",
		"  └ 192.168.99.10         ├──────── router ───────── weave03 10.107.153.153/26",
		"weave02 10.142.130.17/26 ─┘                            └ 192.168.99.31",
		"  └ 192.168.99.21",
	)
}

// checkNetwork pings between the hosts, so that a fault found later is not the
// network's.
func (s *story) checkNetwork(ctx context.Context) error {
	for _, a := range s.hosts {
		for _, b := range s.hosts {
			if a == b {
				continue
			}
			if _, err := a.peer.Host.PingOnce(ctx, b.addr.Addr()); err != nil {
				return fmt.Errorf("the network without meshd: %w", err)
			}
		}
	}
	s.say.ok("every host reaches every other; no container reaches anything yet")
	return nil
}
