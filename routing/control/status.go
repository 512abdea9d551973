package control

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"meshd/routing"
)

// ErrStopped is what operations on a mesh return that is not running.
var ErrStopped = errors.New("the mesh is not running")

// maxBroadcastShown is how many sources' broadcast routes a snapshot has.
const maxBroadcastShown = 512

// Snapshot reads the mesh's state. Safe from any goroutine while Run runs.
func (m *Mesh) Snapshot() (s Snapshot, err error) {
	var fib *routing.FIB
	if !m.do(func() { s, fib = m.snapshot(), m.fib }) {
		return s, ErrStopped
	}
	// Outside of the mesh's goroutine: with thousands of peers it takes a while.
	for dest, via := range fib.Unicast() {
		s.Unicast = append(s.Unicast, UnicastRoute{Dest: dest, Via: via})
	}
	for source, via := range fib.Broadcast() {
		if len(s.Broadcast) >= maxBroadcastShown {
			break // each takes a search of the whole mesh
		}
		s.Broadcast = append(s.Broadcast, BroadcastRoute{Source: source, Via: via})
	}
	return s, nil
}

// Connect adds direct targets, or with replace makes them the only ones, and
// tries them at once. Nothing changes if one does not parse.
func (m *Mesh) Connect(peers []string, replace bool) (err error) {
	if !m.do(func() {
		now := time.Now()
		if err = m.targets.AddDirect(peers, now); err == nil && replace {
			err = m.targets.SetDirect(peers, now)
		}
	}) {
		return ErrStopped
	}
	return err
}

// Forget removes direct targets, by what was configured. Connections that exist
// stay.
func (m *Mesh) Forget(peers []string) (err error) {
	if !m.do(func() {
		err = m.targets.Forget(peers)
		plan(&m.due.remember, announceAgain)
	}) {
		return ErrStopped
	}
	return err
}

// Apply changes the settings of a running mesh, and ends the sessions with peers
// that Config.Trust refuses by now. Targets that Connect added or
// Forget removed stay as they are, those of the handshake concern new connections.
// Sessions are made again whose neighbours other transports are used for now, by
// the preferences of the Set.
func (m *Mesh) Apply(set Settings) (err error) {
	if !m.do(func() {
		if err = m.targets.ChangeDirect(m.set.Peers, set.Peers, time.Now()); err == nil {
			m.set = set
			clear(m.worked)
			m.judgeAll()
			m.remakeStale()
		}
	}) {
		return ErrStopped
	}
	return err
}

// remakeStale ends sessions since whose begin the preferences have changed in which
// transports are used for the neighbour. The link goes on over the old session's
// paths until the next session's are up.
func (m *Mesh) remakeStale() {
	for s := range m.sessions {
		if s.att.Stale() {
			s.close(errPreferences)
		}
	}
}

// remember hands the peers to try after a crash to who keeps them.
func (m *Mesh) remember() {
	if m.cfg.Remember != nil {
		m.cfg.Remember(m.targets.Remembered())
	}
}

func (m *Mesh) snapshot() Snapshot {
	s := Snapshot{
		Self:        m.peerSnapshot(m.topo.Self()),
		MinProtocol: m.set.MinProtocol, MaxProtocol: MaxProtocol,
		Encrypted: len(m.set.Passwords) > 0, Discovery: m.set.Discovery,
		Port: int(m.cfg.Port), ConnLimit: m.set.ConnLimit,
		TrustedSubnets: slices.Clone(m.set.TrustedSubnets),
		Terminations:   m.ended,
		NameClaims:     m.claims,
	}
	for p := range m.topo.All() {
		s.Peers = append(s.Peers, m.peerSnapshot(p))
	}
	for _, name := range slices.Sorted(maps.Keys(m.neighbours)) {
		s.Connections = append(s.Connections, m.connectionSnapshot(m.neighbours[name]))
	}
	var found []ConnectionSnapshot
	for t := range m.targets.all {
		c, show := m.attemptSnapshot(t)
		if t.direct {
			s.Targets = append(s.Targets, targetSnapshot(t))
		}
		switch {
		case show && t.direct:
			s.Connections = append(s.Connections, c)
		case show:
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b ConnectionSnapshot) int { return strings.Compare(a.Address, b.Address) })
	s.Connections = append(s.Connections, found...)
	return s
}

func (m *Mesh) peerSnapshot(p routing.Peer) PeerSnapshot {
	out := PeerSnapshot{
		Name: p.Name, NickName: p.NickName, UID: p.UID, Version: p.Version,
		ShortID: p.ShortID, HasShortID: p.HasShortID,
	}
	for _, c := range p.Connections {
		other, _ := m.topo.Peer(c.Peer)
		address, carrier := shownAddress(c.RemoteAddr)
		out.Connections = append(out.Connections, PeerConnection{
			Name: c.Peer, NickName: other.NickName, Address: address, Carrier: carrier,
			Outbound: c.Outbound, Established: c.Established,
		})
	}
	return out
}

// shownAddress is an address of a topology entry as users write it, and its
// carrier. What cannot be read is shown as it is.
func shownAddress(remote string) (address, carrier string) {
	if c, ok := parseTopologyAddress(remote); ok && c.Carrier != CarrierTCP {
		return c.Addr.String(), c.Carrier
	}
	return remote, CarrierTCP
}

func (m *Mesh) connectionSnapshot(n *neighbour) ConnectionSnapshot {
	link := n.link.State()
	c := ConnectionSnapshot{
		Address: n.at.Addr.String(), Carrier: n.at.Carrier, Outbound: n.outbound, State: StatePending,
		Name: n.peer.Name, NickName: n.peer.NickName, UID: n.peer.UID,
		Paths: n.link.Paths(), MTU: link.MTU, Transport: link.Transport,
		Switches: link.Switches, SwitchReason: link.Reason,
		Unsessioned: n.session == nil, Key: n.key, Authentication: n.auth,
		Rival: rivalOf(n, time.Now()),
	}
	if link.Up {
		c.State = StateEstablished
	}
	if s := n.session; s != nil {
		c.Native, c.Version, c.Encrypted, c.Since = s.native, s.conn.Version, s.conn.Encrypted, s.joined
		c.TCPRTT = streamRTT(s.stream)
	} else {
		c.Native = true // only links to meshd peers outlive their session
	}
	return c
}

func targetSnapshot(t *target) TargetSnapshot {
	out := TargetSnapshot{Target: t.spec}
	for _, c := range t.resolved {
		out.Addresses = append(out.Addresses, c.Addr)
	}
	if t.err != nil && len(t.resolved) == 0 {
		out.Err = t.err.Error()
	}
	return out
}

// refusalOf says which end refused the other, if that is why an attempt failed.
func refusalOf(err error) Refusal {
	if _, ok := errors.AsType[*untrustedError](err); ok {
		return RefusedHere
	}
	if _, ok := errors.AsType[*refusedError](err); ok {
		return RefusedThere
	}
	return ""
}

// attemptSnapshot shows a target that is not connected. One that was only
// remembered and is not being tried is not shown.
func (m *Mesh) attemptSnapshot(t *target) (ConnectionSnapshot, bool) {
	_, inTopology := m.topo.Peer(t.name)
	switch {
	case m.targets.has(t):
		return ConnectionSnapshot{}, false
	case !t.direct && (!m.set.Discovery || !inTopology):
		return ConnectionSnapshot{}, false
	}
	c := ConnectionSnapshot{Address: t.address(), Carrier: t.carrier, Outbound: true, State: t.state(), Never: t.never, For: t.name}
	if t.err != nil {
		c.Err, c.Refused = t.err.Error(), refusalOf(t.err)
	}
	if !t.attempting && !t.never && t.err != nil {
		c.NextTry = t.tryAt
	}
	return c, true
}
