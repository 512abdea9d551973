package control

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// channelTopology is the channel that every router has.
const channelTopology = "topology"

// takeGossip handles a message with tag 4, 5 or 6 in the session's goroutine: it
// decodes there, and decides in the mesh's.
func (m *Mesh) takeGossip(s *session, tag byte, body []byte) error {
	g, err := ParseGossip(tag, body)
	if err != nil {
		return err
	}
	if g.Channel != channelTopology {
		m.do(func() { m.takeForeign(s, tag, g, body) })
		return nil
	}
	if tag == TagGossipUnicast {
		if g.Dst == m.cfg.Self.Name {
			return errors.New("topology gossip as unicast")
		}
		m.do(func() { m.relayUnicast(g.Dst, body) })
		return nil
	}
	entries, err := DecodeTopology(g.Payload)
	if err != nil {
		return fmt.Errorf("topology gossip: %w", err)
	}
	m.do(func() { m.takeTopology(s, tag, g, entries) })
	return nil
}

// takeTopology merges what a neighbour tells and passes on what is new: weave
// protocol section 3.3.
func (m *Mesh) takeTopology(s *session, tag byte, g Gossip, entries []routing.Peer) {
	if _, live := m.sessions[s]; !live {
		return
	}
	res := m.topo.Merge(entries, time.Now())
	plan(&m.due.collect, collectDelay)
	if res.Refused+res.Full > 0 {
		m.log.Debug("topology entries refused", "peer", s.peer.Name, "malformed", res.Refused, "no_room", res.Full)
	}
	if res.SelfChanged {
		m.announce()
	}
	if tag == TagGossipBroadcast {
		m.relayTopologyBroadcast(s, g.Src, res.All)
	} else if len(res.Improved) > 0 {
		m.gossipNames(res.Improved, s)
	}
	if len(res.Improved) == 0 && !res.SelfChanged {
		return
	}
	m.targets.Discover(m.topo, time.Now())
	plan(&m.due.routes, routesLater)
	plan(&m.due.remember, announceAgain)
}

// gossipNames sends topology entries to the neighbours that section 3.5 picks,
// except one.
func (m *Mesh) gossipNames(names []frame.PeerName, except *session) {
	for _, s := range m.subset(except) {
		s.queueTopology(names)
	}
}

// subset is the neighbour subset of section 3.5, without the source and without
// neighbours whose session is being made again.
func (m *Mesh) subset(except *session) []*session {
	var source frame.PeerName
	if except != nil {
		source = except.peer.Name
	}
	var out []*session
	for _, name := range m.topo.NeighbourSubset(source) {
		if n := m.neighbours[name]; n != nil && n.session != nil && n.session != except {
			out = append(out, n.session)
		}
	}
	return out
}

// relayTopologyBroadcast passes topology that came with tag 6 on along the
// originator's broadcast tree.
func (m *Mesh) relayTopologyBroadcast(from *session, src frame.PeerName, names []frame.PeerName) {
	for _, s := range m.broadcastHops(src, from) {
		s.queueTopology(names)
	}
}

// broadcastHops are the sessions to which a gossip broadcast of src is passed on.
func (m *Mesh) broadcastHops(src frame.PeerName, from *session) []*session {
	var out []*session
	for _, name := range m.topo.Broadcast(src, false) {
		if n := m.neighbours[name]; n != nil && n.session != nil && n.session != from {
			out = append(out, n.session)
		}
	}
	return out
}

// relayUnicast sends a gossip unicast on, byte for byte.
func (m *Mesh) relayUnicast(dst frame.PeerName, body []byte) {
	hop, ok := m.topo.NextHop(dst, false)
	if !ok {
		return
	}
	if n := m.neighbours[hop]; n != nil && n.session != nil {
		n.session.out.pushGossip(Message{Tag: TagGossipUnicast, Body: slices.Clone(body)})
	}
}

// takeForeign passes on gossip of a channel that we do not know: the surrogate of
// section 3.2. body is borrowed.
func (m *Mesh) takeForeign(s *session, tag byte, g Gossip, body []byte) {
	if _, live := m.sessions[s]; !live {
		return
	}
	if !m.surrogates.use(g.Channel, time.Now()) {
		return
	}
	switch tag {
	case TagGossipUnicast:
		if g.Dst != m.cfg.Self.Name {
			m.relayUnicast(g.Dst, body)
		}
	case TagGossipBroadcast:
		if _, known := m.topo.Peer(g.Src); !known {
			return
		}
		msg := Message{Tag: tag, Body: slices.Clone(body)}
		for _, hop := range m.broadcastHops(g.Src, s) {
			hop.out.pushGossip(msg)
		}
	case TagGossip:
		if !m.surrogates.fresh(g.Channel, g.Payload, time.Now()) {
			return
		}
		g.Src = m.cfg.Self.Name
		msg := Message{Tag: tag, Body: AppendGossip(tag, g)}
		for _, hop := range m.subset(s) {
			hop.out.pushGossip(msg)
		}
	}
}

// gossipAll sends the complete topology to some neighbours, every 30 s.
func (m *Mesh) gossipAll() {
	m.due.gossip = time.Now().Add(gossipInterval)
	m.topo.Reclaim()
	m.gossipNames(m.allNames(), nil)
}

// allNames are the names of all known peers.
func (m *Mesh) allNames() []frame.PeerName {
	names := make([]frame.PeerName, 0, m.topo.Len())
	for p := range m.topo.All() {
		names = append(names, p.Name)
	}
	return names
}

// announce tells all neighbours of our own entry.
func (m *Mesh) announce() {
	names := []frame.PeerName{m.cfg.Self.Name}
	for s := range m.sessions {
		s.queueTopology(names)
	}
}

// tellFirst tells a neighbour whose path just came up of our entry before all
// others, so that no flood crosses while only they know of the connection.
func (m *Mesh) tellFirst(n *neighbour) {
	if n.session != nil {
		n.session.queueTopology([]frame.PeerName{m.cfg.Self.Name, n.peer.Name})
	}
}
