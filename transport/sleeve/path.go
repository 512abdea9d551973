package sleeve

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/pathstate"
	"meshd/transport"
)

// Overlay control messages (weave protocol, section 2.1).
const (
	tagEstablished = 1
	tagFragTest    = 2
	tagMTU         = 3
)

// What a neighbour can make us do, at most: answers to tests per second, which
// are control messages; replies to probes per second; moves of its address, of
// which three may come at once.
const (
	answersPerSecond = 50
	repliesPerSecond = 50
	moveEvery        = time.Second
	movesAtOnce      = 3
)

// Times of a path.
const (
	routeEvery   = 10 * time.Second      // how often the kernel is asked for the route's MTU
	routeGap     = 20 * time.Millisecond // between two such questions, whatever we are told
	suspectEvery = time.Second
	defaultRoute = 1500 // MTU in bytes where the kernel knows no route
)

// Why a path ends.
var (
	errControlLost = errors.New("control connection lost")
	errSilent      = errors.New("no heartbeat from the neighbour for 60 s")
	errReplaced    = errors.New("too many newer paths to this neighbour")
)

// path is one way to a neighbour. Three kinds of goroutines meet here: the data
// plane's (Send, Flush), which takes tx.mu only; the readers', which take mu for
// special frames only; and Run's.
type path struct {
	t       *Transport
	session transport.Session
	log     *slog.Logger
	tx      sender

	openMu sync.Mutex // guards open: there is a reader for each address family
	open   *encap.SleeveOpen

	heard     atomic.Int64 // of the last valid datagram: nanoseconds from t.epoch; 0: none
	from      atomic.Pointer[netip.AddrPort]
	wake      chan struct{} // any goroutine sends, Run receives; full: Run will look anyway
	traffic   pathstate.Traffic
	evicted   chan struct{} // closed by evict
	evictOnce sync.Once
	refused   atomic.Bool // the kernel refused frames that fit the MTU as we know it
	stale     atomic.Bool // the route is to be looked at again

	answers, replies, moves *rate.Limiter

	mu          sync.Mutex // guards below; taken before tx.mu
	addr        netip.AddrPort
	conn        PacketConn
	home        netip.AddrPort // where the neighbour was first
	seen        bool           // a heartbeat of this connection has come
	established bool           // the neighbour has had one of ours
	lost        bool           // the control connection is gone
	begun       time.Time
	due         time.Time // when Run wanted to wake up
	heartbeatAt time.Time
	life        pathstate.Life
	prober      pathstate.Prober
	frag        fragTest
	pmtu        *pathstate.PMTU
	routeMTU    int       // bytes, as the kernel says
	routeAt     time.Time // when the kernel was asked for that
	suspectAt   time.Time
}

var _ transport.Path = (*path)(nil)

func newPath(t *Transport, s transport.Session) *path {
	p := &path{
		t: t, session: s, log: t.log.With("peer", s.Remote.Name),
		wake: make(chan struct{}, 1), evicted: make(chan struct{}),
		answers: rate.NewLimiter(answersPerSecond, answersPerSecond),
		replies: rate.NewLimiter(repliesPerSecond, repliesPerSecond),
		moves:   rate.NewLimiter(rate.Every(moveEvery), movesAtOnce),
	}
	p.tx = sender{t: t, counters: s.Counters, refused: p.onRefused}
	if s.Key != nil {
		p.tx.seal = encap.NewSleeveSeal(s.Key, s.Dialled)
		p.open = encap.NewSleeveOpen(s.Key, !s.Dialled)
	}
	p.tx.init()
	verify := pathstate.VerifyStock
	if s.Native {
		verify = pathstate.VerifyNative
	}
	p.pmtu = pathstate.NewPMTU(pathstate.PMTUConfig{
		Overhead: p.overhead(s.RemoteAddr), Verify: verify, Skip: isFragTest,
	})
	if s.Dialled {
		p.addr = netip.AddrPortFrom(s.RemoteAddr.Addr().Unmap(), cmp.Or(s.ControlPort, s.RemoteAddr.Port()))
		p.conn, p.home = t.conn(p.addr), p.addr
	}
	return p
}

// overhead is how many bytes of underlay IP packet there are besides the inner IP
// packet (weave protocol, section 6.7).
func (p *path) overhead(to netip.AddrPort) int {
	ip := 20
	if to.Addr().Unmap().Is6() {
		ip = 40
	}
	return ip + 8 + p.tx.base() + encap.SleevePacketHeader + frame.HeaderLen
}

// Send implements transport.Sender.
func (p *path) Send(pk frame.Packet) error {
	p.busy()
	return p.tx.send(pk)
}

// Flush implements transport.Sender. Errors of the socket are counted.
func (p *path) Flush() error {
	p.tx.flush()
	return nil
}

// Run implements transport.Path. It returns an error when a stock neighbour's
// control connection is lost or its heartbeats stay away, and when the control
// connection of a meshd neighbour is lost and the path does not work either.
func (p *path) Run(ctx context.Context, report func(transport.State)) error {
	p.t.add(p)
	defer p.t.remove(p)
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
		p.lookAtRoute(now)
		todo := p.step(now)
		p.carryOut(todo)
		r.Tell(now, todo.state)
		if todo.err != nil {
			return todo.err
		}
		timer.Reset(time.Until(todo.due))
	}
}

// orders is what a step found to be done.
type orders struct {
	home                netip.AddrPort // where the probe goes too; invalid: nowhere else
	heartbeat, fragTest bool
	probe               *probe
	tests               []int // sizes of MTU tests
	state               transport.State
	due                 time.Time
	err                 error
}

// step moves all that depends on time on to now.
func (p *path) step(now time.Time) orders {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun.IsZero() {
		p.begun, p.heartbeatAt = now, now
		p.life.Begin(now, p.session.Native)
		if p.session.Rests {
			p.life.MayRest(p.session.Pace)
		}
	}
	if late := now.Sub(p.due); !p.due.IsZero() && late > pathstate.StallAfter {
		p.life.Stalled(now, late)
		p.pmtu.Shift(late)
	}
	wasUp := p.life.Up
	p.life.Settle(now, p.traffic.Take() || p.lost, p.prober.Loss(now))
	p.life.Judge(now, p.heardAt(), p.seen && p.established, p.lost)
	if p.life.Up && !wasUp {
		p.pmtu.Suspect(now) // it may be another way now, and tests in progress are stale
	}
	o := orders{err: p.failedLocked()}
	p.heartbeatLocked(now, &o)
	p.probeLocked(now, &o)
	p.testLocked(now, &o)
	o.state = p.stateLocked(now, o.err)
	o.due = p.dueLocked(now)
	p.due = o.due
	if p.traffic.Rest(p.life.Resting()) {
		p.rouse()
	}
	p.tx.route(p.addr, p.conn, p.mtuLocked())
	p.tx.setStackOK(p.frag.ok)
	return o
}

// failedLocked says why the path has ended for good.
func (p *path) failedLocked() error {
	switch {
	case p.lost && (!p.session.Native || !p.life.Up):
		return errControlLost
	case p.life.Expired:
		return errSilent
	}
	return nil
}

// testing reports whether tests make sense: the path works and the control
// connection, which brings the answers, is there. Needs mu.
func (p *path) testing() bool { return p.life.Up && !p.lost && p.conn != nil }

// lazyLocked reports whether tests can wait until frames flow again.
func (p *path) lazyLocked(now time.Time) bool { return p.life.Idle(now) && !p.pmtu.Testing() }

// testLocked orders fragmentation and MTU tests.
func (p *path) testLocked(now time.Time, o *orders) {
	if !p.testing() || p.lazyLocked(now) {
		return
	}
	if p.pmtu.MTU() == 0 && p.routeMTU != 0 {
		p.pmtu.SetRoute(now, p.routeMTU)
	}
	o.fragTest = p.frag.next(now)
	o.tests = p.pmtu.Next(now, nil)
}

// mtuLocked is the MTU for frames in bytes.
func (p *path) mtuLocked() int {
	if mtu := p.pmtu.MTU(); mtu != 0 {
		return mtu
	}
	if p.routeMTU != 0 {
		return p.pmtu.Limit(p.routeMTU)
	}
	return p.pmtu.Limit(defaultRoute)
}

func (p *path) stateLocked(now time.Time, err error) transport.State {
	s := transport.State{
		Up: p.life.Up && err == nil, Doubtful: p.life.Doubtful(now, p.heardAt()), Unproven: p.life.Unproven(now), MTU: p.pmtu.MTU(), RTT: p.prober.RTT(), MinRTT: p.prober.MinRTT(now), Loss: p.prober.Loss(now),
		Addr: p.addr, Encrypted: p.open != nil,
		Authenticated: p.open != nil && p.session.Authenticated,
	}
	if p.seen && p.established {
		s.Handshakes = 1
	}
	switch {
	case s.Up:
	case err != nil:
		s.Why = err.Error()
	case !p.addr.IsValid():
		s.Why = "waiting for the neighbour's first heartbeat to learn its address"
	case p.conn == nil:
		s.Why = "no socket for the address family of " + p.addr.String()
	case !p.seen:
		s.Why = "no heartbeat from the neighbour yet"
	case !p.established:
		s.Why = "the neighbour has not confirmed our heartbeats"
	default:
		s.Why = p.life.Why
	}
	return s
}

// dueLocked is when step has to be called next.
func (p *path) dueLocked(now time.Time) time.Time {
	due := p.life.Due(now, p.heardAt())
	earliest := func(t time.Time) {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	if p.conn != nil {
		earliest(p.routeDueLocked())
		earliest(p.heartbeatAt)
		earliest(p.probeDueLocked(now))
	}
	if p.testing() && !p.lazyLocked(now) {
		earliest(p.frag.at)
		earliest(p.pmtu.Due())
	}
	if due.Before(now) { // what was put off while the path was idle: no stall
		return now
	}
	return due
}

// carryOut sends what a step ordered.
func (p *path) carryOut(o orders) {
	if o.heartbeat {
		p.sendSpecial(appendHeartbeat(nil, p.session.UID), true)
	}
	if o.probe != nil {
		p.sendSpecial(o.probe.append(nil, specialProbe), true)
		if o.home.IsValid() {
			p.sendSpecialTo(o.home, p.t.conn(o.home), o.probe.append(nil, specialProbe), true)
		}
	}
	if o.fragTest {
		p.sendSpecial(zeros[:fragTestLen], false)
	}
	for _, size := range o.tests {
		p.sendSpecial(zeros[:frame.HeaderLen+size], true)
	}
}

// routeDueLocked is when the kernel is to be asked for the MTU of the route.
func (p *path) routeDueLocked() time.Time {
	if p.stale.Load() {
		return p.routeAt.Add(routeGap)
	}
	return p.routeAt.Add(routeEvery)
}

// lookAtRoute asks the kernel for the MTU of the route, now and then and when
// there is reason to.
func (p *path) lookAtRoute(now time.Time) {
	p.mu.Lock()
	to, conn := p.addr, p.conn
	wanted := conn != nil && !now.Before(p.routeDueLocked())
	p.mu.Unlock()
	if !wanted {
		return
	}
	p.stale.Store(false)
	mtu, err := conn.PathMTU(to)
	if err != nil {
		p.log.Debug("no MTU of the route", "addr", to, "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.routeAt = now
	if to != p.addr {
		p.stale.Store(true)
		return
	}
	if err != nil {
		mtu = cmp.Or(p.routeMTU, defaultRoute)
	}
	p.routeMTU = mtu
	p.pmtu.SetOverhead(now, p.overhead(to), mtu)
	if p.pmtu.MTU() == 0 {
		return
	}
	p.pmtu.SetRoute(now, mtu)
	if p.refused.Swap(false) && p.pmtu.Limit(mtu) >= p.pmtu.MTU() && !now.Before(p.suspectAt) {
		p.suspectAt = now.Add(suspectEvery)
		p.pmtu.Suspect(now)
	}
}

// onRefused is called by the data path when the kernel found a datagram too big.
func (p *path) onRefused() {
	p.refused.Store(true)
	p.stale.Store(true)
	p.rouse()
}

// HandleControl implements transport.Path. Unknown tags and wrong lengths are
// ignored.
func (p *path) HandleControl(tag byte, msg []byte) {
	now := time.Now()
	p.mu.Lock()
	switch {
	case tag == tagEstablished && !p.established:
		p.established = true
		p.heartbeatAt = now.Add(heartbeatSlow)
		p.life.Reach(now)
	case tag == tagFragTest:
		p.frag.passed(now)
	case tag == tagMTU && len(msg) == 2:
		p.pmtu.Acked(now, int(msg[0])<<8|int(msg[1]))
	}
	p.mu.Unlock()
	p.rouse()
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

// unseal opens a datagram under the path's key; the packets are appended to dst.
func (p *path) unseal(dst, datagram []byte) ([]byte, error) {
	p.openMu.Lock()
	defer p.openMu.Unlock()
	return p.open.Open(dst, datagram)
}

// alive notes that a valid datagram of the neighbour was read.
func (p *path) alive(now time.Time) { p.heard.Store(max(int64(now.Sub(p.t.epoch)), 1)) }

// heardAt is when the last valid datagram was read; zero: none was.
func (p *path) heardAt() time.Time {
	if d := p.heard.Load(); d != 0 {
		return p.t.epoch.Add(time.Duration(d))
	}
	return time.Time{}
}

// confirmed reports whether a heartbeat or probe of the path came from there last.
func (p *path) confirmed(from netip.AddrPort) bool {
	a := p.from.Load()
	return a != nil && *a == from
}
