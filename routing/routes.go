package routing

import (
	"maps"
	"math/bits"
	"slices"

	"meshd/internal/frame"
)

// graph is the topology at one moment, with peers numbered in the order of their
// names. It never changes, so a FIB reads it without a lock.
type graph struct {
	names   []frame.PeerName // ascending
	index   map[frame.PeerName]int32
	self    int32
	claimed [][]int32 // ends of each peer's connections, as it lists them
	strict  [][]int32 // those that both ends hold for established (section 4.1)
	hop     []int32   // first hop from us to each peer over strict
	hopAll  []int32   // the same over claimed
}

// unreached stands in a table of hops for a peer that was not reached.
const unreached = -1

// graph returns the graph of the entries as they are now.
func (t *Topology) graph() *graph {
	if t.cached != nil {
		return t.cached
	}
	g := &graph{
		names: slices.Sorted(maps.Keys(t.peers)),
		index: make(map[frame.PeerName]int32, len(t.peers)),
	}
	for i, name := range g.names {
		g.index[name] = int32(i)
	}
	g.self = g.index[t.self.Name]
	g.claimed = make([][]int32, len(g.names))
	g.strict = make([][]int32, len(g.names))
	for i, name := range g.names {
		g.claimed[i], g.strict[i] = t.ends(g, t.peers[name])
	}
	_, g.hop = g.reach(g.self, unreached, g.strict)
	_, g.hopAll = g.reach(g.self, unreached, g.claimed)
	t.cached = g
	return g
}

// ends numbers the ends of p's connections. Ends without an entry, which the
// bounds or a collection left behind, are left out.
func (t *Topology) ends(g *graph, p *Peer) (claimed, strict []int32) {
	for _, c := range p.Connections {
		q, ok := g.index[c.Peer]
		if !ok {
			continue
		}
		claimed = append(claimed, q)
		if !c.Established {
			continue
		}
		if back, ok := t.peers[c.Peer].Connection(p.Name); ok && back.Established {
			strict = append(strict, q)
		}
	}
	return claimed, strict
}

// reach is the breadth-first search with ordered levels of section 4.2, which
// all peers must do alike. It returns whether stop was found and, for each peer
// seen until then, the first hop from start towards it: start itself for start,
// unreached for those not seen. With stop unreached it visits everything.
func (g *graph) reach(start, stop int32, ends [][]int32) (found bool, hop []int32) {
	hop = make([]int32, len(g.names))
	for i := range hop {
		hop[i] = unreached
	}
	hop[start] = start
	level, next := []int32{start}, []int32(nil)
	for len(level) > 0 {
		slices.Sort(level) // numbers are in the order of names
		next = next[:0]
		for _, p := range level {
			if p == stop {
				return true, hop
			}
			for _, q := range ends[p] {
				if hop[q] != unreached {
					continue
				}
				if hop[q] = hop[p]; p == start {
					hop[q] = q
				}
				next = append(next, q)
			}
		}
		level, next = next, level
	}
	return false, hop
}

// flood returns to whom we pass what source flooded (section 4.3), ascending.
func (g *graph) flood(source int32, ends [][]int32) []int32 {
	found, seen := g.reach(source, g.self, ends)
	if !found {
		return nil
	}
	var to []int32
	for _, q := range ends[g.self] {
		if seen[q] == unreached {
			to = append(to, q)
		}
	}
	return to
}

func (g *graph) ends(strict bool) [][]int32 {
	if strict {
		return g.strict
	}
	return g.claimed
}

// Unicast returns the neighbour that leads to each peer that can be reached, and
// zero for ourselves (section 4.3). With strict it is the table for frames, which
// pass only over connections that both ends hold for established; otherwise the
// table for gossip.
func (t *Topology) Unicast(strict bool) map[frame.PeerName]frame.PeerName {
	g := t.graph()
	hop := g.hopAll
	if strict {
		hop = g.hop
	}
	table := make(map[frame.PeerName]frame.PeerName, len(hop))
	for i, h := range hop {
		switch {
		case int32(i) == g.self:
			table[g.names[i]] = 0
		case h != unreached:
			table[g.names[i]] = g.names[h]
		}
	}
	return table
}

// NextHop returns what Unicast has for one peer, without making the table; ok is
// false where the peer cannot be reached.
func (t *Topology) NextHop(dest frame.PeerName, strict bool) (via frame.PeerName, ok bool) {
	g := t.graph()
	i, ok := g.index[dest]
	if !ok || i == g.self {
		return 0, ok
	}
	hop := g.hopAll[i]
	if strict {
		hop = g.hop[i]
	}
	if hop == unreached {
		return 0, false
	}
	return g.names[hop], true
}

// Broadcast returns the neighbours, sorted, to whom we pass what source flooded
// or broadcast (section 4.3); strict as for Unicast. There are none where source
// is unknown or cannot reach us.
func (t *Topology) Broadcast(source frame.PeerName, strict bool) []frame.PeerName {
	g := t.graph()
	s, ok := g.index[source]
	if !ok {
		return nil
	}
	return g.named(g.flood(s, g.ends(strict)))
}

func (g *graph) named(peers []int32) []frame.PeerName {
	var names []frame.PeerName
	for _, p := range peers {
		names = append(names, g.names[p])
	}
	return names
}

// NeighbourSubset picks the neighbours that gossip goes to (section 3.5): at most
// ⌊2·log2 N⌋ of them where N peers can be reached, each with a chance that grows
// with the number of peers behind it. except, the neighbour that the gossip came
// from, is left out; zero leaves out nobody. The result is sorted.
func (t *Topology) NeighbourSubset(except frame.PeerName) []frame.PeerName {
	g := t.graph()
	reached := 0
	behind := map[int32]int{} // peers behind each neighbour
	for i, h := range g.hopAll {
		if h == unreached {
			continue
		}
		reached++
		if int32(i) != g.self && g.names[h] != except {
			behind[h]++
		}
	}
	// Sorted, because the order of a map would make the choice irreproducible.
	from := slices.Sorted(maps.Keys(behind))
	return g.named(t.draw(from, behind, twiceLog2(reached)))
}

// draw picks at most n of the sorted from, weighted, without repetition.
func (t *Topology) draw(from []int32, weight map[int32]int, n int) []int32 {
	if len(from) <= n {
		return from
	}
	total := 0
	for _, p := range from {
		total += weight[p]
	}
	picked := make([]int32, 0, n)
	for len(picked) < n {
		at, i := t.rng.IntN(total), 0
		for at >= weight[from[i]] {
			at -= weight[from[i]]
			i++
		}
		picked = append(picked, from[i])
		total -= weight[from[i]]
		from = slices.Delete(from, i, i+1)
	}
	slices.Sort(picked)
	return picked
}

// twiceLog2 returns ⌊2·log2 n⌋ = ⌊log2 n²⌋ for n ≥ 1.
func twiceLog2(n int) int {
	return bits.Len64(uint64(n)*uint64(n)) - 1
}
