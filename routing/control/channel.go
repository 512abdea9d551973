package control

import (
	"errors"

	"meshd/internal/frame"
)

// ErrNoRoute is what Unicast returns where no connection leads to the peer.
var ErrNoRoute = errors.New("no connection leads to the peer")

// Unicast sends a payload to one peer over a channel of our own, one of
// Config.Channels there (gossip unicast, weave protocol section 3). All routers on
// the way pass it on, stock ones too; a peer that does not know the channel ignores
// it. Nobody tells whether it arrives. Safe from any goroutine but the mesh's while
// Run runs.
func (m *Mesh) Unicast(channel string, dst frame.PeerName, payload []byte) (err error) {
	body := AppendGossip(TagGossipUnicast, Gossip{Channel: channel, Src: m.cfg.Self.Name, Dst: dst, Payload: payload})
	if !m.do(func() {
		s := m.towards(dst)
		if s == nil {
			err = ErrNoRoute
			return
		}
		s.out.pushGossip(Message{Tag: TagGossipUnicast, Body: body})
	}) {
		return ErrStopped
	}
	return err
}

// towards is the session over which a gossip unicast goes: one whose path works, if
// there is such a way. A connection whose path is dead may be dead too, and not know
// it yet. nil: there is no way.
func (m *Mesh) towards(dst frame.PeerName) *session {
	for _, strict := range []bool{true, false} {
		hop, ok := m.topo.NextHop(dst, strict)
		if n := m.neighbours[hop]; ok && n != nil && n.session != nil {
			return n.session
		}
	}
	return nil
}

// Broadcast sends a payload to all peers over a channel of our own (gossip broadcast,
// weave protocol section 3). Routers that do not know us yet do not pass it on.
// Nobody tells whom it reaches. Safe from any goroutine but the mesh's while Run runs.
func (m *Mesh) Broadcast(channel string, payload []byte) error {
	body := AppendGossip(TagGossipBroadcast, Gossip{Channel: channel, Src: m.cfg.Self.Name, Payload: payload})
	if !m.do(func() {
		for _, s := range m.broadcastHops(m.cfg.Self.Name, nil) {
			s.out.pushGossip(Message{Tag: TagGossipBroadcast, Body: body})
		}
	}) {
		return ErrStopped
	}
	return nil
}

// takeOwn handles gossip of one of our own channels that is for us, in the session's
// goroutine, and reports whether nobody else is to have it.
func (m *Mesh) takeOwn(tag byte, g Gossip) (done bool) {
	take := m.cfg.Channels[g.Channel]
	switch {
	case take == nil || m.cfg.Stock || g.Src == m.cfg.Self.Name:
		return false
	case tag == TagGossipUnicast && g.Dst == m.cfg.Self.Name:
		take(g.Src, g.Payload)
		return true
	case tag == TagGossipBroadcast:
		take(g.Src, g.Payload)
	}
	return false
}
