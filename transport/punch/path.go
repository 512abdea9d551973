package punch

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/internal/pathstate"
	"meshd/transport"
)

// What a neighbour can make us do, at most: answers to probes and tests per
// second; moves of its address, of which three may come at once.
const (
	answersPerSecond = 100
	moveEvery        = time.Second
	movesAtOnce      = 3
)

// Times of a path.
const (
	holdBack     = 300 * time.Millisecond // for the dialler's first datagram
	helloEvery   = time.Second            // a hello that found no room in the connection's queue
	routeEvery   = 10 * time.Second       // how often the kernel is asked for the route's MTU
	suspectEvery = time.Second
	hintEvery    = 100 * time.Millisecond // between hints that are followed
	moveTime     = time.Second            // for the neighbour to follow a move
	defaultRoute = 1500                   // MTU in bytes where the kernel knows no route
)

// path is one way to a neighbour. Three kinds of goroutines meet here: the data
// plane's (Send, Flush), which takes tx.mu only; the readers', which take rx.mu,
// and mu for what is not a frame; and Run's.
type path struct {
	t       *Transport
	session transport.Session
	log     *slog.Logger
	index   uint32 // of the datagrams to us; Run's
	tx      sender
	rx      receiver

	refused atomic.Bool // the kernel refused datagrams that fit the MTU as we know it
	stale   atomic.Bool // the route is to be looked at again

	answers, moves *rate.Limiter

	*pathstate.Watch // what Run goes by

	mu        sync.Mutex // guards below, and what of Watch is Locked; taken before tx.mu and rx.mu
	addr      netip.AddrPort
	socket    mux.Socket
	home      netip.AddrPort // where the neighbour was first, or may be by a hint
	hello     []byte         // ours; nil: not made yet
	theirs    []byte         // the neighbour's; nil: has not come
	greeted   bool           // ours was sent
	greetAt   time.Time
	readyAt   time.Time // when both were there; zero: not yet
	helloErr  error     // theirs cannot be used
	keys      keyAge
	routeMTU  int // bytes, as the kernel says
	routeAt   time.Time
	suspectAt time.Time
	hintAt    time.Time // not before: the next hint counts
	runs      runTrust
	moving    move
}

var _ transport.Path = (*path)(nil)

func newPath(t *Transport, s transport.Session) *path {
	p := &path{
		t: t, session: s, log: t.log.With("peer", s.Remote.Name),
		answers: rate.NewLimiter(answersPerSecond, answersPerSecond),
		moves:   rate.NewLimiter(rate.Every(moveEvery), movesAtOnce),
	}
	p.tx = sender{counters: s.Counters, refused: p.onRefused}
	p.Watch = pathstate.NewWatch(&p.mu, pathstate.WatchConfig{
		Native: true, Rests: s.Rests, Pace: s.Pace,
		PMTU: pathstate.NewPMTU(pathstate.PMTUConfig{Overhead: overhead(s.RemoteAddr)}),
	})
	return p
}

// besides is how many bytes longer a datagram with one frame is than the IP
// packet in the frame.
const besides = encap.NativeOverhead + encap.NativePacketHeader + frame.HeaderLen

// overhead is how many bytes of underlay IP packet there are besides the inner IP
// packet.
func overhead(to netip.AddrPort) int {
	ip := 20
	if to.Addr().Unmap().Is6() {
		ip = 40
	}
	return ip + 8 + besides
}

// Send implements transport.Sender.
func (p *path) Send(pk frame.Packet) error {
	p.Busy()
	return p.tx.send(&pk)
}

// Flush implements transport.Sender. Errors of the socket are counted.
func (p *path) Flush() error {
	p.tx.flush()
	return nil
}

// Run implements transport.Path. It returns an error when the control connection
// is lost and the path does not work either.
func (p *path) Run(ctx context.Context, report func(transport.State)) error {
	p.index = p.t.paths.Add(p.session.Remote.Name, p)
	defer p.t.paths.Remove(p.index)
	r := transport.NewReporter(report, p.log)
	return p.Watch.Run(ctx, p.session.Done, func(now time.Time) (time.Time, error) {
		p.move(now)
		p.lookAtRoute(now)
		todo := p.step(now)
		p.carryOut(now, todo)
		r.Tell(now, todo.state)
		return todo.due, todo.err
	})
}

// orders is what a step found to be done.
type orders struct {
	hello []byte // nil: none
	probe bool   // with the sequence number
	seq   uint32
	home  netip.AddrPort // where the probe goes too; invalid: nowhere else
	tests []int          // sizes of inner IP packets
	state transport.State
	due   time.Time
	err   error
}

// step moves all that depends on time on to now.
func (p *path) step(now time.Time) orders {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beginLocked(now)
	if p.JudgeLocked(now, !p.readyAt.IsZero()) {
		p.PMTU.Suspect(now) // it may be another way now, and tests in progress are stale
	}
	o := orders{err: p.FailedLocked()}
	p.greetLocked(now, &o)
	p.probeLocked(now, &o)
	p.testLocked(now, &o)
	p.tendLocked(now)
	p.runs.expire(now)
	o.state = p.stateLocked(now, o.err)
	o.due = p.sleepLocked(now)
	p.tx.route(p.addr, p.socket, p.mtuLocked(), p.runs.without(now))
	return o
}

// beginLocked makes our hello, once.
func (p *path) beginLocked(now time.Time) {
	if p.hello != nil {
		return
	}
	p.hello = hello{index: p.index, port: p.t.mux.Port(), can: p.t.can}.append(nil)
	p.meetLocked(now)
}

// greetLocked orders our hello until it is sent.
func (p *path) greetLocked(now time.Time, o *orders) {
	if p.greeted || p.Lost || now.Before(p.greetAt) {
		return
	}
	p.greetAt = now.Add(helloEvery)
	o.hello = p.hello
}

// HandleControl implements transport.Path. Only the neighbour's first hello
// counts; unknown tags are ignored.
func (p *path) HandleControl(tag byte, msg []byte) {
	if tag != tagHello {
		return
	}
	p.mu.Lock()
	if p.theirs == nil && p.helloErr == nil {
		if _, p.helloErr = parseHello(msg); p.helloErr == nil {
			p.theirs = slices.Clone(msg)
			p.meetLocked(time.Now())
		}
	}
	p.mu.Unlock()
	p.Rouse()
}

// meetLocked derives the keys as soon as both hellos are there.
func (p *path) meetLocked(now time.Time) {
	if p.hello == nil || p.theirs == nil {
		return
	}
	theirs, err := parseHello(p.theirs)
	if err == nil {
		err = p.takeKeysLocked(theirs)
	}
	if err != nil {
		p.helloErr = err
		return
	}
	p.readyAt = now
	p.RenewLocked(now)
	p.keys.begin(now)
	if ip := p.session.RemoteAddr.Addr().Unmap(); ip.IsValid() && !ip.IsUnspecified() {
		p.home = netip.AddrPortFrom(ip, theirs.port)
		p.addr = p.home
		if p.sharesSocket() {
			p.addr = netip.AddrPortFrom(ip, p.session.RemoteAddr.Port())
		}
		p.socket = p.t.mux.Socket(p.addr)
		p.stale.Store(true)
	}
}

// sharesSocket reports whether the session rides on datagrams of the socket that ours
// leave from: then what its NATs did for it is good for us too, the port as well.
func (p *path) sharesSocket() bool {
	return p.session.ControlPort != 0 && p.session.LocalAddr.Port() == p.t.mux.Port()
}

// Hint makes addr one more address to look for the neighbour at while the path is not
// up, in place of the one hinted at before. Probes there are as authentic as others.
func (p *path) Hint(addr netip.AddrPort) {
	p.mu.Lock()
	p.home = addr
	if !p.addr.IsValid() {
		p.addr, p.socket = addr, p.t.mux.Socket(addr)
		p.stale.Store(true)
	}
	p.Prober.Eager(time.Now())
	p.mu.Unlock()
	p.Revive()
}

// takeKeysLocked makes the ciphers of both directions.
func (p *path) takeKeysLocked(theirs hello) error {
	dialler, acceptor := p.hello, p.theirs
	if !p.session.Dialled {
		dialler, acceptor = acceptor, dialler
	}
	out, in, err := pathSecrets(p.session.Secret, dialler, acceptor)
	if err != nil {
		return err
	}
	if !p.session.Dialled {
		out, in = in, out
	}
	can := p.t.can & theirs.can
	seal, err := encap.NewNativeSeal(out, can.suite(), theirs.index)
	if err != nil {
		return fmt.Errorf("make the sealing cipher: %w", err)
	}
	open, err := encap.NewNativeOpen(in, can.suite())
	if err != nil {
		return fmt.Errorf("make the opening cipher: %w", err)
	}
	p.log.Debug("native datagrams agreed", "cipher", can.suite())
	p.tx.ready(seal)
	p.rx.ready(open)
	return nil
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
	s.Addr, s.Encrypted, s.Authenticated, s.Rekeys = p.addr, true, p.session.Authenticated, p.keys.changes()
	if !p.readyAt.IsZero() {
		s.Handshakes = 1
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
	case !p.addr.IsValid():
		return "waiting for the neighbour's first datagram to learn its address"
	case p.socket == nil:
		return "no socket for the address family of " + p.addr.String()
	case p.Life.Why != "":
		return p.Life.Why
	case p.HeardAt().IsZero():
		return "no datagram from the neighbour yet"
	}
	return "the neighbour has not answered our datagrams"
}

// sleepLocked is when step has to be called next.
func (p *path) sleepLocked(now time.Time) time.Time {
	var greet, route time.Time
	if !p.greeted && !p.Lost {
		greet = p.greetAt
	}
	if p.socket != nil {
		route = p.routeAt
	}
	return p.SleepLocked(now, greet, route, p.probeDueLocked(now), p.TestsDueLocked(now))
}

// carryOut sends what a step ordered.
func (p *path) carryOut(now time.Time, o orders) {
	if o.hello != nil && p.session.SendControl(tagHello, o.hello) == nil {
		p.mu.Lock()
		p.greeted = true // otherwise again: Done tells if the connection is gone
		p.mu.Unlock()
	}
	if o.probe {
		p.sendProbe(now, o)
	}
	for _, size := range o.tests {
		p.sendTest(size)
	}
}

// lookAtRoute asks the kernel for the MTU of the route, now and then and when
// there is reason to.
func (p *path) lookAtRoute(now time.Time) {
	p.mu.Lock()
	to, socket := p.addr, p.socket
	wanted := socket != nil && (p.stale.Swap(false) || !now.Before(p.routeAt))
	p.mu.Unlock()
	if !wanted {
		return
	}
	mtu, err := socket.PathMTU(to)
	if err != nil {
		p.log.Debug("no MTU of the route", "addr", to, "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.routeAt = now.Add(routeEvery)
	if to != p.addr {
		p.stale.Store(true)
		return
	}
	if err != nil {
		mtu = cmp.Or(p.routeMTU, defaultRoute)
	}
	p.routeMTU = mtu
	p.PMTU.SetOverhead(now, overhead(to), mtu)
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

// hint looks at the route if it is that to the address, but not too often.
func (p *path) hint(now time.Time, to netip.AddrPort) {
	p.mu.Lock()
	ok := p.addr.Addr() == to.Addr() && !now.Before(p.hintAt)
	if ok {
		p.hintAt = now.Add(hintEvery)
		p.PMTU.Doubt(now)
	}
	p.mu.Unlock()
	if ok {
		p.stale.Store(true)
		p.Rouse()
	}
}

// follow makes from the neighbour's address, unless it moves too often, and
// reports whether it is now. An authentic datagram newer than all before came
// from there.
func (p *path) follow(now time.Time, from netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.addr
	if was == from {
		p.rx.sentFrom(from)
		return true
	}
	if p.moving.refuses(now, from) {
		return false
	}
	if was.IsValid() && !p.session.Counters.Rx.Within(now, p.moves) {
		return false
	}
	if !p.home.IsValid() {
		p.home = from
	}
	p.goLocked(now, from, p.t.mux.Socket(from), cmp.Or(p.routeMTU, defaultRoute))
	p.rx.sentFrom(from)
	return true
}

// goLocked sends to an address from now on, by a route of that MTU.
func (p *path) goLocked(now time.Time, to netip.AddrPort, socket mux.Socket, routeMTU int) {
	p.log.Debug("neighbour's address", "addr", to, "was", p.addr)
	p.addr, p.socket, p.routeMTU = to, socket, routeMTU
	p.stale.Store(true)
	p.PMTU.SetOverhead(now, overhead(to), routeMTU)
	p.PMTU.Suspect(now)
	p.tx.route(p.addr, p.socket, p.mtuLocked(), p.runs.without(now))
}
