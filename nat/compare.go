package nat

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// A pair that works is compared with others now and then, while frames use it: a better
// one may have come up since, after a host moved or got IPv6. A comparison is a round in
// which few addresses are checked, each several times: the one in use, those that have
// worked, those of a better kind, and those that are new. So others are left in peace, and
// so are gateways, which may take for themselves what comes unexpected.
//
// Who leads rounds decides, and begins to send to the other pair; the other end follows the
// datagrams (transport/punch). A pair wins by the round-trip time, by a margin, or, where
// that is about equal, by its kind; and three times in a row. What frames themselves do to
// round-trip times could make two pairs win in turn, so pairs rest after a move, each time
// for longer.

// Times and bounds of comparisons.
const (
	compareEvery   = 2 * time.Minute  // and up to half as long more
	compareRarely  = 8 * time.Minute  // where no other pair works: the pauses double up to that
	compareConfirm = 15 * time.Second // until the next one after a win
	compareSoon    = 3 * time.Second  // after a change of addresses; paths follow on their own first
	compareGap     = 30 * time.Second // at least, whoever asks
	compareSurvey  = 5 * time.Minute  // how old what servers said may be
	moveRest       = 10 * time.Minute // after a move; doubles
	moveRestMost   = 4 * time.Hour

	samples     = 5 // checks of each address
	samplesLeft = 3 // that have to be answered
	sampleEvery = 150 * time.Millisecond
	sampleLate  = 400 * time.Millisecond // for the last answers
	winsInRow   = 3                      // until frames move
	smoothOver  = 4                      // comparisons
	maxMissed   = 3                      // comparisons until a pair has not worked
	maxWays     = 4 * MaxCandidates      // that are remembered of a peer
)

// comparison is what is remembered from one comparison with a peer to the next.
// Guarded by Agent.mu.
type comparison struct {
	at     time.Time     // of the next one that we lead; zero: none is planned
	done   time.Time     // when the last one began
	wait   time.Duration // to the next one; 0: compareEvery
	askAt  time.Time     // when to ask the leader for one; zero: never
	ways   map[netip.AddrPort]*way
	leader netip.AddrPort // won the last one; not valid: none did
	wins   int            // of it, in a row
	moved  time.Time
	moves  int    // since addresses changed
	cancel func() // ends the one under way
}

// way is what is known of an address of the peer that was checked.
type way struct {
	works  bool          // or did of late
	srtt   time.Duration // smoothed over comparisons
	times  int           // comparisons that it is of
	missed int           // comparisons in a row in which it did not answer
}

// anew forgets what did not work: addresses have changed.
func (m *comparison) anew(at time.Time) {
	m.forget()
	m.wait, m.moves, m.moved, m.wins = 0, 0, time.Time{}, 0
	m.at = later(at, m.done.Add(compareGap))
}

// forget forgets addresses that did not work.
func (m *comparison) forget() {
	maps.DeleteFunc(m.ways, func(_ netip.AddrPort, w *way) bool { return !w.works })
}

// plan sets when the next one is. others: there are other pairs that work.
func (m *comparison) plan(now time.Time, others bool) {
	switch {
	case m.wins > 0:
		m.at = now.Add(compareConfirm)
		return
	case others:
		m.wait = compareEvery
	default:
		m.wait = min(max(2*m.wait, compareEvery), compareRarely)
	}
	m.at = now.Add(m.wait + rand.N(m.wait/2))
}

// note remembers which of the addresses that were checked worked.
func (m *comparison) note(pairs []pair) {
	if m.ways == nil {
		m.ways = map[netip.AddrPort]*way{}
	}
	if len(m.ways)+len(pairs) > maxWays {
		m.forget()
	}
	for _, p := range pairs {
		w := m.ways[p.Addr]
		if w == nil && len(m.ways) < maxWays {
			w = &way{}
			m.ways[p.Addr] = w
		}
		switch {
		case w == nil:
		case !p.works:
			if w.missed++; w.missed >= maxMissed {
				*w = way{}
			}
		case p.answers < samplesLeft: // a round needs but one: that tells little of the time
			w.works, w.missed = true, 0
		default:
			w.times++
			w.works, w.missed = true, 0
			w.srtt += (p.rtt - w.srtt) / time.Duration(min(w.times, smoothOver))
		}
	}
}

// won notes whether, and which, pair has won, and reports whether it did often enough.
func (m *comparison) won(by netip.AddrPort, ok bool) bool {
	if !ok || by != m.leader {
		m.wins = 0
	}
	if ok {
		m.leader = by
		m.wins++
	}
	if m.wins < winsInRow {
		return false
	}
	m.wins = 0
	return true
}

// rested reports whether frames may move again.
func (m *comparison) rested(now time.Time) bool {
	return m.moves == 0 || now.Sub(m.moved) >= min(moveRest<<min(m.moves-1, 10), moveRestMost)
}

// worth are the candidates to compare with the pair in use, and that itself. current is
// not valid where this end does not know of it.
func (m *comparison) worth(current netip.AddrPort, told []Candidate) []Candidate {
	var out []Candidate
	if i := slices.IndexFunc(told, func(c Candidate) bool { return c.Addr == current }); i >= 0 {
		out = append(out, told[i])
	} else if current.IsValid() {
		out = append(out, Candidate{Discovered, current})
	}
	for _, c := range told {
		w := m.ways[c.Addr]
		switch {
		case c.Addr == current:
		case w == nil, w.works, preferred(c.Addr.Addr(), current.Addr()):
			out = append(out, c)
		}
	}
	for addr, w := range m.ways { // that nobody tells of: peer-reflexive ones
		known := slices.ContainsFunc(out, func(c Candidate) bool { return c.Addr == addr })
		if w.works && !known && len(out) < MaxCandidates {
			out = append(out, Candidate{Discovered, addr})
		}
	}
	return out
}

// winner is the pair that is to be used instead of the one in use; false: none is. pairs
// are as they were checked just now, and noted.
func (m *comparison) winner(current netip.AddrPort, pairs []pair) (best pair, ok bool) {
	i := slices.IndexFunc(pairs, func(p pair) bool { return p.Addr == current && p.answers >= samplesLeft })
	if i < 0 {
		return best, false
	}
	now, best := pairs[i], pairs[i]
	for _, p := range pairs {
		if p.Addr == current || p.answers < samplesLeft || m.ways[p.Addr] == nil || m.ways[current] == nil {
			continue
		}
		spread := max(p.slowest-p.rtt, now.slowest-now.rtt)
		if p.beats(current, p.rtt, now.rtt, spread) && p.beats(current, m.ways[p.Addr].srtt, m.ways[current].srtt, spread) && (!ok || p.better(&best)) {
			best, ok = p, true
		}
	}
	return best, ok
}

// beats reports whether a pair is so much better than the one in use that frames move. It
// takes more to be faster than to be as fast and of a better kind, so that what wins by
// its kind does not lose by its time at once. spread is by how much round-trip times of
// one pair differ.
func (p *pair) beats(current netip.AddrPort, rtt, currentRTT, spread time.Duration) bool {
	margin := max(currentRTT/5, 2*time.Millisecond, spread/3)
	if currentRTT-rtt >= margin {
		return true
	}
	return rtt-currentRTT <= margin/2 && preferred(p.Addr.Addr(), current.Addr())
}

// preferred orders addresses of pairs that are about equally fast: private ones before
// public ones, and then IPv6 before IPv4.
func preferred(a, b netip.Addr) bool {
	if a.IsPrivate() != b.IsPrivate() {
		return a.IsPrivate()
	}
	return a.Is6() && b.Is4()
}

// compare leads one comparison, and moves frames to a better pair.
func (a *Agent) compare(ctx context.Context, p *peer) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.mu.Lock()
	p.compared.cancel = cancel // a round may be needed at once
	current, needs := p.Pair, p.needs()
	a.mu.Unlock()
	try := Try{At: time.Now(), Led: true}
	var pairs []pair
	var choose func(Candidate) error
	var err error
	if !needs && current.IsValid() { // else it was lost a moment ago
		pairs, choose, err = a.sampled(ctx, p, current, &try)
	}
	if err != nil {
		pairs = nil
		a.log.Debug("pairs not compared", "peer", p.Name, "err", err)
	}
	now := time.Now()
	a.mu.Lock()
	p.running = false
	m := &p.compared
	m.cancel = nil
	m.note(pairs)
	others := slices.ContainsFunc(pairs, func(x pair) bool { return x.works && x.Addr != current })
	best, move := m.winner(current, pairs)
	move = m.won(best.Addr, move && p.Pair == current && !p.gone && m.rested(now))
	if !m.at.After(try.At) { // else addresses have changed meanwhile
		m.plan(now, others)
	}
	a.rouse()
	a.mu.Unlock()
	if !move || choose(best.Candidate) != nil {
		return
	}
	try.Pair = best.Candidate
	a.mu.Lock()
	m.moves, m.moved, p.pair = m.moves+1, now, best.Addr
	p.keepLocked(try)
	a.mu.Unlock()
	a.log.Info("better pair", "peer", p.Name, "addr", best.Addr, "kind", best.Kind, "rtt", best.rtt)
	a.cfg.Move(p.Name, best.Addr)
}

// sampled exchanges offers with a peer and checks what is worth it. choose tells the peer
// of a choice.
func (a *Agent) sampled(ctx context.Context, p *peer, current netip.AddrPort, try *Try) (pairs []pair, choose func(Candidate) error, err error) {
	x, err := a.exchange(ctx, p, true, try)
	if err != nil {
		return nil, nil, err
	}
	a.mu.Lock()
	worth := p.compared.worth(current, x.told)
	a.mu.Unlock()
	if len(worth) < 2 {
		return nil, nil, nil
	}
	c := a.newCheck(x.round, x.key, true, worth)
	if err := a.register(c); err != nil {
		return nil, nil, err
	}
	defer a.unregister(c)
	if err := a.begin(ctx, p, x); err != nil {
		return nil, nil, err
	}
	c.sample(ctx)
	try.Remote = c.addresses()
	choose = func(best Candidate) error {
		_, err := c.choose(ctx, best)
		return err
	}
	return c.pairs(), choose, context.Cause(ctx)
}

// sample checks all addresses several times, in turn.
func (c *check) sample(ctx context.Context) {
	c.open(ctx, time.Now())
	var ids []transactionID
	defer func() { c.a.forget(ids...) }()
	for n := range samples + 1 {
		for _, p := range c.pairs() {
			if n == 0 && p.Kind != Host || p.answers >= samples || !p.works && p.sent >= len(checkAt) {
				continue
			}
			if id, err := c.send(p.Addr, false, 0); err == nil {
				ids = append(ids, id)
			}
			c.mu.Lock()
			c.findLocked(p.Addr).sent++
			c.mu.Unlock()
			if !sleep(ctx, pace) {
				return
			}
		}
		if !sleep(ctx, sampleEvery) {
			return
		}
	}
	sleep(ctx, sampleLate)
}

// sampled checks as sample does, and returns the pair that the leader has chosen; not
// valid: none.
func (c *check) sampled(ctx context.Context) Candidate {
	ctx, cancel := context.WithTimeout(ctx, roundTime+chooseFor*chooseWait)
	defer cancel()
	c.sample(ctx)
	for {
		if _, chosen := c.best(); chosen.Addr.IsValid() {
			return chosen
		}
		select {
		case <-ctx.Done():
			return Candidate{}
		case <-c.news:
		}
	}
}

// pairs are the pairs as they are now.
func (c *check) pairs() []pair {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]pair, 0, len(c.remote))
	for _, p := range c.remote {
		out = append(out, *p)
	}
	return out
}

// working are those that work. The others of a round may only have been slower.
func (c *check) working() []pair {
	return slices.DeleteFunc(c.pairs(), func(p pair) bool { return !p.works })
}

// sampleFor checks for a leader that compares pairs, when it says go.
func (a *Agent) sampleFor(ctx context.Context, p *peer, c *check, started <-chan struct{}, try Try) {
	defer a.unregister(c)
	timer := time.NewTimer(goWithin)
	defer timer.Stop()
	select {
	case <-started:
	case <-timer.C: // there is nothing to compare
		return
	case <-ctx.Done():
		return
	}
	try.Pair = c.sampled(ctx)
	try.Remote = c.addresses()
	a.mu.Lock()
	defer a.mu.Unlock()
	p.compared.note(c.pairs())
	if try.Pair.Addr.IsValid() {
		p.pair = try.Pair.Addr
		p.keepLocked(try)
	}
}
