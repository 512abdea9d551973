package nat

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v3"
)

// Times of the checks of one round.
const (
	roundTime  = 2500 * time.Millisecond
	openTime   = 150 * time.Millisecond // from the openers to the checks of outside addresses
	pace       = 5 * time.Millisecond   // between two datagrams
	settleTime = 60 * time.Millisecond  // for a better pair than the first one
	chooseFor  = 4                      // times that the choice is told
	chooseWait = 150 * time.Millisecond
	// openerHops takes an opener through the gateway next to us and no further. It
	// opens our gateway for the peer without reaching the peer's: some gateways take
	// what comes early for themselves, and give the inside host another port then.
	openerHops = 2
)

// checkAt is when each address is checked, from the start.
var checkAt = []time.Duration{0, 60 * time.Millisecond, 250 * time.Millisecond, 800 * time.Millisecond}

// ErrNoPair is what a round without a pair ends with.
var ErrNoPair = errors.New("no check came through")

// check is one round between our data sockets and a peer's candidates. Readers call
// heard and answered, one goroutine runs.
type check struct {
	a    *Agent
	user string
	key  []byte
	lead bool
	news chan struct{} // capacity 1

	mu     sync.Mutex // guards below
	remote []*pair
	chosen netip.AddrPort // by the leader, told to us
}

// pair is our data socket and one address of the peer.
type pair struct {
	Candidate
	rtt     time.Duration // of the fastest check that was answered
	slowest time.Duration // of them all
	works   bool
	answers int
	sent    int
	nextAt  time.Time
}

func (a *Agent) newCheck(user string, key []byte, lead bool, remote []Candidate) *check {
	c := &check{a: a, user: user, key: key, lead: lead, news: make(chan struct{}, 1)}
	for _, r := range remote {
		c.remote = append(c.remote, &pair{Candidate: r})
	}
	return c
}

// heard notes that the peer's check came from an address, and whether it chose that.
func (c *check) heard(from netip.AddrPort, chose bool) {
	c.mu.Lock()
	p := c.findLocked(from)
	switch {
	case p == nil && len(c.remote) < 2*MaxCandidates:
		c.remote = append(c.remote, &pair{Candidate: Candidate{Discovered, from}})
	case p != nil && !p.works:
		p.nextAt, p.sent = time.Time{}, min(p.sent, len(checkAt)-2) // its side is open for us now
	}
	if chose && !c.lead {
		c.chosen = from
	}
	c.mu.Unlock()
	c.a.budget.answered(from)
	c.tell()
}

func (c *check) findLocked(at netip.AddrPort) *pair {
	for _, p := range c.remote {
		if p.Addr == at {
			return p
		}
	}
	return nil
}

// answered notes that our check of an address came back.
func (c *check) answered(at netip.AddrPort, rtt time.Duration) {
	c.a.budget.answered(at)
	c.mu.Lock()
	if p := c.findLocked(at); p != nil {
		if p.answers++; !p.works || rtt < p.rtt {
			p.works, p.rtt = true, rtt
		}
		p.slowest = max(p.slowest, rtt)
	}
	c.mu.Unlock()
	c.tell()
}

func (c *check) tell() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// run checks until a pair is chosen by both ends, and returns it.
func (c *check) run(ctx context.Context) (Candidate, error) {
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	var ids []transactionID
	defer func() { c.a.forget(ids...) }()
	start := time.Now()
	c.open(ctx, start)
	var firstAt time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		best, chosen := c.best()
		switch {
		case chosen.Addr.IsValid():
			return chosen, nil
		case best.Addr.IsValid() && firstAt.IsZero():
			firstAt = now
		}
		if c.lead && !firstAt.IsZero() && now.Sub(firstAt) >= settleTime {
			return c.choose(ctx, best)
		}
		sent, next := c.sendDue(now)
		ids = append(ids, sent...)
		if c.lead && !firstAt.IsZero() {
			next = earliest(next, firstAt.Add(settleTime))
		}
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return Candidate{}, ErrNoPair
		case <-c.news:
		case <-timer.C:
		}
	}
}

// open sends the openers, and says when each address is checked first.
func (c *check) open(ctx context.Context, start time.Time) {
	c.mu.Lock()
	var outside []netip.AddrPort
	for _, p := range c.remote {
		p.nextAt = start
		if p.Kind != Host {
			p.nextAt = start.Add(openTime)
			outside = append(outside, p.Addr)
		}
	}
	c.mu.Unlock()
	for _, to := range outside {
		if ctx.Err() == nil {
			_, _ = c.send(to, false, openerHops)
		}
	}
}

// best is the pair that works best, and the one that the leader chose, if it works.
func (c *check) best() (best, chosen Candidate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var at *pair
	for _, p := range c.remote {
		if p.works && (at == nil || p.better(at)) {
			at = p
		}
		if p.works && p.Addr == c.chosen {
			chosen = p.Candidate
		}
	}
	if at != nil {
		best = at.Candidate
	}
	return best, chosen
}

// better reports whether a pair is to be preferred: the faster one, unless they are
// about equal; then private before public, and IPv6 before IPv4.
func (p *pair) better(than *pair) bool {
	if d := p.rtt - than.rtt; max(d, -d) > max(than.rtt/10, 2*time.Millisecond) {
		return d < 0
	}
	return preferred(p.Addr.Addr(), than.Addr.Addr())
}

// sendDue sends the checks that are due, paced, and returns when the next one is.
func (c *check) sendDue(now time.Time) (ids []transactionID, next time.Time) {
	next = now.Add(roundTime)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.remote {
		switch {
		case p.works || p.sent >= len(checkAt):
		case p.nextAt.After(now):
			next = earliest(next, p.nextAt)
		case len(ids) > 0: // one at a time
			next = earliest(next, now.Add(pace))
		default:
			p.sent++
			if p.sent < len(checkAt) {
				p.nextAt = now.Add(checkAt[p.sent] - checkAt[p.sent-1])
				next = earliest(next, p.nextAt)
			}
			if id, err := c.send(p.Addr, false, 0); err == nil {
				ids = append(ids, id)
			}
			next = earliest(next, now.Add(pace))
		}
	}
	return ids, next
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// send sends one check.
func (c *check) send(to netip.AddrPort, choose bool, hops int) (id transactionID, err error) {
	if hops == 0 && !c.a.budget.allow(time.Now(), to) { // an opener does not arrive
		c.a.unspent.Add(1)
		return id, errors.New("the budget of an address that does not answer is spent")
	}
	id = newTransactionID()
	b, err := checkRequest(id, c.user, c.key, choose)
	if err != nil {
		return id, err
	}
	sent := time.Now()
	if !c.a.expect(id, pending{to: to, take: func(m *stun.Message, _ netip.AddrPort) {
		if stun.MessageIntegrity(c.key).Check(m) != nil {
			c.a.forged.Add(1)
			return
		}
		c.answered(to, time.Since(sent))
	}}) {
		return id, errors.New("too many requests")
	}
	if err := c.a.cfg.Send(to, b, hops); err != nil {
		c.a.forget(id)
		return id, err
	}
	return id, nil
}

// choose tells the peer which pair it is.
func (c *check) choose(ctx context.Context, best Candidate) (Candidate, error) {
	done := make(chan struct{}, chooseFor)
	var ids []transactionID
	defer func() { c.a.forget(ids...) }()
	for range chooseFor {
		id := newTransactionID()
		b, err := checkRequest(id, c.user, c.key, true)
		if err != nil {
			return Candidate{}, err
		}
		if !c.a.expect(id, pending{to: best.Addr, take: func(m *stun.Message, _ netip.AddrPort) {
			if stun.MessageIntegrity(c.key).Check(m) == nil {
				done <- struct{}{}
			}
		}}) {
			break
		}
		ids = append(ids, id)
		if err := c.a.cfg.Send(best.Addr, b, 0); err != nil {
			return Candidate{}, err
		}
		timer := time.NewTimer(chooseWait)
		select {
		case <-done:
			timer.Stop()
			return best, nil
		case <-ctx.Done():
			timer.Stop()
			return Candidate{}, ErrNoPair
		case <-timer.C:
		}
	}
	return Candidate{}, ErrNoPair
}

// addresses are the candidates that were checked, those found on the way too.
func (c *check) addresses() []Candidate {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Candidate, 0, len(c.remote))
	for _, p := range c.remote {
		out = append(out, p.Candidate)
	}
	return slices.Clip(out)
}
