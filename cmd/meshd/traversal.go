package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"meshd/config"
	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/nat"
	"meshd/nat/portmap"
	"meshd/routing/control"
	"meshd/routing/signal"
	"meshd/transport"
	"meshd/transport/punch"
)

// traversal is what finds direct ways to peers behind NATs:
//
//	ports ── STUN ──► agent ◄── signalling ──► channel ──► mesh
//	                    │ candidates: addresses, mapper, nat.external
//	                    └──► Set.Hint, Mesh.Meet
type traversal struct {
	agent     *nat.Agent
	channel   *signal.Channel
	hurry     func()          // makes paths that rest find out whether they work
	mapper    *portmap.Mapper // nil: nat.port_mapping is off
	addresses *hostAddresses
	external  []nat.Candidate
	servers   []string
	ports     signal.Ports
	discovery atomic.Bool
	direct    map[frame.PeerName]bool // the peers with a direct way; watch's own
	log       *slog.Logger
}

// traversalDeps is what a traversal is made of.
type traversalDeps struct {
	cfg    config.Config
	self   transport.Peer
	id     *identity.Identity
	policy *identity.Policy
	ports  ports
	set    *transport.Set
	mesh   func() *control.Mesh // there is one when anything runs
	refuse func(netip.Addr) string
	log    *slog.Logger
}

// newTraversal makes a traversal, and the agent the handler of STUN. nil: no transport
// shares a socket that could be reached.
func newTraversal(d traversalDeps) (*traversal, error) {
	shared := d.ports.shared
	if shared == nil || stockOnly != "" {
		return nil, nil
	}
	t := &traversal{
		addresses: &hostAddresses{refuse: d.refuse}, servers: d.cfg.NAT.STUNServers, log: d.log,
		ports: signal.Ports{Data: shared.Port()}, hurry: d.set.Hurry,
	}
	if d.ports.stun != nil {
		t.ports.Other = d.ports.stun.Port()
	}
	for _, s := range d.cfg.NAT.External {
		if at, err := config.ParseExternal(s, shared.Port()); err == nil {
			t.external = append(t.external, nat.Candidate{Kind: nat.External, Addr: at})
		}
	}
	if d.cfg.NAT.PortMapping != config.Off {
		t.mapper = portmap.New(portmap.Config{Port: shared.Port(), Refuse: d.refuse, Changed: func(portmap.Mapping) { t.agent.Kick() }, Log: d.log})
	}
	var err error
	t.channel, err = signal.New(signal.Config{
		Self: d.self.Name, UID: d.self.UID, Identity: d.id, Log: d.log,
		Check: func(name frame.PeerName, key *identity.Key) error {
			_, err := d.policy.Check(name, key)
			return err
		},
		Unicast:   func(to frame.PeerName, b []byte) error { return d.mesh().Unicast(signal.Name, to, b) },
		Broadcast: func(b []byte) error { return d.mesh().Broadcast(signal.Name, b) },
		Answer: func(ctx context.Context, from signal.Peer, b []byte, reply func([]byte)) {
			t.agent.Answer(ctx, from.Name, b, reply)
		},
		Notice: func(from signal.Peer, b []byte) { t.agent.Notice(from.Name, b) },
		Known:  func(signal.Peer) { t.agent.Announced() },
	})
	if err != nil {
		return nil, err
	}
	t.agent = nat.New(nat.Config{
		Self: d.self.Name, Port: shared.Port(), Log: d.log, Refuse: d.refuse,
		Families:  familiesOf(shared),
		Send:      func(to netip.AddrPort, b []byte, hops int) error { return sendFrom(shared, to, b, hops) },
		Addresses: t.addresses.all, Servers: t.resolveServers, More: t.more,
		Find: func(name frame.PeerName) (nat.Known, bool) {
			p, ok := t.channel.Find(name)
			return nat.Known{UID: p.UID, Secret: p.Secret, Data: p.Ports.Data, Other: p.Ports.Other}, ok
		},
		Request: t.channel.Request, Notify: t.channel.Notify,
		Found: d.set.Hint, Move: d.set.Move, Probe: probeFresh, Fresh: freshAgent(d.refuse),
		Meet: func(ctx context.Context, name frame.PeerName, at netip.AddrPort) error {
			return d.mesh().Meet(ctx, name, at)
		},
	})
	for _, m := range []*mux.Mux{shared, d.ports.stun} {
		if m != nil {
			m.Handle(mux.STUN, t.taker)
		}
	}
	t.set(d.cfg)
	return t, nil
}

// set takes the settings that may change.
func (t *traversal) set(cfg config.Config) {
	t.discovery.Store(cfg.Discovery)
	var keys []*[32]byte
	for _, p := range settings(cfg).Passwords {
		keys = append(keys, p.MeshKey())
	}
	t.channel.Set(t.ports, keys)
}

// watch takes what the mesh knows of all peers, in its goroutine.
func (t *traversal) watch(views []control.PeerView) {
	now := time.Now()
	uids := make(map[frame.PeerName]uint64, len(views))
	peers := make([]nat.Peer, 0, len(views))
	for _, v := range views {
		uids[v.Name] = v.UID
		if t.discovery.Load() || v.Session {
			p := nat.Peer{
				Name: v.Name, NickName: v.NickName, UID: v.UID, Session: v.Session, Direct: v.Direct, Dialled: v.Dialled, Addr: v.Addr, Sees: v.Sees,
			}
			for _, path := range v.Paths {
				if path.State.Up && transportShares(path.Transport) {
					p.Data = path.State.Addr
					break
				}
			}
			for _, path := range v.Paths { // not while it rests: nobody gains by a better one
				if path.Transport == punch.Name && path.Active && path.State.Up && !path.State.Unproven {
					p.Pair = path.State.Addr
				}
			}
			peers = append(peers, p)
		}
	}
	t.channel.Members(now, uids)
	t.agent.Look(now, peers)
	t.doubt(peers)
}

// doubt asks the gateway whether it still has our mapping when a direct way is lost: one
// that has just rebooted does not tell, and is asked only every minute.
func (t *traversal) doubt(peers []nat.Peer) {
	if t.mapper == nil {
		return
	}
	direct := make(map[frame.PeerName]bool, len(t.direct))
	for _, p := range peers {
		if p.Direct {
			direct[p.Name] = true
			delete(t.direct, p.Name)
		}
	}
	lost := len(t.direct) > 0
	t.direct = direct
	if !lost {
		return
	}
	if m, _ := t.mapper.Current(); m.External.IsValid() {
		t.mapper.Again()
	}
}

// report reads what is known of the ways to peers.
func (t *traversal) report(peers []control.PeerSnapshot) *TraversalReport {
	v4, v6 := t.agent.Behaviours()
	r := &TraversalReport{
		Peers:      make(map[frame.PeerName]nat.Status, len(peers)),
		Behaviours: [2]nat.Behaviour{v4, v6}, STUN: t.agent.Counts(), Signalling: t.channel.Counts(),
	}
	for _, p := range peers {
		r.Peers[p.Name] = t.agent.Status(p.Name)
	}
	return r
}

// taker hands the STUN messages of a socket to the agent.
func (t *traversal) taker(s mux.Socket) mux.Handler {
	reply := func(to netip.AddrPort, b []byte) {
		_, _ = s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: to}}, false) // lost, as on the way
	}
	return func(batch []udp.Message) {
		for _, m := range batch {
			size := m.Segment
			if size <= 0 {
				size = m.N
			}
			for rest := m.Buf[:m.N]; len(rest) > 0; {
				d := rest[:min(size, len(rest))]
				rest = rest[len(d):]
				t.agent.Take(d, m.Addr, reply)
			}
		}
	}
}

// familiesOf tells whether a mux has sockets of IPv4 and of IPv6.
func familiesOf(m *mux.Mux) func() (v4, v6 bool) {
	return func() (bool, bool) {
		return m.Socket(netip.AddrPortFrom(netip.IPv4Unspecified(), 1)) != nil, m.Socket(netip.AddrPortFrom(netip.IPv6Unspecified(), 1)) != nil
	}
}

// sendFrom sends a datagram from the mux's socket for an address.
func sendFrom(m *mux.Mux, to netip.AddrPort, b []byte, hops int) error {
	s := m.Socket(to)
	if s == nil {
		return errors.New("no socket for the address family")
	}
	if c, ok := s.(*udp.Conn); ok && hops > 0 {
		return c.WriteHops(b, to, hops)
	}
	_, err := s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: to}}, false)
	return err
}

// probeFresh sends a datagram from a socket made for it.
func probeFresh(to netip.AddrPort, b []byte) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(b)
	return err
}

// more are the candidates that are not the agent's to find.
func (t *traversal) more() []nat.Candidate {
	out := t.external
	if t.mapper != nil {
		if m, _ := t.mapper.Current(); m.External.IsValid() && !m.DoubleNAT {
			out = append(out[:len(out):len(out)], nat.Candidate{Kind: nat.Mapped, Addr: m.External})
		}
	}
	return out
}

// resolveTime is how long names of STUN servers may take.
const resolveTime = time.Second

// resolveServers finds the configured STUN servers.
func (t *traversal) resolveServers(ctx context.Context) (out []nat.Server) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	for _, s := range t.servers {
		host, port, _ := config.ParseSTUNServer(s)
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			t.log.Debug("STUN server", "server", s, "err", err)
			continue
		}
		for _, ip := range ips[:min(len(ips), 2)] {
			out = append(out, nat.Server{Name: s, Addr: netip.AddrPortFrom(ip.Unmap(), port)})
		}
	}
	return out
}

// run runs all of it until ctx is done.
func (t *traversal) run(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return t.channel.Run(ctx) })
	g.Go(func() error { return t.agent.Run(ctx) })
	if t.mapper != nil {
		g.Go(func() error { return t.mapper.Run(ctx) })
	}
	g.Go(func() error { t.follow(ctx); return nil })
}
