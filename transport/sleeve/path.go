package sleeve

import (
	"cmp"
	"context"
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

	from    atomic.Pointer[netip.AddrPort]
	refused atomic.Bool // the kernel refused frames that fit the MTU as we know it
	stale   atomic.Bool // the route is to be looked at again

	answers, replies, moves *rate.Limiter

	*pathstate.Watch // what Run goes by

	mu          sync.Mutex // guards below, and what of Watch is Locked; taken before tx.mu
	addr        netip.AddrPort
	conn        PacketConn
	home        netip.AddrPort // where the neighbour was first
	seen        bool           // a heartbeat of this connection has come
	established bool           // the neighbour has had one of ours
	begun       time.Time
	heartbeatAt time.Time
	frag        fragTest
	routeMTU    int       // bytes, as the kernel says
	routeAt     time.Time // when the kernel was asked for that
	suspectAt   time.Time
}

var _ transport.Path = (*path)(nil)

func newPath(t *Transport, s transport.Session) *path {
	p := &path{
		t: t, session: s, log: t.log.With("peer", s.Remote.Name),
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
	p.Watch = pathstate.NewWatch(&p.mu, pathstate.WatchConfig{
		Native: s.Native, Rests: s.Rests, Pace: s.Pace,
		PMTU: pathstate.NewPMTU(pathstate.PMTUConfig{
			Overhead: p.overhead(s.RemoteAddr), Verify: verify, Skip: isFragTest,
		}),
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
	p.Busy()
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
	return p.Watch.Run(ctx, p.session.Done, func(now time.Time) (time.Time, error) {
		p.lookAtRoute(now)
		todo := p.step(now)
		p.carryOut(todo)
		r.Tell(now, todo.state)
		return todo.due, todo.err
	})
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
	}
	if p.JudgeLocked(now, p.seen && p.established) {
		p.PMTU.Suspect(now) // it may be another way now, and tests in progress are stale
	}
	o := orders{err: p.FailedLocked()}
	p.heartbeatLocked(now, &o)
	p.probeLocked(now, &o)
	p.testLocked(now, &o)
	o.state = p.stateLocked(now, o.err)
	o.due = p.sleepLocked(now)
	p.tx.route(p.addr, p.conn, p.mtuLocked())
	p.tx.setStackOK(p.frag.ok)
	return o
}

// testingLocked reports whether tests go on. The control connection brings the answers.
func (p *path) testingLocked(now time.Time) bool {
	return p.TestsLocked(now) && !p.Lost && p.conn != nil
}

// testLocked orders fragmentation and MTU tests.
func (p *path) testLocked(now time.Time, o *orders) {
	if !p.testingLocked(now) {
		return
	}
	if p.PMTU.MTU() == 0 && p.routeMTU != 0 {
		p.PMTU.SetRoute(now, p.routeMTU)
	}
	o.fragTest = p.frag.next(now)
	o.tests = p.PMTU.Next(now, nil)
}

// mtuLocked is the MTU for frames in bytes.
func (p *path) mtuLocked() int {
	if mtu := p.PMTU.MTU(); mtu != 0 {
		return mtu
	}
	return p.PMTU.Limit(cmp.Or(p.routeMTU, defaultRoute))
}

func (p *path) stateLocked(now time.Time, err error) transport.State {
	s := transport.StateLocked(now, p.Watch, err)
	s.Addr, s.Encrypted, s.Authenticated = p.addr, p.open != nil, p.open != nil && p.session.Authenticated
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
		s.Why = p.Life.Why
	}
	return s
}

// sleepLocked is when step has to be called next.
func (p *path) sleepLocked(now time.Time) time.Time {
	var route, heartbeat, frag, mtu time.Time
	if p.conn != nil {
		route, heartbeat = p.routeDueLocked(), p.heartbeatAt
	}
	if p.testingLocked(now) {
		frag, mtu = p.frag.at, p.PMTU.Due()
	}
	return p.SleepLocked(now, route, heartbeat, p.probeDueLocked(now), frag, mtu)
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
	p.PMTU.SetOverhead(now, p.overhead(to), mtu)
	if p.PMTU.MTU() == 0 {
		return
	}
	p.PMTU.SetRoute(now, mtu)
	if p.refused.Swap(false) && p.PMTU.Limit(mtu) >= p.PMTU.MTU() && !now.Before(p.suspectAt) {
		p.suspectAt = now.Add(suspectEvery)
		p.PMTU.Suspect(now)
	}
}

// onRefused is called by the data path when the kernel found a datagram too big.
func (p *path) onRefused() {
	p.refused.Store(true)
	p.stale.Store(true)
	p.Rouse()
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
		p.Life.Reach(now)
	case tag == tagFragTest:
		p.frag.passed(now)
	case tag == tagMTU && len(msg) == 2:
		p.PMTU.Acked(now, int(msg[0])<<8|int(msg[1]))
	}
	p.mu.Unlock()
	p.Rouse()
}

// unseal opens a datagram under the path's key; the packets are appended to dst.
func (p *path) unseal(dst, datagram []byte) ([]byte, error) {
	p.openMu.Lock()
	defer p.openMu.Unlock()
	return p.open.Open(dst, datagram)
}

// confirmed reports whether a heartbeat or probe of the path came from there last.
func (p *path) confirmed(from netip.AddrPort) bool {
	a := p.from.Load()
	return a != nil && *a == from
}
