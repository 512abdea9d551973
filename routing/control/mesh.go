package control

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/routing"
	"meshd/transport"
)

// Times of the control plane. What stock routers must see is by the weave
// protocol, appendix B; the rest is ours.
const (
	gossipInterval = 30 * time.Second       // complete topology to some neighbours
	announceAgain  = time.Second            // own entry once more, for what crossed the first
	announceDelay  = 100 * time.Millisecond // a new neighbour to all others
	collectDelay   = time.Second            // from a topology update to garbage collection
	collectGrace   = 2 * time.Second        // no collection of a peer that was told of
	routesSoon     = 5 * time.Millisecond   // recalculation after a loss
	routesLater    = 50 * time.Millisecond  // recalculation after anything else
	passOnDelay    = 50 * time.Millisecond  // between two rounds of passing gossip on
	loadShare      = 4                      // a round that took t is followed by a pause of 4t
	linkLinger     = 10 * time.Second       // a link without a session, design section 5
	opsQueue       = 64                     // operations that wait for the mesh's goroutine
)

// Settings are what can change while the mesh runs.
type Settings struct {
	Peers          []string // host[:port], tcp://host[:port] or quic://host[:port]
	Discovery      bool
	ConnLimit      int // connections, dialled and accepted together; 0: no limit
	TrustedSubnets []netip.Prefix
	MinProtocol    int        // 1 or 2
	Passwords      []Password // the one to dial with first; none: the mesh has none. A change concerns new connections
}

// Config is what a Mesh needs for its whole life.
type Config struct {
	Self     transport.Peer
	Port     uint16 // our control port; also that of targets that name none
	QUICPort uint16 // the same of the QUIC carrier; 0: DefaultQUICPort
	Settings Settings
	Set      *transport.Set
	Carriers []Carrier // each once, TCP first
	// Identity is the host's key; nil: it has none. Trust decides who may be a
	// neighbour; nil: everybody.
	Identity *identity.Identity
	Trust    Trust
	// Resolve turns a host name into addresses; nil: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Refuse says of an address that it must not be dialled, and why: it lies on
	// the overlay itself, for example. nil: none is refused.
	Refuse func(netip.Addr) string
	// PublishFIB takes each new set of routes. It must not block.
	PublishFIB func(*routing.FIB)
	// ForgetMACs is told which peers left the mesh.
	ForgetMACs func([]frame.PeerName)
	// Punched reports whether others look for a way over UDP to a peer. Such a peer is
	// dialled over TCP only, unless it is configured: a datagram that comes too early
	// may close its NAT for those that are sent at the right time. nil: nobody does.
	Punched func(frame.PeerName) bool
	// Watch is told of all peers, ourselves left out, whenever something may have
	// changed, in the mesh's goroutine: it must not block. nil: nobody is.
	Watch func([]PeerView)
	// Channels are gossip channels of our own, for Mesh.Unicast and Broadcast: each is
	// called with who says to have sent a payload, and with the payload, which is borrowed. Calls
	// may be concurrent and must not take long, since they hold up a session.
	Channels map[string]func(src frame.PeerName, payload []byte)
	// Remembered are peers of an earlier run to try at once, Remember is told
	// whenever those to try after a crash change, and must not block. Both may be
	// nil.
	Remembered []Remembered
	Remember   func([]Remembered)
	// Stock makes the mesh behave as a stock router to the letter: it announces and
	// answers nothing of ours, and mends nothing. It is for tests of what peers make
	// of a stock router.
	Stock bool
	Log   *slog.Logger
}

// Mesh is the control plane: the sessions to all neighbours, the topology they
// tell of, and the routes that follow from it. One goroutine owns all of it
// (Run); everything else hands it operations.
type Mesh struct {
	cfg  Config
	log  *slog.Logger
	ops  chan func()     // sent by anybody, received by Run; senders wait
	wake chan struct{}   // capacity 1: links may have changed
	ctx  context.Context // of all that Run starts; done when Run ends
	end  context.CancelFunc
	wg   sync.WaitGroup // sessions, attempts, attachments
	gate *gate          // bounds unfinished handshakes

	// All below is owned by Run's goroutine.
	set        Settings
	topo       *routing.Topology
	neighbours map[frame.PeerName]*neighbour
	sessions   map[*session]struct{}
	surrogates *surrogates
	targets    *targets
	ended      uint64 // connections that ended
	claims     uint64 // of names of neighbours by other hosts, refused
	refusals   refusals
	worked     worked                            // passwords at addresses
	fib        *routing.FIB                      // as published
	news       map[frame.PeerName]*session       // entries to pass on, and who told them
	reached    map[frame.PeerName]frame.PeerName // who could be reached then, over whom
	passedOn   time.Time                         // when the last round of it was over
	told       map[frame.PeerName]time.Time      // when a neighbour told of a peer, of late
	mends      bool                              // mend what stock routers leave to the periodic gossip; false only in tests that play one
	asked      map[frame.PeerName]struct{}       // placeholders whose entry we asked for
	outbidAt   time.Time                         // when we last told of a version raised over a claim
	due        schedule
}

// schedule is what the mesh does next by itself; the zero time means not planned.
type schedule struct {
	routes, collect, gossip, news, announce, again, remember time.Time
}

// New makes a mesh. It starts nothing. The error names a peer of the settings that
// cannot be parsed.
func New(cfg Config) (*Mesh, error) {
	m := &Mesh{
		cfg:        cfg,
		log:        cfg.Log,
		ops:        make(chan func(), opsQueue),
		wake:       make(chan struct{}, 1),
		gate:       newGate(),
		set:        cfg.Settings,
		neighbours: map[frame.PeerName]*neighbour{},
		sessions:   map[*session]struct{}{},
		surrogates: newSurrogates(),
		refusals:   refusals{},
		worked:     worked{},
		news:       map[frame.PeerName]*session{},
		told:       map[frame.PeerName]time.Time{},
		mends:      !cfg.Stock,
	}
	m.ctx, m.end = context.WithCancel(context.Background())
	if m.cfg.Resolve == nil {
		m.cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	m.topo = routing.NewTopology(routing.Peer{
		Name: cfg.Self.Name, NickName: cfg.Self.NickName, UID: cfg.Self.UID,
		Version: cfg.firstVersion(),
	}, nil)
	m.targets = newTargets(cfg.Self.Name, cfg.carrierPorts())
	if err := m.targets.SetDirect(cfg.Settings.Peers, time.Now()); err != nil {
		return nil, err
	}
	m.targets.Restore(cfg.Remembered, time.Now())
	return m, nil
}

// carrierPorts are the carriers and their own ports.
func (c *Config) carrierPorts() (ps carrierPorts) {
	for _, carrier := range c.Carriers {
		port := c.Port
		if carrier.Name() == CarrierQUIC {
			port = cmp.Or(c.QUICPort, DefaultQUICPort)
		}
		ps = append(ps, carrierPort{carrier.Name(), port})
	}
	return ps
}

// firstVersion is that of our topology entry; stock routers begin with 0.
func (c *Config) firstVersion() uint64 {
	if c.Stock {
		return 0
	}
	return routing.FirstVersion(time.Now())
}

// LinksChanged makes the mesh look at the links again. It never blocks and may be
// called from any goroutine; it is what a transport.Set's changed is meant for.
func (m *Mesh) LinksChanged() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run accepts and makes connections until ctx is done, then says goodbye to all
// neighbours and returns nil after its goroutines have ended.
func (m *Mesh) Run(ctx context.Context) error {
	for _, c := range m.cfg.Carriers {
		m.wg.Go(func() { m.accept(m.ctx, c) })
	}
	m.due.gossip = time.Now().Add(gossipInterval)
	m.publishRoutes()
	m.loop(ctx)
	for s := range m.sessions {
		s.close(errStopping) // its writer says goodbye
	}
	m.end()
	m.wg.Wait()
	return nil
}

// loop is the life of the goroutine that owns the mesh.
func (m *Mesh) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case op := <-m.ops:
			op()
		case <-m.wake:
			m.lookAtLinks()
		case <-timer.C:
		}
		timer.Reset(time.Until(m.tick(time.Now())))
	}
}

// tick does what is due and returns when to come back.
func (m *Mesh) tick(now time.Time) time.Time {
	m.doDue(&m.due.collect, now, m.tidy)
	m.doDue(&m.due.announce, now, m.announce)
	m.doDue(&m.due.news, now, m.passOn)
	m.doDue(&m.due.routes, now, m.publishRoutes)
	m.doDue(&m.due.again, now, m.announce)
	m.doDue(&m.due.gossip, now, m.gossipAll)
	m.doDue(&m.due.remember, now, m.remember)
	next := m.dialDue(now)
	for _, at := range []time.Time{m.due.collect, m.due.routes, m.due.news, m.due.announce, m.due.again, m.due.gossip, m.due.remember} {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	return next
}

func (m *Mesh) doDue(at *time.Time, now time.Time, do func()) {
	if !at.IsZero() && !at.After(now) {
		*at = time.Time{}
		do()
	}
}

// plan makes something due at the latest after d.
func plan(at *time.Time, d time.Duration) {
	if t := time.Now().Add(d); at.IsZero() || t.Before(*at) {
		*at = t
	}
}

// do runs op in the mesh's goroutine and waits for it. It reports false when the
// mesh has ended; whether op has run is not known then.
func (m *Mesh) do(op func()) bool {
	done := make(chan struct{})
	select {
	case m.ops <- func() { op(); close(done) }:
	case <-m.ctx.Done():
		return false
	}
	select {
	case <-done:
		return true
	case <-m.ctx.Done():
		return false
	}
}

// publishRoutes calculates the routes and hands them to the data plane.
func (m *Mesh) publishRoutes() {
	senders := make(map[frame.PeerName]transport.Sender, len(m.neighbours))
	for name, n := range m.neighbours {
		senders[name] = n.link
	}
	m.fib = routing.NewFIB(m.topo, senders)
	m.cfg.PublishFIB(m.fib)
	m.tellWatch()
}

// tidy removes peers that nobody reaches any more, but not those that were told of
// just now: the entry that makes them reachable may be on its way. A stock router
// takes a second to send it. Then it asks for what is missing.
func (m *Mesh) tidy() {
	now := time.Now()
	maps.DeleteFunc(m.told, func(_ frame.PeerName, at time.Time) bool { return now.Sub(at) >= collectGrace })
	if m.collect(m.told) {
		plan(&m.due.collect, collectDelay)
	}
	if m.mends {
		m.ask()
	}
}

// collect removes peers that nobody reaches any more, except some, and reports
// whether it left any of those.
func (m *Mesh) collect(except map[frame.PeerName]time.Time) (left bool) {
	gone, selfChanged := m.topo.Collect(func(name frame.PeerName) bool {
		if m.neighbours[name] != nil {
			return true
		}
		_, spared := except[name]
		left = left || spared
		return spared
	})
	if selfChanged {
		m.announce()
	}
	if len(gone) == 0 {
		return left
	}
	m.log.Info("peers left the mesh", "peers", len(gone), "first", gone[0])
	m.cfg.ForgetMACs(gone)
	for _, name := range gone {
		m.targets.Left(name, time.Now())
	}
	plan(&m.due.routes, routesSoon)
	return left
}

// lookAtLinks brings the topology in line with what the links say.
func (m *Mesh) lookAtLinks() {
	for name, n := range m.neighbours {
		link := n.link.State()
		up := link.Up
		if link.Switches != n.switches && up {
			n.switches = link.Switches
			m.log.Info("frames go over another transport", "peer", name, "nickname", n.peer.NickName,
				"transport", link.Transport, "reason", link.Reason)
		}
		if n.session == nil && !up {
			m.removeNeighbour(n, "the path without a session died too")
			continue
		}
		if up == n.established {
			continue
		}
		n.established = up
		m.topo.SetConnection(n.entry())
		if up {
			m.log.Info("neighbour established", "peer", name, "nickname", n.peer.NickName, "transport", n.link.State().Transport)
			m.tellFirst(n)
			plan(&m.due.routes, routesLater)
			plan(&m.due.announce, announceDelay)
		} else {
			m.log.Warn("no path to neighbour", "peer", name, "nickname", n.peer.NickName)
			plan(&m.due.routes, 0)
			m.announce()
			m.release(n)
		}
		m.due.again = time.Now().Add(announceAgain)
	}
}
