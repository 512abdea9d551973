package control

import (
	"errors"
	"net/netip"
	"time"

	"meshd/routing"
	"meshd/transport"
)

// neighbour is a peer that we have a session with, or had until a moment ago
// while its link still carries frames. Owned by the mesh's goroutine.
type neighbour struct {
	peer        transport.Peer
	link        *transport.Link
	session     *session // nil: lost, the link lives on
	addr        netip.AddrPort
	outbound    bool
	established bool // as our topology entry says
}

// entry is the neighbour's connection in our topology entry.
func (n *neighbour) entry() routing.Connection {
	return routing.Connection{
		Peer: n.peer.Name, RemoteAddr: n.addr.String(),
		Outbound: n.outbound, Established: n.established,
	}
}

// addSession takes a session whose handshake is done into the mesh, or says why
// not: weave protocol section 1.8, steps 2 to 6.
func (m *Mesh) addSession(s *session) error {
	if m.stopping {
		return errStopping
	}
	if err := m.admit(s); err != nil {
		return err
	}
	old := m.neighbours[s.peer.Name]
	if old != nil && old.session != nil {
		if err := m.resolveDuplicate(old.session, s); err != nil {
			return err
		}
	} else if limit := m.set.ConnLimit; limit > 0 && len(m.sessions) >= limit {
		return &limitError{limit}
	}
	old = m.neighbours[s.peer.Name] // a stock peer's is gone with its session
	if old != nil && old.peer.UID != s.peer.UID {
		m.removeNeighbour(old, "it restarted")
		old = nil
	}
	if err := s.attach(m.cfg.Set, m.cfg.Self); err != nil {
		return err
	}
	m.join(s, old)
	return nil
}

// admit checks who the neighbour is.
func (m *Mesh) admit(s *session) error {
	switch {
	case s.peer.Name == m.cfg.Self.Name && s.peer.UID == m.cfg.Self.UID:
		return errSelf
	case s.peer.Name == m.cfg.Self.Name:
		return &collisionError{name: s.peer.Name, nick: s.peer.NickName, addr: s.addr}
	}
	m.targets.Behind(s.target, s.peer.Name)
	if s.expect == nil {
		return nil
	}
	if _, known := m.topo.Peer(s.peer.Name); !known && *s.expect != s.peer.Name {
		return &strangerError{name: s.peer.Name, addr: s.addr}
	}
	return nil
}

// resolveDuplicate decides between two connections to one peer. The one with the
// lower connection UID survives, so that both ends agree (section 1.9), except
// that a restarted peer's new connection beats the old one, and a connection that
// has been silent for longer than a live one can be loses to any newcomer.
func (m *Mesh) resolveDuplicate(old, new *session) error {
	newer := old.peer.UID != new.peer.UID || old.silent() || new.uid < old.uid
	switch {
	case old.uid == new.uid && old.peer.UID == new.peer.UID:
		m.endSession(old, errDuplicate)
		return errDuplicate
	case !newer:
		return errDuplicate
	}
	m.endSession(old, errReplaced)
	return nil
}

// join makes the session its neighbour's, and starts it.
func (m *Mesh) join(s *session, old *neighbour) {
	n := &neighbour{
		peer: s.peer, link: s.att.Link(), session: s,
		addr: s.addr, outbound: s.dialled,
	}
	if old != nil {
		n.established = old.established && old.link == n.link
	}
	s.joined = time.Now()
	m.neighbours[s.peer.Name] = n
	m.sessions[s] = struct{}{}
	f := s.conn.Features
	m.topo.Introduce(routing.Peer{
		Name: f.Name, NickName: f.NickName, UID: f.UID, ShortID: f.ShortID, HasShortID: f.HasShortID,
	})
	m.topo.SetConnection(n.entry())
	m.targets.Connected(s.peer.Name, s.target, s.addr, s.dialled, time.Now())
	m.log.Info("session with neighbour", "peer", s.peer.Name, "nickname", s.peer.NickName,
		"addr", s.addr, "outbound", s.dialled, "protocol", s.conn.Version, "encrypted", s.conn.Encrypted, "native", s.native)
	s.start(m)
	s.queueTopology(m.allNames())
	m.LinksChanged()
	plan(&m.due.routes, routesLater)
	plan(&m.due.announce, announceDelay)
	plan(&m.due.again, announceAgain)
	plan(&m.due.remember, announceAgain)
}

// endSession takes a session out of the mesh. Between meshd peers its paths live
// on while they work, unless the peer said goodbye.
func (m *Mesh) endSession(s *session, why error) {
	if _, live := m.sessions[s]; !live {
		return
	}
	delete(m.sessions, s)
	m.ended++
	s.close(why)
	n := m.neighbours[s.peer.Name]
	if n == nil || n.session != s {
		s.att.Lose(0)
		return
	}
	m.log.Info("session ended", "peer", s.peer.Name, "nickname", s.peer.NickName, "addr", s.addr, "err", why)
	n.session = nil
	m.targets.Ended(s.peer.Name, s.joined, why, time.Now())
	if s.native && !errors.Is(why, errLeft) && !m.stopping && n.link.State().Up {
		s.att.Lose(linkLinger)
		return
	}
	s.att.Lose(0)
	m.removeNeighbour(n, "session ended")
}

// removeNeighbour takes the neighbour's connection out of the topology.
func (m *Mesh) removeNeighbour(n *neighbour, why string) {
	if m.neighbours[n.peer.Name] != n {
		return
	}
	delete(m.neighbours, n.peer.Name)
	if n.session != nil {
		s := n.session
		n.session = nil
		m.endSession(s, errReplaced)
	}
	m.log.Info("neighbour gone", "peer", n.peer.Name, "nickname", n.peer.NickName, "reason", why)
	m.topo.RemoveConnection(n.peer.Name)
	m.collect()
	m.announce()
	plan(&m.due.again, announceAgain)
	plan(&m.due.routes, 0)
}
