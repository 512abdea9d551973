package routing

import (
	"cmp"
	"slices"

	"meshd/internal/frame"
)

// Bounds on what the topology holds of what others claim (weave protocol,
// section 9.2).
const (
	// MaxPeers is how many peers gossip can make known: as many as there are
	// short IDs. Neighbours that introduce themselves come on top.
	MaxPeers = 4096
	// MaxConnections is how many connections one entry may list.
	MaxConnections = 1024
	// MaxLinks is how many connections all entries together may list.
	MaxLinks = 1 << 18
	// MaxNickName is the longest nickname in bytes.
	MaxNickName = 255
	// MaxRemoteAddr is the longest address of a connection in bytes.
	MaxRemoteAddr = 64
	// ShortIDs is the number of short IDs; they are 0 to ShortIDs-1.
	ShortIDs = 1 << 12
)

// Connection is one connection as the peer that has it describes it.
type Connection struct {
	Peer        frame.PeerName // the other end
	RemoteAddr  string         // control address of the other end as this end sees it
	Outbound    bool           // this end dialled
	Established bool           // this end holds the path for working
}

// Peer is one entry of the topology. Values that a Topology returns share their
// Connections with it; nobody modifies those, so they may be kept.
type Peer struct {
	Name       frame.PeerName
	NickName   string
	UID        uint64 // of the incarnation; 0: a placeholder, known only as a connection's end
	Version    uint64 // rises with each change of the entry
	ShortID    uint16 // 0 to ShortIDs-1
	HasShortID bool
	// Connections is sorted by the name of the other end, each name once.
	Connections []Connection
}

// Connection returns the connection to the named peer.
func (p Peer) Connection(to frame.PeerName) (Connection, bool) {
	i, ok := findConnection(p.Connections, to)
	if !ok {
		return Connection{}, false
	}
	return p.Connections[i], true
}

func findConnection(conns []Connection, to frame.PeerName) (int, bool) {
	return slices.BinarySearchFunc(conns, to, func(c Connection, n frame.PeerName) int {
		return cmp.Compare(c.Peer, n)
	})
}

// plausible checks an entry's own fields. A short ID that is none is not a
// reason to refuse an entry; see sanitise.
func (p *Peer) plausible() bool {
	return p.Name.Valid() && len(p.NickName) <= MaxNickName && len(p.Connections) <= MaxConnections
}

// sanitise makes the entry its own owner of well-formed connections. It reports
// false where they are not.
func (p *Peer) sanitise() bool {
	if p.HasShortID && p.ShortID >= ShortIDs {
		p.HasShortID = false
	}
	if !p.HasShortID {
		p.ShortID = 0
	}
	p.Connections = slices.Clone(p.Connections)
	slices.SortFunc(p.Connections, func(a, b Connection) int { return cmp.Compare(a.Peer, b.Peer) })
	for i, c := range p.Connections {
		if !c.Peer.Valid() || c.Peer == p.Name || len(c.RemoteAddr) > MaxRemoteAddr {
			return false
		}
		if i > 0 && c.Peer == p.Connections[i-1].Peer {
			return false
		}
	}
	return true
}
