package quic

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/pathstate"
	"meshd/transport"
)

// answersPerSecond is how many probes and tests of a neighbour are answered.
const answersPerSecond = 100

// Times of a path.
const (
	helloEvery = time.Second            // a hello that found no room in the connection's queue
	roomEvery  = 200 * time.Millisecond // how often the connection's MTU is looked at
	roomEager  = 20 * time.Millisecond  // the same of a connection that is new, for roomGrows
	roomGrows  = time.Second
	shortFor   = 3 * time.Second // an MTU below the connection's, until that is given up
	breakEvery = 10 * time.Second
)

// path is one way to a neighbour. The data plane (Send, Flush) takes tx.mu only;
// the goroutines that feed and receive take that, rx.mu, and mu for what is not a
// frame; Run's takes all.
type path struct {
	t       *Transport
	session transport.Session
	log     *slog.Logger
	index   uint64 // of our path; Run's
	tx      sender
	rx      receiver

	redial  chan struct{} // who finds a connection broken sends, dial receives; full: it will look anyway
	met     chan struct{} // closed by meetLocked when both hellos are there
	answers *rate.Limiter

	*pathstate.Watch // what Run goes by

	mu        sync.Mutex      // guards below, and what of Watch is Locked; taken before tx.mu and rx.mu
	ctx       context.Context // of what runs for the path; nil: it does not run
	wg        sync.WaitGroup  // of that; Go is called with mu held and ctx not done
	bound     *bound          // nil: no connection yet
	bindings  uint64          // connections that were the path's, the one in use included
	dialErr   error           // of the last attempt
	hello     []byte          // ours; nil: not made yet
	theirs    []byte          // the neighbour's; nil: has not come
	neighbour hello           // what it says
	key       []byte          // see bindKey; nil: a hello is missing
	greeted   bool            // ours was sent
	greetAt   time.Time
	helloErr  error     // theirs cannot be used
	room      int       // bytes of a datagram, by the connection
	roomAt    time.Time // when that is to be looked at
	shortAt   time.Time // since when less gets through; zero: it does not
	brokeAt   time.Time // when a connection was given up for that
}

var _ transport.Path = (*path)(nil)

// besides is how many bytes longer a datagram with one frame is than the IP
// packet in the frame.
const besides = encap.NativePacketHeader + frame.HeaderLen

func newPath(t *Transport, s transport.Session) *path {
	p := &path{
		t: t, session: s, log: t.log.With("peer", s.Remote.Name),
		redial: make(chan struct{}, 1), met: make(chan struct{}),
		answers: rate.NewLimiter(answersPerSecond, answersPerSecond),
	}
	p.Watch = pathstate.NewWatch(&p.mu, pathstate.WatchConfig{
		Native: true, Rests: s.Rests, Pace: s.Pace,
		PMTU: pathstate.NewPMTU(pathstate.PMTUConfig{Overhead: besides}),
	})
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
		p.lookAtRoom(now)
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
	p.ctx = ctx
	p.hello = hello{index: p.index, port: p.t.endpoint.Port()}.append(nil)
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
	p.tx.forget()
}

// orders is what a step found to be done.
type orders struct {
	hello []byte // nil: none
	probe bool   // with the sequence number
	seq   uint32
	tests []int  // sizes of inner IP packets
	give  *bound // to be broken: it does not carry what it says; nil: none
	state transport.State
	due   time.Time
	err   error
}

// step moves all that depends on time on to now.
func (p *path) step(now time.Time) orders {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.JudgeLocked(now, p.bound != nil)
	o := orders{err: p.FailedLocked()}
	if !p.greeted && !p.Lost && !now.Before(p.greetAt) {
		p.greetAt = now.Add(helloEvery)
		o.hello = p.hello
	}
	p.probeLocked(now, &o)
	p.testLocked(now, &o)
	if lost := p.rx.tend(now); lost > 0 {
		p.session.Counters.Rx.Drop(transport.DropQueueFull, lost)
	}
	o.state = p.stateLocked(now, o.err)
	o.due = p.sleepLocked(now)
	p.tx.fit(p.PMTU.MTU())
	return o
}

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
	if p.key, p.helloErr = bindKey(p.session.Secret, dialler, acceptor); p.helloErr == nil {
		close(p.met)
	}
}

func (p *path) stateLocked(now time.Time, err error) transport.State {
	s := transport.StateLocked(now, p.Watch, err)
	s.Encrypted, s.Authenticated, s.Handshakes = true, p.session.Authenticated, p.bindings
	if p.bound != nil {
		s.Addr = p.bound.conn.RemoteAddr()
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
	case p.dialErr != nil:
		return p.dialErr.Error()
	case p.bound == nil && p.session.Dialled:
		return "connecting"
	case p.bound == nil:
		return "waiting for the neighbour's connection"
	case p.Life.Why != "":
		return p.Life.Why
	case p.HeardAt().IsZero():
		return "no datagram from the neighbour yet"
	}
	return "the neighbour has not answered our datagrams"
}

// sleepLocked is when step has to be called next.
func (p *path) sleepLocked(now time.Time) time.Time {
	var greet, room time.Time
	if !p.greeted && !p.Lost {
		greet = p.greetAt
	}
	if p.bound != nil && !p.Life.Idle(now) {
		room = p.roomAt
	}
	return p.SleepLocked(now, greet, room, p.probeDueLocked(now), p.TestsDueLocked(now))
}

// carryOut sends what a step ordered.
func (p *path) carryOut(now time.Time, o orders) {
	if o.hello != nil && p.session.SendControl(tagHello, o.hello) == nil {
		p.mu.Lock()
		p.greeted = true // otherwise again: Done tells if the connection is gone
		p.mu.Unlock()
	}
	if o.probe {
		p.tx.note(encap.AppendNativeProbe(nil, encap.NativeQuestion{Sequence: o.seq, Heard: p.HeardAgo(now)}))
	}
	for _, size := range o.tests {
		p.tx.note(encap.AppendNativeTest(nil, size+besides))
	}
	if o.give != nil {
		o.give.conn.Break("large datagrams do not arrive")
	}
}
