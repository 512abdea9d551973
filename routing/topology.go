package routing

import (
	"iter"
	"maps"
	"math/rand/v2"
	"slices"

	"meshd/internal/frame"
)

// Topology is what is known of the mesh: an entry for each peer, our own
// included (weave protocol, section 3.3). It belongs to one goroutine.
type Topology struct {
	self    *Peer // also in peers
	peers   map[frame.PeerName]*Peer
	links   int    // connections in all entries
	claimed uint64 // highest version others claimed for this incarnation of ours
	rng     *rand.Rand
	cached  *graph // nil: entries changed since
}

// NewTopology returns a topology that knows only ourselves. self has no
// connections yet, and a version below which no entry of ours is meant to be, such
// as FirstVersion; without a short ID it gets a random one (section 3.6). rng
// picks short IDs and neighbour subsets; nil stands for one seeded by the
// runtime.
func NewTopology(self Peer, rng *rand.Rand) *Topology {
	if rng == nil {
		rng = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	self.Connections = nil
	t := &Topology{
		self:  &self,
		peers: map[frame.PeerName]*Peer{self.Name: &self},
		rng:   rng,
	}
	if !self.HasShortID {
		t.self.ShortID, t.self.HasShortID = t.freeShortID()
	}
	return t
}

// Self returns our own entry.
func (t *Topology) Self() Peer { return *t.self }

// Peer returns the entry of the named peer.
func (t *Topology) Peer(name frame.PeerName) (Peer, bool) {
	p, ok := t.peers[name]
	if !ok {
		return Peer{}, false
	}
	return *p, true
}

// Len returns the number of known peers, ourselves and placeholders included.
func (t *Topology) Len() int { return len(t.peers) }

// Placeholders returns, sorted, the peers that are known only as the end of
// somebody's connection.
func (t *Topology) Placeholders() (names []frame.PeerName) {
	for name, p := range t.peers {
		if p.UID == 0 && p.Version == 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// All walks over all entries in the order of their names.
func (t *Topology) All() iter.Seq[Peer] {
	return func(yield func(Peer) bool) {
		for _, name := range slices.Sorted(maps.Keys(t.peers)) {
			if p, ok := t.peers[name]; ok && !yield(*p) {
				return
			}
		}
	}
}

// Introduction is the outcome of Introduce.
type Introduction struct {
	Before      Peer // the entry as it was; meaningless unless Known
	Known       bool // there was an entry, maybe a placeholder
	Restarted   bool // there was one with another UID (section 1.10)
	SelfChanged bool // we lost our short ID to the peer: gossip our entry
}

// Introduce makes known a peer that introduced itself in a handshake: name,
// nickname, UID and short ID count, the rest comes by gossip. An entry that is
// more than a placeholder stays as it is. A neighbour is taken even where the
// topology is full, so that invented peers do not keep real ones out.
func (t *Topology) Introduce(p Peer) Introduction {
	known, ok := t.peers[p.Name]
	if !ok {
		known = &Peer{Name: p.Name}
		t.peers[p.Name] = known
	}
	in := Introduction{Before: *known, Known: ok, Restarted: ok && known.UID != p.UID}
	if known == t.self || known.UID != 0 || known.Version != 0 {
		return in
	}
	known.NickName, known.UID = p.NickName, p.UID
	known.ShortID, known.HasShortID = p.ShortID, p.HasShortID && p.ShortID < ShortIDs
	in.SelfChanged = t.defendShortID(known)
	t.cached = nil
	return in
}

// SetConnection adds a connection of ours or changes it, and raises our version
// by one. It reports whether anything changed. An unknown peer at the other end
// becomes known as a placeholder.
func (t *Topology) SetConnection(c Connection) bool {
	i, ok := findConnection(t.self.Connections, c.Peer)
	if ok && t.self.Connections[i] == c {
		return false
	}
	conns := slices.Clone(t.self.Connections)
	if ok {
		conns[i] = c
	} else {
		conns = slices.Insert(conns, i, c)
	}
	t.setOwn(conns)
	if t.peers[c.Peer] == nil {
		t.peers[c.Peer] = &Peer{Name: c.Peer}
	}
	return true
}

// RemoveConnection takes the connection to the named peer from our entry and
// raises our version by one. It reports whether there was one.
func (t *Topology) RemoveConnection(to frame.PeerName) bool {
	i, ok := findConnection(t.self.Connections, to)
	if !ok {
		return false
	}
	t.setOwn(slices.Delete(slices.Clone(t.self.Connections), i, i+1))
	return true
}

// SetNickName changes our nickname and raises our version by one. It reports
// whether it was another one.
func (t *Topology) SetNickName(nick string) bool {
	if t.self.NickName == nick {
		return false
	}
	t.self.NickName = nick
	t.self.Version++
	return true
}

func (t *Topology) setOwn(conns []Connection) {
	t.links += len(conns) - len(t.self.Connections)
	t.self.Connections = conns
	t.self.Version++
	t.cached = nil
}

// Collect forgets every peer that cannot be reached from us over claimed
// connections, unless keep says that a live connection refers to it; keep may be
// nil. It returns the names of the forgotten, sorted, and whether our own entry
// changed because a short ID became free. Do not collect right after a merge:
// entries often precede the entry that makes them reachable (section 3.3).
func (t *Topology) Collect(keep func(frame.PeerName) bool) (gone []frame.PeerName, selfChanged bool) {
	g := t.graph()
	for i, name := range g.names {
		if g.hopAll[i] != unreached || keep != nil && keep(name) {
			continue
		}
		gone = append(gone, name)
		t.links -= len(t.peers[name].Connections)
		delete(t.peers, name)
	}
	if len(gone) > 0 {
		t.cached = nil
	}
	if !t.self.HasShortID {
		if t.self.ShortID, t.self.HasShortID = t.freeShortID(); t.self.HasShortID {
			t.self.Version++
			selfChanged = true
		}
	}
	return gone, selfChanged
}
