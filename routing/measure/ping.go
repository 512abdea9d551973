package measure

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/transport"
)

// ErrTooManyPings says that as many pings run here as may.
var ErrTooManyPings = errors.New("too many pings are running here: end one of them")

// Bounds and times of pings.
const (
	maxRunningPings = 16
	// MinInterval is the least time between two tries.
	MinInterval = 200 * time.Millisecond

	pingReplies = 64               // that wait to be taken
	renewBefore = 15 * time.Second // a session is over
	// holdBack is how long an echo waits for the session to be confirmed after an
	// answer was missed: the peer may have forgotten it.
	holdBack = 250 * time.Millisecond
)

// PingOptions says how to ping.
type PingOptions struct {
	Count    int           // tries; 0: until ctx is done
	Interval time.Duration // between two tries; MinInterval or more
	Timeout  time.Duration // that an answer may take
	// Size is how large the IP packets would be whose place the echoes take, in
	// bytes: frames have 14 bytes more, and MinFrame bytes at least.
	Size int
}

// Outcome is what came of a try.
type Outcome string

// The outcomes.
const (
	Answered Outcome = "answered"
	Lost     Outcome = "lost"     // an echo was sent, and no answer came in time
	NoRoute  Outcome = "no route" // nothing was sent: no connection leads to the peer
	TooBig   Outcome = "too big"  // nothing was sent: the first path carries no such frames
	Silent   Outcome = "silent"   // nothing was sent: the peer has not agreed to answer
	Refused  Outcome = "refused"  // the peer is pinged by too many
)

// Try is one try to have an echo answered.
type Try struct {
	Sequence int // from 1
	Outcome  Outcome
	RTT      time.Duration // of an answer
	Out      Hop           // that the echo took first; of an echo that was sent
	Back     Hop           // that the answer took first; Via is 0 where the peer does not tell
	MTU      int           // of the path that an echo was too big for
}

// try is a Try under way.
type try struct {
	Try
	due  time.Time
	sent time.Time // zero: not yet
	hold time.Time // when it is sent without an accept; zero: never
}

// ping is one series of pings. The goroutine of Meter.Ping owns it, but for what is
// made for others to call.
type ping struct {
	cfg     Config
	peer    frame.PeerName
	opt     PingOptions
	report  func(Try)
	session uint64
	replies chan reply // capacity pingReplies, sent by answered; full: lost
	decided chan offer // capacity 1, sent by told; full: one is there

	probe    frame.Packet
	begun    int       // tries so far
	next     time.Time // when the next one is due
	waiting  []*try    // by sequence
	open     bool      // the peer answers in our session, as far as we know
	prolongs bool      // it prolongs a session that is offered again; old peers do not
	until    time.Time // when the session is over
	offered  time.Time // when we last offered it
	doubt    bool      // an answer was missed, and none came since
	refused  bool      // by the last decision
}

// reply is an echo reply as it came.
type reply struct {
	message
	at time.Time
}

// Ping sends echoes to a peer and reports what comes of each: answers as they come,
// which need not be in order. It returns nil when all tries are over, ErrTooManyPings,
// or ctx's error; then tries that wait are not reported. report is called by this
// goroutine, which it holds up.
func (m *Meter) Ping(ctx context.Context, peer frame.PeerName, o PingOptions, report func(Try)) error {
	o.Interval = max(o.Interval, MinInterval)
	p := &ping{
		cfg: m.cfg, peer: peer, opt: o, report: report, session: rand.Uint64(),
		replies: make(chan reply, pingReplies), decided: make(chan offer, 1),
		probe: newPacket(m.cfg.Self, peer, o.Size+frame.HeaderLen),
	}
	if !m.addPing(p) {
		return ErrTooManyPings
	}
	defer m.removePing(p)
	return p.run(ctx)
}

func (m *Meter) addPing(p *ping) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.pings) >= maxRunningPings {
		return false
	}
	m.pings[p.session] = p
	return true
}

func (m *Meter) removePing(p *ping) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pings, p.session)
}

// pingOf finds the ping of peer in that session, nil if there is none.
func (m *Meter) pingOf(peer frame.PeerName, session uint64) *ping {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pings[session]; p != nil && p.peer == peer {
		return p
	}
	return nil
}

// answered takes an echo reply. Called by Meter.Take, concurrently.
func (p *ping) answered(m message, now time.Time) {
	select {
	case p.replies <- reply{m, now}:
	default:
	}
}

// told takes the peer's decision. Called by Meter.Told, concurrently.
func (p *ping) told(o offer) {
	select {
	case p.decided <- o:
	default:
	}
}

func (p *ping) run(ctx context.Context) error {
	defer func() { _ = p.tell(verbClose) }() // else it ends by time
	timer := time.NewTimer(0)
	defer timer.Stop()
	p.next = time.Now()
	for {
		now := time.Now()
		p.expire(now)
		if p.more() && !now.Before(p.next) {
			p.begin(now)
		}
		p.sendHeld(now)
		if !p.more() && len(p.waiting) == 0 {
			return nil
		}
		timer.Reset(time.Until(p.wake()))
		select {
		case <-timer.C:
		case r := <-p.replies:
			p.replied(r)
		case o := <-p.decided:
			p.decide(o)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// more reports whether there are tries to come.
func (p *ping) more() bool { return p.opt.Count <= 0 || p.begun < p.opt.Count }

// begin begins the next try. What was missed while this process did not run is not
// made up for.
func (p *ping) begin(now time.Time) {
	if p.next = p.next.Add(p.opt.Interval); p.next.Before(now) {
		p.next = now.Add(p.opt.Interval)
	}
	p.begun++
	t := &try{Try: Try{Sequence: p.begun}, due: now}
	if hop, _ := p.cfg.Way(p.peer); hop.Via == 0 {
		p.settle(t, NoRoute)
		return
	}
	p.waiting = append(p.waiting, t)
	if p.open && now.After(p.until) {
		p.open = false
		p.forget()
	}
	switch {
	case !p.open:
		p.offer(now)
	case p.doubt:
		t.hold = now.Add(min(holdBack, p.opt.Timeout/2))
		p.offer(now)
	default:
		p.send(t)
	}
}

// send sends the echo of a try.
func (p *ping) send(t *try) {
	m := message{kind: kindEcho, session: p.session, sequence: uint32(t.Sequence)}
	m.put(p.probe.Frame.Data)
	hop, send := p.cfg.Way(p.peer)
	t.Out, t.sent = hop, time.Now()
	_, err := send([]frame.Packet{p.probe})
	if tooBig, is := errors.AsType[*transport.TooBigError](err); is {
		t.MTU = tooBig.MTU
		p.settle(t, TooBig)
	} else if errors.Is(err, routing.ErrNoRoute) || errors.Is(err, transport.ErrNoPath) {
		p.settle(t, NoRoute)
	} // what else is not taken is lost
}

// sendHeld sends the echoes that have waited for an accept long enough, and repeats
// an offer that was not decided on.
func (p *ping) sendHeld(now time.Time) {
	unsent := false
	for _, t := range p.unsent() {
		if !t.hold.IsZero() && !now.Before(t.hold) {
			p.send(t)
		} else {
			unsent = true
		}
	}
	if unsent && !now.Before(p.offered.Add(offerAgain)) {
		p.offer(now)
	}
}

// unsent are the tries that wait for an accept.
func (p *ping) unsent() (out []*try) {
	for _, t := range p.waiting {
		if t.sent.IsZero() {
			out = append(out, t)
		}
	}
	return out
}

// offer offers the session, which also confirms one that is there.
func (p *ping) offer(now time.Time) {
	p.offered = now
	_ = p.tell(verbOffer) // it is repeated
}

func (p *ping) tell(v verb) error {
	o := offer{verb: v, session: p.session}
	if v == verbOffer {
		o.argument, o.purpose = uint32(MaxTime.Milliseconds()), toPing
	}
	return p.cfg.Tell(p.peer, o.append(nil))
}

// decide takes the peer's decision on an offer.
func (p *ping) decide(o offer) {
	if p.refused = o.verb == verbRefuse; p.refused {
		return
	}
	p.open, p.prolongs, p.until = true, o.purpose == toPing, p.offered.Add(MaxTime)
	for _, t := range p.unsent() {
		p.send(t)
	}
}

// replied takes an answer. One that was not asked for, comes twice or too late does
// not count.
func (p *ping) replied(r reply) {
	for _, t := range p.waiting {
		if uint32(t.Sequence) != r.sequence || t.sent.IsZero() {
			continue
		}
		t.RTT, t.Back = max(r.at.Sub(t.sent), 1), r.hop
		p.settle(t, Answered)
		p.doubt, p.refused = false, false
		p.renew(r.at)
		return
	}
}

// renew prolongs the session in time.
func (p *ping) renew(now time.Time) {
	switch {
	case p.until.Sub(now) > renewBefore, now.Sub(p.offered) < offerAgain:
		return
	case !p.prolongs && len(p.waiting) > 0:
		return // whose answers would be lost
	}
	p.forget()
	p.offer(now)
}

// forget makes a peer that does not prolong sessions forget ours, to offer it anew.
func (p *ping) forget() {
	if !p.prolongs {
		_ = p.tell(verbClose)
	}
}

// expire gives up the tries whose time is over.
func (p *ping) expire(now time.Time) {
	for len(p.waiting) > 0 {
		t := p.waiting[0]
		if now.Before(p.end(t)) {
			return
		}
		switch {
		case p.refused:
			p.settle(t, Refused)
		case t.sent.IsZero():
			p.settle(t, Silent)
		default:
			p.doubt = true
			p.settle(t, Lost)
		}
	}
}

// end is when a try is given up.
func (p *ping) end(t *try) time.Time {
	if t.sent.IsZero() {
		return t.due.Add(p.opt.Timeout)
	}
	return t.sent.Add(p.opt.Timeout)
}

// settle reports what came of a try and forgets it.
func (p *ping) settle(t *try, o Outcome) {
	for i, w := range p.waiting {
		if w == t {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			break
		}
	}
	t.Outcome = o
	p.report(t.Try)
}

// wake is when there is something to do next.
func (p *ping) wake() time.Time {
	at := time.Now().Add(time.Hour)
	if p.more() {
		at = p.next
	}
	for _, t := range p.waiting {
		at = earlier(at, p.end(t))
		if t.sent.IsZero() {
			at = earlier(at, p.offered.Add(offerAgain))
			if !t.hold.IsZero() {
				at = earlier(at, t.hold)
			}
		}
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
