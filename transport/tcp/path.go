package tcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/pathstate"
	"meshd/transport"
)

// answersPerSecond is how many probes of a neighbour are answered.
const answersPerSecond = 100

// Times of a path.
const (
	helloEvery  = time.Second     // a hello that found no room in the connection's queue
	giveUpAfter = 5 * time.Second // a connection over which the path is down
)

// Why a connection ends.
var (
	errEnding = errors.New("the path is ending")
	errDead   = errors.New("the path is down over it")
)

// path is one way to a neighbour. The data plane (Send, Flush) takes tx.mu only;
// the goroutines that feed and receive take that, and mu for what is not a frame;
// Run's takes both.
type path struct {
	t       *Transport
	session transport.Session
	log     *slog.Logger
	index   uint64 // of our path; Run's
	tx      sender

	redial  chan struct{} // who finds a connection broken sends, dial receives; full: it will look anyway
	met     chan struct{} // closed by meetLocked when both hellos are there
	answers *rate.Limiter

	*pathstate.Watch // what Run goes by

	mu        sync.Mutex      // guards below, and what of Watch is Locked; taken before tx.mu
	ctx       context.Context // of what runs for the path; nil: it does not run
	wg        sync.WaitGroup  // of that; Go is called with mu held and ctx not done
	bound     *bound          // nil: no connection yet
	bindings  uint64          // connections that were the path's, the one in use included
	rekeys    uint64          // of those before it
	lastErr   error           // of the last attempt to connect, or why the connection ended
	hello     []byte          // ours; nil: not made yet
	theirs    []byte          // the neighbour's; nil: has not come
	neighbour hello           // what it says
	key       []byte          // see pathKey; nil: a hello is missing
	greeted   bool            // ours was sent
	greetAt   time.Time
	helloErr  error     // theirs cannot be used
	upAt      time.Time // when the path was up last, or began
}

var _ transport.Path = (*path)(nil)

// bound is a connection that a path has.
type bound struct {
	conn   net.Conn
	addr   netip.AddrPort // the other end
	since  time.Time
	seal   *encap.NativeSeal // of the goroutine that feeds
	open   *encap.NativeOpen // of the one that receives
	rekeys atomic.Uint64
	cancel context.CancelFunc
	ended  bool // it does not work any more; guarded by path.mu
}

func newPath(t *Transport, s transport.Session) *path {
	p := &path{
		t: t, session: s, log: t.log.With("peer", s.Remote.Name),
		redial: make(chan struct{}, 1), met: make(chan struct{}),
		answers: rate.NewLimiter(answersPerSecond, answersPerSecond),
	}
	p.Watch = pathstate.NewWatch(&p.mu, pathstate.WatchConfig{Native: true, Rests: s.Rests, Pace: s.Pace})
	p.tx.counters, p.tx.more = s.Counters, make(chan struct{}, 1)
	return p
}

// Send implements transport.Sender.
func (p *path) Send(pk frame.Packet) error {
	p.Busy()
	return p.tx.send(&pk)
}

// Flush implements transport.Sender.
func (p *path) Flush() error {
	p.tx.flush()
	return nil
}

// Run implements transport.Path. It returns an error when the control connection
// is lost and the path does not work either.
func (p *path) Run(ctx context.Context, report func(transport.State)) error {
	p.index = p.t.paths.Add(p.session.Remote.Name, p)
	defer p.t.paths.Remove(p.index)
	inner, cancel := context.WithCancel(ctx)
	defer p.end(cancel)
	p.begin(inner)
	r := transport.NewReporter(report, p.log)
	return p.Watch.Run(ctx, p.session.Done, func(now time.Time) (time.Time, error) {
		todo := p.step(now)
		p.carryOut(now, todo)
		r.Tell(now, todo.state)
		return todo.due, todo.err
	})
}

// begin makes our hello, and begins to dial where that is ours to do.
func (p *path) begin(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx, p.upAt = ctx, time.Now()
	p.hello = hello{index: p.index, mtu: p.t.mtu, can: p.t.can}.append(nil)
	p.meetLocked()
	if p.session.Dialled {
		p.wg.Go(func() { p.dial(ctx) })
	}
}

// end ends what runs for the path and waits for it.
func (p *path) end(cancel context.CancelFunc) {
	p.mu.Lock()
	cancel()
	b := p.bound
	p.bound = nil
	p.mu.Unlock()
	if b != nil {
		p.leave(b)
	}
	p.wg.Wait()
}

// orders is what a step found to be done.
type orders struct {
	hello []byte // nil: none
	probe bool   // with the sequence number
	seq   uint32
	give  *bound // to be given up; nil: none
	state transport.State
	due   time.Time
	err   error
}

// step moves all that depends on time on to now.
func (p *path) step(now time.Time) orders {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.JudgeLocked(now, p.bound != nil)
	if p.Life.Up {
		p.upAt = now
	}
	o := orders{err: p.FailedLocked()}
	if !p.greeted && !p.Lost && !now.Before(p.greetAt) {
		p.greetAt = now.Add(helloEvery)
		o.hello = p.hello
	}
	p.probeLocked(now, &o)
	if at := p.giveUpAtLocked(); !at.IsZero() && !now.Before(at) {
		o.give = p.bound
	}
	o.state = p.stateLocked(now, o.err)
	o.due = p.sleepLocked(now)
	return o
}

// giveUpAtLocked is when a connection over which the path is down is given up, so
// that it keeps no memory; zero: not.
func (p *path) giveUpAtLocked() time.Time {
	if p.Life.Up || !p.connectedLocked() {
		return time.Time{}
	}
	at := p.bound.since
	if p.upAt.After(at) {
		at = p.upAt
	}
	return at.Add(giveUpAfter)
}

// connectedLocked reports whether there is a connection that has not ended.
func (p *path) connectedLocked() bool { return p.bound != nil && !p.bound.ended }

// HandleControl implements transport.Path. Only the neighbour's first hello
// counts; unknown tags are ignored.
func (p *path) HandleControl(tag byte, msg []byte) {
	if tag != tagHello {
		return
	}
	p.mu.Lock()
	if p.theirs == nil && p.helloErr == nil {
		if p.neighbour, p.helloErr = parseHello(msg); p.helloErr == nil {
			p.theirs = slices.Clone(msg)
			p.meetLocked()
		}
	}
	p.mu.Unlock()
	p.Rouse()
}

// meetLocked derives the key as soon as both hellos are there.
func (p *path) meetLocked() {
	if p.hello == nil || p.theirs == nil {
		return
	}
	dialler, acceptor := p.hello, p.theirs
	if !p.session.Dialled {
		dialler, acceptor = acceptor, dialler
	}
	if p.key, p.helloErr = pathKey(p.session.Secret, dialler, acceptor); p.helloErr == nil {
		p.tx.fit(p.neighbour.mtu)
		close(p.met)
	}
}

// bindKey is what both ends prove that they know, and the neighbour's index. Both
// hellos are there.
func (p *path) bindKey() (key []byte, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key, p.neighbour.index
}

// take makes a connection the path's, in place of the one before.
func (p *path) take(c net.Conn, s secrets) error {
	b, err := p.bind(c, s)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.ctx.Err() != nil {
		return errEnding
	}
	ctx, cancel := context.WithCancel(p.ctx)
	b.cancel = cancel
	old := p.bound
	p.bound = b
	p.bindings++
	p.lastErr = nil
	p.RenewLocked(b.since)
	if old != nil {
		p.rekeys += old.rekeys.Load()
		p.wg.Go(func() { p.leave(old) })
	}
	p.tx.open(b)
	p.wg.Go(func() { p.feed(ctx, b) })
	p.wg.Go(func() { p.receive(ctx, b) })
	p.Rouse()
	return nil
}

// bind makes the ciphers of a connection.
func (p *path) bind(c net.Conn, s secrets) (*bound, error) {
	out, in := s.fromDialler, s.fromAcceptor
	if !p.session.Dialled {
		out, in = in, out
	}
	p.mu.Lock()
	suite := (p.t.can & p.neighbour.can).suite()
	p.mu.Unlock()
	b := &bound{conn: c, addr: addrPort(c.RemoteAddr()), since: time.Now()}
	var err error
	if b.seal, err = encap.NewNativeSeal(out, suite, 0); err != nil {
		return nil, fmt.Errorf("make the sealing cipher: %w", err)
	}
	if b.open, err = encap.NewNativeOpen(in, suite); err != nil {
		return nil, fmt.Errorf("make the opening cipher: %w", err)
	}
	p.log.Debug("TCP connection for a path", "addr", b.addr, "cipher", suite)
	return b, nil
}

// addrPort is the address of a connection's end.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// leave gives a connection up.
func (p *path) leave(b *bound) {
	b.cancel()
	p.tx.close(b)
	discard(b.conn)
}

// broken notes that a connection does not work any more.
func (p *path) broken(b *bound, err error) {
	p.leave(b)
	p.mu.Lock()
	if p.bound == b && !b.ended {
		b.ended, p.lastErr = true, err
		p.Life.Interrupt(time.Now())
		p.log.Debug("TCP connection of a path ended", "addr", b.addr, "err", err)
	}
	p.mu.Unlock()
	select {
	case p.redial <- struct{}{}:
	default:
	}
	p.Rouse()
}

func (p *path) stateLocked(now time.Time, err error) transport.State {
	s := transport.StateLocked(now, p.Watch, err)
	s.MTU, s.Encrypted, s.Authenticated = p.neighbour.mtu, true, p.session.Authenticated
	s.Handshakes, s.Rekeys = p.bindings, p.rekeys
	// A connection that has ended is known to carry nothing until the next one.
	s.Doubtful = s.Up && (s.Doubtful || !p.connectedLocked())
	if p.bound != nil {
		s.Addr = p.bound.addr
		s.Rekeys += p.bound.rekeys.Load()
	}
	if !s.Up {
		s.Why = p.whyLocked(err)
	}
	return s
}

// whyLocked says what the path lacks to be up.
func (p *path) whyLocked(err error) string {
	switch {
	case err != nil:
		return err.Error()
	case p.helloErr != nil:
		return p.helloErr.Error()
	case p.theirs == nil:
		return "waiting for the neighbour's hello"
	case p.lastErr != nil:
		return p.lastErr.Error()
	case p.bound == nil && p.session.Dialled:
		return "connecting"
	case p.bound == nil:
		return "waiting for the neighbour's connection"
	case p.Life.Why != "":
		return p.Life.Why
	case p.HeardAt().IsZero():
		return "nothing from the neighbour yet"
	}
	return "the neighbour has not answered"
}

// sleepLocked is when step has to be called next.
func (p *path) sleepLocked(now time.Time) time.Time {
	var greet time.Time
	if !p.greeted && !p.Lost {
		greet = p.greetAt
	}
	return p.SleepLocked(now, greet, p.probeDueLocked(now), p.giveUpAtLocked())
}

// carryOut does what a step ordered.
func (p *path) carryOut(now time.Time, o orders) {
	if o.hello != nil && p.session.SendControl(tagHello, o.hello) == nil {
		p.mu.Lock()
		p.greeted = true // otherwise again: Done tells if the connection is gone
		p.mu.Unlock()
	}
	if o.probe {
		p.tx.note(encap.AppendNativeProbe(nil, encap.NativeQuestion{Sequence: o.seq, Heard: p.HeardAgo(now)}))
	}
	if o.give != nil {
		p.broken(o.give, errDead)
	}
	p.tx.tend(now)
}
