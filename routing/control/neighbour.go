package control

import (
	"time"

	"meshd/internal/identity"
	"meshd/routing"
	"meshd/transport"
)

// neighbour is a peer that we have a session with, or had until a moment ago
// while its link still carries frames. Owned by the mesh's goroutine.
type neighbour struct {
	peer        transport.Peer
	link        *transport.Link
	session     *session  // nil: lost, the link lives on
	at          Candidate // the other end of the session, or of the last one
	outbound    bool
	established bool          // as our topology entry says
	key         *identity.Key // that the latest session showed; nil: none
	auth        Authentication
	switches    uint64 // of the link, as logged
	rival       *Rival // another host that claims its name; nil: none
}

// entry is the neighbour's connection in our topology entry. Only over TCP it says
// who dialled: an address that was dialled is one for stock routers to dial.
func (n *neighbour) entry() routing.Connection {
	return routing.Connection{
		Peer: n.peer.Name, RemoteAddr: topologyAddress(n.at),
		Outbound: n.outbound && n.at.Carrier == CarrierTCP, Established: n.established,
	}
}

// removeNeighbour takes the connection of a neighbour that has no session any more
// out of the topology.
func (m *Mesh) removeNeighbour(n *neighbour, why string) {
	if m.neighbours[n.peer.Name] != n {
		return
	}
	delete(m.neighbours, n.peer.Name)
	m.log.Info("neighbour gone", "peer", n.peer.Name, "nickname", n.peer.NickName, "reason", why)
	m.topo.RemoveConnection(n.peer.Name)
	m.collect(nil)
	m.announce()
	m.due.again = time.Now().Add(announceAgain)
	plan(&m.due.routes, 0)
	m.release(n)
}
