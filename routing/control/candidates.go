package control

import (
	"net/netip"
	"slices"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// maxCandidates is how many addresses are tried for one target.
const maxCandidates = 8

// Discover takes the addresses of all peers from the topology: weave protocol
// section 7.1. Peers that are named by others but found no room in it are left out:
// they would push each other from the table of targets at each look.
func (ts *targets) Discover(topo *routing.Topology, now time.Time) {
	ts.changed = true
	addrs := map[frame.PeerName][]netip.AddrPort{}
	for p := range topo.All() {
		if p.Name == ts.self {
			continue
		}
		for _, c := range p.Connections {
			if _, known := topo.Peer(c.Peer); !known || c.Peer == ts.self {
				continue
			}
			if a, ok := ts.dialable(c); ok {
				addrs[c.Peer] = appendCandidate(addrs[c.Peer], a, c.Outbound)
			}
		}
	}
	for name, candidates := range addrs {
		if t := ts.discovered(name, now); t != nil {
			t.known = now
			t.candidates = mergeCandidates(candidates, t.candidates)
		}
	}
}

// dialable is where the other end of a peer's connection may listen. What others
// say is not dialled unless it can be another host: loopback, link-local and
// group addresses are not.
func (ts *targets) dialable(c routing.Connection) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(c.RemoteAddr)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" || ts.ourselves[a] {
		return netip.AddrPort{}, false
	}
	if ip := a.Addr().Unmap(); !ip.IsGlobalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.AddrPort{}, false
	}
	if !c.Outbound {
		a = netip.AddrPortFrom(a.Addr(), ts.port)
	}
	return a, !ts.ourselves[a]
}

// appendCandidate puts addresses that somebody has dialled before guessed ones.
func appendCandidate(list []netip.AddrPort, a netip.AddrPort, dialled bool) []netip.AddrPort {
	switch {
	case slices.Contains(list, a) || len(list) >= maxCandidates:
		return list
	case dialled:
		return slices.Insert(list, 0, a)
	}
	return append(list, a)
}

// mergeCandidates keeps known addresses behind the ones told now.
func mergeCandidates(now, before []netip.AddrPort) []netip.AddrPort {
	for _, a := range before {
		if !slices.Contains(now, a) && len(now) < maxCandidates {
			now = append(now, a)
		}
	}
	return now
}

// free are the addresses of a discovered target where no other peer is known to
// be: dialling one that is connected would only replace its session.
func (ts *targets) free(t *target) []netip.AddrPort {
	taken := map[netip.AddrPort]bool{}
	for _, c := range ts.connected {
		if c.outbound {
			taken[c.addr] = true
		} else {
			taken[netip.AddrPortFrom(c.addr.Addr(), ts.port)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(t.candidates), func(a netip.AddrPort) bool { return taken[a] })
}

// dropCandidate forgets an address of a discovered target, where somebody else was
// found.
func (t *target) dropCandidate(a netip.AddrPort) {
	t.candidates = slices.DeleteFunc(slices.Clone(t.candidates), func(x netip.AddrPort) bool { return x == a })
}
