package control

import (
	"context"
	"net/netip"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/transport"
)

// PeerView is a peer as those see it who look for a direct way to it.
type PeerView struct {
	Name     frame.PeerName
	NickName string // empty while it is only named by others
	UID      uint64 // 0: not known yet
	Session  bool
	Direct   bool           // a path to it works
	Native   bool           // it is a neighbour, and meshd
	Dialled  bool           // we have dialled its session over TCP: it can be reached
	Addr     netip.AddrPort // the other end of its session
	Sees     netip.Addr     // of us, as it tells; invalid: nothing, or it is no neighbour
	Paths    []transport.PathStats
}

// tellWatch tells who watches of all peers.
func (m *Mesh) tellWatch() {
	if m.cfg.Watch == nil {
		return
	}
	views := make([]PeerView, 0, m.topo.Len())
	for p := range m.topo.All() {
		if p.Name == m.cfg.Self.Name {
			continue
		}
		v := PeerView{Name: p.Name, NickName: p.NickName, UID: p.UID}
		if n := m.neighbours[p.Name]; n != nil {
			v.Direct, v.Session, v.Addr = n.established, n.session != nil, n.at.Addr
			v.Native = n.session == nil || n.session.native
			v.Dialled = n.outbound && n.at.Carrier == CarrierTCP
			v.Sees = seen(p, m.cfg.Self.Name)
			v.Paths = n.link.Paths()
		}
		views = append(views, v)
	}
	m.cfg.Watch(views)
}

// seen is the IP address at which a peer says that it sees another one's control
// connection. Stock routers say it too.
func seen(by routing.Peer, who frame.PeerName) netip.Addr {
	c, _ := by.Connection(who)
	at, _ := parseTopologyAddress(c.RemoteAddr)
	return at.Addr.Addr().Unmap()
}

// Meet makes a session with a peer that was found at an address, over the carrier
// QUIC, and returns when there is one. Of two sessions with a peer one stays (weave
// protocol, section 1.9): it is an error if that is the other one. Safe from any goroutine but the mesh's while Run runs.
func (m *Mesh) Meet(ctx context.Context, peer frame.PeerName, at netip.AddrPort) error {
	stream, err := m.dial(ctx, Candidate{CarrierQUIC, at})
	if err != nil {
		return err
	}
	return m.greet(ctx, stream, CarrierQUIC, &target{name: peer, wait: retryFirst}, peer)
}
