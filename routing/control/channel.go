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
		hop, ok := m.topo.NextHop(dst, false)
		n := m.neighbours[hop]
		if !ok || n == nil || n.session == nil {
			err = ErrNoRoute
			return
		}
		n.session.out.pushGossip(Message{Tag: TagGossipUnicast, Body: body})
	}) {
		return ErrStopped
	}
	return err
}

// takeOwn handles gossip of one of our own channels that is for us, in the session's
// goroutine, and reports whether it was.
func (m *Mesh) takeOwn(tag byte, g Gossip) bool {
	take := m.cfg.Channels[g.Channel]
	if take == nil || m.cfg.Stock || tag != TagGossipUnicast || g.Dst != m.cfg.Self.Name {
		return false
	}
	take(g.Src, g.Payload)
	return true
}
