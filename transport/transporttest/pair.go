package transporttest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

// Port is where the suite's transports listen.
const Port = 6783

// Node is what a factory makes a transport for.
type Node struct {
	Local   transport.Peer
	Deliver frame.Handler
	Host    *Host
	Addrs   []netip.AddrPort // where to listen, one for each family
	Log     *slog.Logger
}

// Factory makes a transport on a host of a Network.
type Factory func(Node) (transport.Transport, error)

// Options say how two nodes are connected.
type Options struct {
	Sealed bool // the session has a key
	Stock  bool // the nodes take each other for stock routers
	IPv6   bool
	NAT    bool // in front of the node that dials
	Rests  bool // both nodes let idle paths be
	RestsB bool // the one that is dialled does
	Link   Link
	Seed   uint64 // of what the network does at random
}

// Pair is two nodes with a transport each, that run until the test ends. It
// belongs in a synctest bubble.
type Pair struct {
	Net  *Network
	A, B *End // A dials
	NAT  *NAT

	opts Options
	uid  uint64
}

// End is one of the two nodes.
type End struct {
	Peer      transport.Peer
	Host      *Host
	Addr      netip.AddrPort // where it listens
	Transport transport.Transport

	mu  sync.Mutex // guards got
	got []frame.Packet
}

// Conn is one session between the two ends.
type Conn struct {
	A, B *Side
}

// Side is one end's side of a session.
type Side struct {
	Path     transport.Path
	Session  transport.Session
	Counters *transport.Counters
	Ended    chan error // Run's result; it holds one

	cancel  context.CancelFunc
	done    chan struct{}
	control chan message
	ctx     context.Context

	mu     sync.Mutex // guards below
	last   transport.State
	states []transport.State // not yet taken by States
}

// message is an overlay control message under way.
type message struct {
	tag byte
	msg []byte
	at  time.Time
}

// controlDelay is how long control messages take.
const controlDelay = 5 * time.Millisecond

// NewPair makes two nodes and runs their transports.
func NewPair(t *testing.T, f Factory, o Options) *Pair {
	t.Helper()
	p := &Pair{Net: NewNetwork(o.Seed, o.Link), opts: o}
	p.A = p.end(t, f, 1)
	p.B = p.end(t, f, 2)
	if o.NAT {
		p.NAT = p.Net.PutBehindNAT(p.A.Host, netip.AddrFrom4([4]byte{192, 0, 2, 1}))
	}
	return p
}

func (p *Pair) end(t *testing.T, f Factory, number byte) *End {
	t.Helper()
	v4 := netip.AddrFrom4([4]byte{10, 9, 9, number})
	v6 := netip.AddrFrom16([16]byte{0: 0xfd, 15: number})
	e := &End{
		Peer: transport.Peer{Name: frame.PeerName(0x020000000000 + uint64(number)), UID: uint64(number)},
		Host: p.Net.Host(v4, v6), Addr: netip.AddrPortFrom(v4, Port),
	}
	if p.opts.IPv6 {
		e.Addr = netip.AddrPortFrom(v6, Port)
	}
	tr, err := f(Node{
		Local: e.Peer, Deliver: e.take, Host: e.Host,
		Addrs: []netip.AddrPort{netip.AddrPortFrom(v4, Port), netip.AddrPortFrom(v6, Port)},
		Log:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Transport = tr
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tr.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("transport of %s: Run = %v, want nil after cancel", e.Peer.Name, err)
		}
	})
	return e
}

// take keeps what is delivered.
func (e *End) take(batch []frame.Packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range batch {
		p.Frame.Data = bytes.Clone(p.Frame.Data)
		e.got = append(e.got, p)
	}
}

// Take returns what was delivered since the last call.
func (e *End) Take() []frame.Packet {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.got
	e.got = nil
	return got
}

// Connect opens a session and runs both its paths until the test ends.
func (p *Pair) Connect(t *testing.T) *Conn {
	t.Helper()
	return p.ConnectOver(t, nil, nil)
}

// ConnectOver is Connect for a session that rides on streams of a transport's own:
// they are told it and not used.
func (p *Pair) ConnectOver(t *testing.T, a, b net.Conn) *Conn {
	t.Helper()
	p.uid++
	c := &Conn{}
	fromA := netip.AddrPortFrom(p.A.Addr.Addr(), 40000)
	c.A = p.side(p.A, p.B, true, fromA, p.B.Addr)
	c.B = p.side(p.B, p.A, false, p.B.Addr, fromA)
	c.A.Session.Stream, c.B.Session.Stream = a, b
	for _, x := range []struct {
		end         *End
		side, other *Side
	}{{p.A, c.A, c.B}, {p.B, c.B, c.A}} {
		path, err := x.end.Transport.Open(x.side.Session)
		if err != nil {
			t.Fatal(err)
		}
		x.side.Path = path
	}
	c.A.start(t, c.B)
	c.B.start(t, c.A)
	return c
}

func (p *Pair) side(local, remote *End, dialled bool, from, to netip.AddrPort) *Side {
	s := &Side{
		Counters: &transport.Counters{}, Ended: make(chan error, 1),
		done: make(chan struct{}), control: make(chan message, 1024),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.Session = transport.Session{
		Local: local.Peer, Remote: remote.Peer, UID: 0x1000 + p.uid, Dialled: dialled,
		LocalAddr: from, RemoteAddr: to, Native: !p.opts.Stock, Authenticated: true,
		SendControl: s.sendControl, Done: s.done, Counters: s.Counters,
		Rests: (p.opts.Rests || p.opts.RestsB && !dialled) && !p.opts.Stock,
	}
	if p.opts.Sealed {
		s.Session.Key = &[32]byte{1, 2, 3, byte(p.uid)}
	}
	if !p.opts.Stock {
		s.Session.Secret = &[32]byte{4, 5, 6, byte(p.uid)}
	}
	return s
}

// start runs the path and brings the control messages of this side to the other.
func (s *Side) start(t *testing.T, other *Side) {
	var wg sync.WaitGroup
	wg.Go(func() { s.Ended <- s.Path.Run(s.ctx, s.report) })
	wg.Go(func() { s.carry(other) })
	t.Cleanup(func() {
		s.cancel()
		wg.Wait()
	})
}

func (s *Side) sendControl(tag byte, msg []byte) error {
	select {
	case <-s.done:
		return errors.New("control connection is gone")
	default:
	}
	select {
	case s.control <- message{tag, bytes.Clone(msg), time.Now().Add(controlDelay)}:
		return nil
	default:
		return errors.New("control connection is full")
	}
}

func (s *Side) carry(other *Side) {
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.done:
			return
		case m := <-s.control:
			time.Sleep(time.Until(m.at)) // the message is under way
			other.Path.HandleControl(m.tag, m.msg)
		}
	}
}

func (s *Side) report(st transport.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = st
	s.states = append(s.states, st)
}

// State is what the path reported last.
func (s *Side) State() transport.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// States returns all that the path has reported since the last call.
func (s *Side) States() []transport.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.states
	s.states = nil
	return all
}

// Lose ends the control connection of this side.
func (s *Side) Lose() { close(s.done) }

// Stop ends the path of this side, as when its process dies.
func (s *Side) Stop() { s.cancel() }

// Sides are both sides.
func (c *Conn) Sides() []*Side { return []*Side{c.A, c.B} }

// Up waits until both sides are up.
func (c *Conn) Up(t *testing.T, within time.Duration) {
	t.Helper()
	for _, s := range c.Sides() {
		Eventually(t, within, "path is up", func() bool { return s.State().Up })
	}
}

// Eventually fails the test unless ok becomes true in time. In a bubble time
// passes only while nothing else can happen.
func Eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	start := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-tick.C
	}
}
