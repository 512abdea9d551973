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

// Bounds of one message of topology.
const (
	entriesPerMessage = 256  // entries
	edgesPerMessage   = 8192 // connections in them
)

// takeGossip handles a message with tag 4, 5 or 6 in the session's goroutine: it
// decodes there, and decides in the mesh's. An error ends the session. It is the
// neighbour's fault only in what it wrote itself: stock routers relay tags 5 and 6
// unread, so what is wrong in those is dropped.
func (m *Mesh) takeGossip(s *session, tag byte, body []byte) error {
	g, err := ParseGossip(tag, body)
	own := tag == TagGossip || err == nil && g.Src == s.peer.Name
	if err != nil {
		return m.blame(s, own, err)
	}
	if g.Channel != channelTopology {
		if m.takeOwn(tag, g) {
			return nil
		}
		m.do(func() { m.takeForeign(s, tag, g, body) })
		return nil
	}
	if tag == TagGossipUnicast {
		return m.blame(s, own, errors.New("topology gossip as unicast"))
	}
	entries, err := DecodeTopology(g.Payload)
	if err != nil {
		return m.blame(s, own, fmt.Errorf("topology gossip: %w", err))
	}
	m.do(func() { m.takeTopology(s, tag, g, entries) })
	return nil
}

// blame returns the error if it is the neighbour's own, and drops the message else.
func (m *Mesh) blame(s *session, own bool, err error) error {
	if own {
		return err
	}
	m.log.Debug("relayed gossip dropped", "peer", s.peer.Name, "err", err)
	return nil
}

// takeTopology merges what a neighbour tells and plans to pass on what is new:
// weave protocol section 3.3.
func (m *Mesh) takeTopology(s *session, tag byte, g Gossip, entries []routing.Peer) {
	if _, live := m.sessions[s]; !live {
		return
	}
	now := time.Now()
	if m.mends {
		entries = m.holdOff(s, entries, now)
	}
	res := m.topo.Merge(entries, now)
	if m.mends {
		s.queueTopology(s.answerable(res.Outdated))
		for _, name := range res.All {
			m.told[name] = now
		}
	}
	plan(&m.due.collect, collectDelay)
	if res.Refused+res.Full > 0 {
		m.log.Debug("topology entries refused", "peer", s.peer.Name, "malformed", res.Refused, "no_room", res.Full)
	}
	if res.SelfChanged {
		m.outbid()
	}
	if tag == TagGossipBroadcast {
		for _, next := range m.broadcastHops(g.Src, s) {
			next.queueTopology(res.All)
		}
	}
	if len(res.Improved) == 0 {
		return
	}
	for _, name := range res.Improved {
		m.news[name] = s
	}
	plan(&m.due.news, max(0, time.Until(m.passedOn.Add(passOnDelay))))
}

// passOn passes on the entries that are new since the last time, each to the
// neighbour subset without the neighbour that told it, and looks for new targets
// and routes. A burst of gossip costs one round; a round that takes long, in a
// large mesh, is followed by a longer pause.
//
// Our own entry, if it waits to be announced, goes first: a neighbour that hears of
// peers before it hears of the connection that leads to them may collect them.
func (m *Mesh) passOn() {
	if !m.due.announce.IsZero() {
		m.due.news = m.due.announce
		return
	}
	begun := time.Now()
	told := map[*session][]frame.PeerName{}
	for name, from := range m.news {
		told[from] = append(told[from], name)
	}
	if names := m.newlyReached(); len(names) > 0 {
		told[nil] = names
	}
	clear(m.news)
	for from, names := range told {
		m.gossipNames(names, from)
	}
	m.targets.Discover(m.topo, begun)
	plan(&m.due.routes, routesLater)
	plan(&m.due.remember, announceAgain)
	took := time.Since(begun)
	m.passedOn = begun.Add(took + loadShare*took)
}

// newlyReached are the peers that can be reached since the last time and are not news
// anyway: entries that we held without a connection that leads to them, and that our
// neighbours may have collected for the same reason.
func (m *Mesh) newlyReached() (names []frame.PeerName) {
	before := m.reached
	m.reached = m.topo.Unicast(false)
	missing := m.topo.Placeholders() // are not told, but asked for
	for name := range m.reached {
		_, was := before[name]
		_, news := m.news[name]
		if _, unknown := slices.BinarySearch(missing, name); !was && !news && !unknown {
			names = append(names, name)
		}
	}
	return names
}

// gossipNames sends topology entries to the neighbours that section 3.5 picks,
// except one.
func (m *Mesh) gossipNames(names []frame.PeerName, except *session) {
	for _, s := range m.subset(except) {
		s.queueTopology(names)
	}
}

// entries are the topology's entries of names, those that are still there.
func (m *Mesh) entries(names []frame.PeerName) []routing.Peer {
	out := make([]routing.Peer, 0, len(names))
	for _, name := range names {
		if p, known := m.topo.Peer(name); known {
			out = append(out, p)
		}
	}
	return out
}

// topologyMessages encodes entries for tag 4, in as many messages as their size
// asks for. Safe from any goroutine.
func (m *Mesh) topologyMessages(entries []routing.Peer) (msgs []Message) {
	for len(entries) > 0 {
		n, edges := 0, 0
		for n < min(len(entries), entriesPerMessage) && (n == 0 || edges+len(entries[n].Connections) <= edgesPerMessage) {
			edges += len(entries[n].Connections)
			n++
		}
		body := AppendGossip(TagGossip, Gossip{Channel: channelTopology, Src: m.cfg.Self.Name, Payload: EncodeTopology(entries[:n])})
		msgs = append(msgs, Message{Tag: TagGossip, Body: body})
		entries = entries[n:]
	}
	return msgs
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

// broadcastHops are the sessions over which a gossip broadcast of src is passed on.
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
	if s := m.towards(dst); s != nil {
		s.out.pushGossip(Message{Tag: TagGossipUnicast, Body: slices.Clone(body)})
	}
}

// takeForeign passes on gossip of a channel that we do not know: the surrogate of
// section 3.2. body is borrowed.
func (m *Mesh) takeForeign(s *session, tag byte, g Gossip, body []byte) {
	if _, live := m.sessions[s]; !live {
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
		for _, next := range m.broadcastHops(g.Src, s) {
			next.out.pushGossip(msg)
		}
	case TagGossip:
		if !m.surrogates.fresh(g.Channel, g.Payload, time.Now()) {
			return
		}
		g.Src = m.cfg.Self.Name
		msg := Message{Tag: tag, Body: AppendGossip(tag, g)}
		for _, next := range m.subset(s) {
			next.out.pushGossip(msg)
		}
	}
}

// gossipAll sends the complete topology to some neighbours, every 30 s.
func (m *Mesh) gossipAll() {
	m.due.gossip = time.Now().Add(gossipInterval)
	m.topo.Reclaim()
	m.targets.Expire(time.Now())
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

// announce tells all neighbours of our own entry, and of those of new neighbours:
// whoever had one without the connection that leads to it may have collected it.
func (m *Mesh) announce() {
	names := []frame.PeerName{m.cfg.Self.Name}
	for name, n := range m.neighbours {
		if n.session != nil && time.Since(n.session.joined) < 2*collectDelay {
			names = append(names, name)
		}
	}
	for s := range m.sessions {
		s.queueTopology(names)
	}
}

// outbid tells all neighbours that our version was raised over what others claim:
// at once, but not more than once a second, since two hosts with one name in distant
// parts of the mesh raise theirs against each other without end.
func (m *Mesh) outbid() {
	now := time.Now()
	if wait := m.outbidAt.Add(announceAgain).Sub(now); wait > 0 {
		plan(&m.due.again, wait)
		return
	}
	m.outbidAt = now
	m.announce()
}

// ask sends the placeholders that are new to the neighbours that lead to them. Who
// knows the peer answers with its entry (see routing.Merged.Outdated); a stock
// router ignores it. An entry is missing where we collected it in the moment before
// the connection that leads to it was told of.
func (m *Mesh) ask() {
	asked := map[frame.PeerName]struct{}{}
	for _, name := range m.topo.Placeholders() {
		asked[name] = struct{}{}
		if _, before := m.asked[name]; before {
			continue
		}
		hop, _ := m.topo.NextHop(name, false)
		if n := m.neighbours[hop]; n != nil && n.session != nil {
			n.session.queueTopology([]frame.PeerName{name})
		}
	}
	m.asked = asked
}

// tellFirst tells a neighbour whose path just came up of our entry before all
// others, so that no flood crosses while only they know of the connection.
func (m *Mesh) tellFirst(n *neighbour) {
	if n.session != nil {
		n.session.queueTopology([]frame.PeerName{m.cfg.Self.Name, n.peer.Name})
	}
}
