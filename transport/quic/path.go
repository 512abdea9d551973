package quic

import (
	"context"
	"errors"
	"log/slog"
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

// answersPerSecond is how many probes and tests of a neighbour are answered.
const answersPerSecond = 100

// Times of a path.
const (
	helloEvery = time.Second            // a hello that found no room in the connection's queue
	eagerEvery = 100 * time.Millisecond // between probes to begin with
	eagerFor   = time.Second
	roomEvery  = 200 * time.Millisecond // how often the connection's MTU is looked at
	roomEager  = 20 * time.Millisecond  // the same of a new connection
	shortFor   = 3 * time.Second        // an MTU below the connection's, until that is given up
	breakEvery = 10 * time.Second
)

// Why a path ends.
var (
	errControlLost = errors.New("control connection lost")
	errReplaced    = errors.New("too many newer paths to this neighbour")
)

// path is one way to a neighbour. The data plane (Send, Flush) takes tx.mu only;
// the goroutines that feed and receive take that, rx.mu, and mu for what is not a
// frame; Run's takes all.
type path struct {
	t       *Transport
	session transport.Session
	log     *slog.Logger
	index   uint64 // of our path; written by Transport.add
	tx      sender
	rx      receiver

	heard     atomic.Int64  // of the last datagram: nanoseconds from t.epoch; 0: none
	wake      chan struct{} // any goroutine sends, Run receives; full: Run will look anyway
	traffic   pathstate.Traffic
	redial    chan struct{} // who finds a connection broken sends, dial receives; full: it will look anyway
	evicted   chan struct{} // closed by evict
	evictOnce sync.Once
	met       chan struct{} // closed by meetLocked when both hellos are there
	answers   *rate.Limiter

	mu        sync.Mutex      // guards below; taken before tx.mu and rx.mu
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
	lost      bool      // the control connection is gone
	due       time.Time // when Run wanted to wake up
	probedAt  time.Time
	life      pathstate.Life
	prober    pathstate.Prober
	pmtu      *pathstate.PMTU
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
		wake: make(chan struct{}, 1), redial: make(chan struct{}, 1),
		evicted: make(chan struct{}), met: make(chan struct{}),
		answers: rate.NewLimiter(answersPerSecond, answersPerSecond),
		pmtu:    pathstate.NewPMTU(pathstate.PMTUConfig{Overhead: besides, Verify: pathstate.VerifyNative}),
	}
	p.tx.counters, p.tx.more = s.Counters, make(chan struct{}, 1)
	return p
}

// Send implements transport.Sender.
func (p *path) Send(pk frame.Packet) error {
	p.busy()
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
	if err := p.t.add(p); err != nil {
		return err
	}
	defer p.t.remove(p)
	inner, cancel := context.WithCancel(ctx)
	defer p.end(cancel)
	p.begin(inner)
	r := transport.NewReporter(report, p.log)
	timer := time.NewTimer(0)
	defer timer.Stop()
	done := p.session.Done
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.evicted:
			return errReplaced
		case <-done:
			done = nil
			p.controlLost(time.Now())
		case <-p.wake:
		case <-timer.C:
		}
		now := time.Now()
		p.lookAtRoom(now)
		todo := p.step(now)
		p.carryOut(now, todo)
		r.Tell(now, todo.state)
		if todo.err != nil {
			return todo.err
		}
		timer.Reset(time.Until(todo.due))
	}
}

// begin makes our hello, and begins to dial where that is ours to do.
func (p *path) begin(ctx context.Context) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx = ctx
	p.life.Begin(now, true)
	if p.session.Rests {
		p.life.MayRest(p.session.Pace)
	}
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
	if late := now.Sub(p.due); !p.due.IsZero() && late > pathstate.StallAfter {
		p.life.Stalled(now, late)
		p.pmtu.Shift(late)
	}
	p.life.Settle(now, p.traffic.Take() || p.lost, p.prober.Loss(now))
	p.life.Judge(now, p.heardAt(), p.bound != nil, p.lost)
	var o orders
	if p.lost && !p.life.Up {
		o.err = errControlLost
	}
	if !p.greeted && !p.lost && !now.Before(p.greetAt) {
		p.greetAt = now.Add(helloEvery)
		o.hello = p.hello
	}
	p.probeLocked(now, &o)
	p.testLocked(now, &o)
	if lost := p.rx.tend(now); lost > 0 {
		p.session.Counters.Rx.Drop(transport.DropQueueFull, lost)
	}
	o.state = p.stateLocked(now, o.err)
	o.due = p.dueLocked(now)
	p.due = o.due
	if p.traffic.Rest(p.life.Resting()) {
		p.rouse()
	}
	p.tx.fit(p.pmtu.MTU())
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
	p.rouse()
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
	s := transport.State{
		Up: p.life.Up && err == nil, Doubtful: p.life.Doubtful(now, p.heardAt()), Unproven: p.life.Unproven(now), MTU: p.pmtu.MTU(), RTT: p.prober.RTT(), MinRTT: p.prober.MinRTT(now), Loss: p.prober.Loss(now),
		Encrypted: true, Authenticated: p.session.Authenticated, Handshakes: p.bindings,
	}
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
	case p.life.Why != "":
		return p.life.Why
	case p.heard.Load() == 0:
		return "no datagram from the neighbour yet"
	}
	return "the neighbour has not answered our datagrams"
}

// dueLocked is when step has to be called next.
func (p *path) dueLocked(now time.Time) time.Time {
	due := p.life.Due(now, p.heardAt())
	earliest := func(t time.Time) {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	if !p.greeted && !p.lost {
		earliest(p.greetAt)
	}
	if p.bound != nil {
		earliest(p.probeDueLocked(now))
		if !p.life.Idle(now) {
			earliest(p.roomAt)
		}
	}
	if p.life.Up && (!p.life.Idle(now) || p.pmtu.Testing()) {
		earliest(p.pmtu.Due())
	}
	if due.Before(now) { // what was put off while the path was idle: no stall
		return now
	}
	return due
}

// carryOut sends what a step ordered.
func (p *path) carryOut(now time.Time, o orders) {
	if o.hello != nil && p.session.SendControl(tagHello, o.hello) == nil {
		p.mu.Lock()
		p.greeted = true // otherwise again: Done tells if the connection is gone
		p.mu.Unlock()
	}
	if o.probe {
		p.tx.note(encap.AppendNativeProbe(nil, encap.NativeQuestion{Sequence: o.seq, Heard: p.heardAgo(now)}))
	}
	for _, size := range o.tests {
		p.tx.note(encap.AppendNativeTest(nil, size+besides))
	}
	if o.give != nil {
		o.give.conn.Break("large datagrams do not arrive")
	}
}

// controlLost is told once that the control connection is gone.
func (p *path) controlLost(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = true
	p.life.Question(now)
	p.prober.Hurry()
}

// Hurry probes a path at once that rests, because it may soon be needed.
func (p *path) Hurry() {
	p.mu.Lock()
	if p.life.Resting() {
		p.life.Wake(time.Now())
		p.prober.Hurry()
	}
	p.mu.Unlock()
	p.rouse()
}

// evict makes Run end.
func (p *path) evict() { p.evictOnce.Do(func() { close(p.evicted) }) }

// busy notes that frames flow.
func (p *path) busy() {
	if p.traffic.Note() {
		p.rouse()
	}
}

// rouse makes Run look at once.
func (p *path) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// alive notes that a datagram of the neighbour was read, and reports whether it
// was the first.
func (p *path) alive(now time.Time) (first bool) {
	return p.heard.Swap(max(int64(now.Sub(p.t.epoch)), 1)) == 0
}

// heardAt is when the last datagram was read; zero: none was.
func (p *path) heardAt() time.Time {
	if d := p.heard.Load(); d != 0 {
		return p.t.epoch.Add(time.Duration(d))
	}
	return time.Time{}
}
