package control

import (
	"net/netip"
	"slices"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// maxCandidates is how many candidates one target has: eight addresses, over two
// carriers each.
const maxCandidates = 16

// Discover takes the addresses of all peers from the topology: weave protocol
// section 7.1. Peers that are named by others but found no room in it are left out:
// they would push each other from the table of targets at each look.
func (ts *targets) Discover(topo *routing.Topology, now time.Time) {
	ts.changed = true
	told := map[frame.PeerName][]Candidate{}
	for p := range topo.All() {
		if p.Name == ts.self {
			continue
		}
		for _, c := range p.Connections {
			if _, known := topo.Peer(c.Peer); !known || c.Peer == ts.self {
				continue
			}
			if at, ok := ts.dialable(c); ok {
				told[c.Peer] = appendCandidate(told[c.Peer], at, c.Outbound || at.Carrier != CarrierTCP)
			}
		}
	}
	for name, candidates := range told {
		if t := ts.discovered(name, now); t != nil {
			t.known = now
			t.candidates = mergeCandidates(candidates, t.candidates)
			ts.guess(t)
		}
	}
}

// dialable is where the other end of a peer's connection may listen. What others
// say is not dialled unless it can be another host: loopback, link-local and
// group addresses are not.
func (ts *targets) dialable(c routing.Connection) (at Candidate, ok bool) {
	at, ok = parseTopologyAddress(c.RemoteAddr)
	ownPort, have := ts.ports.of(at.Carrier)
	if a := at.Addr; !ok || !have || a.Port() == 0 || a.Addr().Zone() != "" || ts.ourselves[at] {
		return Candidate{}, false
	}
	if ip := at.Addr.Addr().Unmap(); !ip.IsGlobalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return Candidate{}, false
	}
	if at.Carrier == CarrierTCP && !c.Outbound { // the port is not the one it listens on
		at.Addr = netip.AddrPortFrom(at.Addr.Addr(), ownPort)
	}
	return at, !ts.ourselves[at]
}

// guess adds to a discovered target's candidates the other carriers of the same
// addresses, at the ports that we use ourselves: so peers that met over one
// carrier find each other when only another one passes. A peer that was met as a
// stock router has only TCP.
func (ts *targets) guess(t *target) {
	if t.stock {
		return
	}
	var guessed []Candidate
	for _, c := range t.candidates {
		for _, p := range ts.ports {
			g := Candidate{p.carrier, netip.AddrPortFrom(c.Addr.Addr(), p.port)}
			if p.carrier != c.Carrier && !ts.ourselves[g] && !reachesBy(t.candidates, g) {
				guessed = append(guessed, g)
			}
		}
	}
	t.candidates = mergeCandidates(slices.Clone(t.candidates), guessed)
}

// reachesBy reports whether a list has the carrier and IP address of c, with
// whatever port: then there is nothing to guess.
func reachesBy(list []Candidate, c Candidate) bool {
	return slices.ContainsFunc(list, func(x Candidate) bool {
		return x.Carrier == c.Carrier && x.Addr.Addr() == c.Addr.Addr()
	})
}

// appendCandidate puts addresses where somebody has been reached before guessed
// ones.
func appendCandidate(list []Candidate, c Candidate, reached bool) []Candidate {
	switch {
	case slices.Contains(list, c) || len(list) >= maxCandidates:
		return list
	case reached:
		return slices.Insert(list, 0, c)
	}
	return append(list, c)
}

// mergeCandidates keeps known addresses behind the ones told now.
func mergeCandidates(now, before []Candidate) []Candidate {
	for _, c := range before {
		if !slices.Contains(now, c) && len(now) < maxCandidates {
			now = append(now, c)
		}
	}
	return now
}

// free are the candidates of a discovered target where no other peer is known to
// be: dialling one that is connected would only replace its session. At the IP
// address of a connected peer the carriers' own ports are taken as its.
func (ts *targets) free(t *target) []Candidate {
	taken := map[Candidate]bool{}
	for _, c := range ts.connected {
		if c.outbound || c.at.Carrier != CarrierTCP {
			taken[c.at] = true
		}
		for _, p := range ts.ports {
			if p.carrier != c.at.Carrier || p.carrier == CarrierTCP && !c.outbound {
				taken[Candidate{p.carrier, netip.AddrPortFrom(c.at.Addr.Addr(), p.port)}] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(t.candidates), func(c Candidate) bool { return taken[c] })
}

// dropCandidate forgets an address of a discovered target, where somebody else was
// found.
func (t *target) dropCandidate(c Candidate) {
	t.candidates = slices.DeleteFunc(slices.Clone(t.candidates), func(x Candidate) bool { return x == c })
}
