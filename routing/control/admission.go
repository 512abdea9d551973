package control

import (
	"errors"
	"time"

	"meshd/internal/identity"
	"meshd/routing"
)

// addSession takes a session whose handshake is done into the mesh, or says why
// not: weave protocol section 1.8, steps 2 to 6.
func (m *Mesh) addSession(s *session) error {
	if err := m.admit(s); err != nil {
		return err
	}
	old := m.neighbours[s.peer.Name]
	duplicate := old != nil && old.session != nil
	if duplicate && !m.prevails(s, old) {
		return m.refuseNewcomer(s, old)
	}
	if limit := m.set.ConnLimit; old == nil && limit > 0 && len(m.sessions) >= limit {
		return &limitError{limit}
	}
	if err := s.attach(m.cfg.Set, m.cfg.Self); err != nil {
		return err
	}
	if duplicate {
		m.endSession(old.session, errReplaced)
		old = m.neighbours[s.peer.Name] // a stock peer's is gone with its session
	}
	if old != nil && old.peer.UID != s.peer.UID {
		m.removeNeighbour(old, "it restarted")
		old = nil
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
	if err := m.judge(s); err != nil {
		return m.orTaken(s, err)
	}
	m.targets.Behind(s.target, s.peer.Name)
	if s.target == nil || s.target.direct || s.target.name == s.peer.Name {
		return nil
	}
	if _, known := m.topo.Peer(s.peer.Name); !known {
		return &strangerError{name: s.peer.Name, wanted: s.target.name, addr: s.addr}
	}
	return nil
}

// orTaken is why a newcomer is not trusted. Where it shows another key than its name is
// pinned to, and the host that the name belongs to is connected, its key is not what its
// operator has to mend.
func (m *Mesh) orTaken(s *session, err error) error {
	old := m.neighbours[s.peer.Name]
	if old == nil || old.session == nil || old.peer.UID == s.peer.UID || m.prevails(s, old) {
		return err
	}
	taken := m.refuseNewcomer(s, old)
	if _, other := errors.AsType[*identity.PinError](err); other {
		return taken
	}
	return err
}

// prevails decides between a new connection and the one there is to the same
// peer. The one with the lower connection UID survives, so that both ends agree
// (section 1.9), with two exceptions. A connection that has been silent for longer
// than a live one can be loses to any newcomer. And a peer that restarted, with
// another UID, replaces its old connection; unless the old one's path to a meshd
// peer still works, for then two hosts have one name, and the newcomer has to go.
func (m *Mesh) prevails(s *session, old *neighbour) bool {
	switch {
	case old.session.silent():
		return true
	case old.peer.UID != s.peer.UID:
		return !old.session.native || !old.link.State().Up
	}
	return s.uid < old.session.uid
}

// refuseNewcomer says why a new connection does not replace the one there is. Of
// two with one UID neither stays.
func (m *Mesh) refuseNewcomer(s *session, old *neighbour) error {
	if old.peer.UID != s.peer.UID {
		m.claimed(old, Rival{NickName: s.peer.NickName, UID: s.peer.UID, Addr: s.addr, newer: true})
		return &takenError{name: s.peer.Name, addr: s.addr, old: old.at.Addr}
	}
	if s.uid == old.session.uid {
		m.endSession(old.session, errDuplicate)
	}
	return errDuplicate
}

// join makes the session its neighbour's, and starts it. old is the neighbour as
// it was before, if its link lives on.
func (m *Mesh) join(s *session, old *neighbour) {
	n := &neighbour{
		peer: s.peer, link: s.att.Link(), session: s,
		at: s.at(), outbound: s.dialled, key: s.conn.PeerKey, auth: s.auth,
	}
	if old != nil {
		n.established, n.rival = old.established, old.rival
	}
	s.joined = time.Now()
	m.neighbours[s.peer.Name] = n
	m.sessions[s] = struct{}{}
	if m.cfg.Trust != nil {
		m.cfg.Trust.Taken(s.peer.Name, s.peer.NickName, s.conn.PeerKey)
	}
	f := s.conn.Features
	m.topo.Introduce(routing.Peer{
		Name: f.Name, NickName: f.NickName, UID: f.UID, ShortID: f.ShortID, HasShortID: f.HasShortID,
	})
	m.topo.SetConnection(n.entry())
	m.targets.Connected(s.peer.Name, s.target, liveSession{at: s.at(), outbound: s.dialled, native: s.native}, time.Now())
	m.log.Info("session with neighbour", "peer", s.peer.Name, "nickname", s.peer.NickName,
		"addr", s.at(), "outbound", s.dialled, "protocol", s.conn.Version, "encrypted", s.conn.Encrypted, "authentication", s.auth, "native", s.native)
	s.start(m)
	s.queueTopology(m.allNames())
	m.LinksChanged()
	plan(&m.due.routes, routesLater)
	plan(&m.due.announce, announceDelay)
	plan(&m.due.news, announceDelay)
	m.due.again = time.Now().Add(announceAgain)
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
	m.log.Info("session ended", "peer", s.peer.Name, "nickname", s.peer.NickName, "addr", s.at(),
		"gossip_dropped", s.out.lost(), "err", why)
	n.session = nil
	m.targets.Ended(s.peer.Name, s.joined, why, time.Now())
	_, untrusted := errors.AsType[*untrustedError](why)
	if s.native && !untrusted && !errors.Is(why, errLeft) && n.link.State().Up {
		s.att.Lose(linkLinger)
		return
	}
	s.att.Lose(0)
	m.removeNeighbour(n, "session ended")
}
