package nat

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"time"

	"meshd/internal/frame"
)

// A round, led by the peer with the lower name, over signalling:
//
//	leader ── offer: round, candidates ──► follower     request
//	leader ◄── offer: its candidates ───── follower     its reply
//	leader ── go ────────────────────────► follower     notice, twice
//
// The leader waits for half the round-trip time after go, so that both begin to check
// at the same time. A follower that lacks a way and hears nothing sends want.

// Times of one round.
const (
	offerTime = 4 * time.Second // for the peer's reply
	goWithin  = 1500 * time.Millisecond
	meetTime  = 5 * time.Second
	upTime    = 2 * time.Second // for a path at a pair that works
)

// Try is one round with a peer, as it ended.
type Try struct {
	At     time.Time   `json:"at"`
	Led    bool        `json:"led"`
	Local  []Candidate `json:"local,omitempty"`
	Remote []Candidate `json:"remote,omitempty"`
	Pair   Candidate   `json:"pair,omitzero"`
	Err    string      `json:"error,omitempty"`
	Theirs [2]Brief    `json:"their_nat"` // IPv4, IPv6
}

// lead leads one round, and makes what is needed at the pair that it finds.
func (a *Agent) lead(ctx context.Context, p *peer) {
	try := Try{At: time.Now(), Led: true}
	pair, err := a.once(ctx, p, &try)
	if err == nil {
		try.Pair = pair
		a.log.Info("direct way found", "peer", p.Name, "addr", pair.Addr, "kind", pair.Kind)
		err = a.use(ctx, p, pair.Addr)
	}
	if err != nil {
		try.Err = err.Error()
		a.log.Debug("no direct way", "peer", p.Name, "err", err)
	}
	a.ended(p, try, err)
}

// once exchanges offers with a peer and checks.
func (a *Agent) once(ctx context.Context, p *peer, try *Try) (Candidate, error) {
	x, err := a.exchange(ctx, p, false, try)
	if err != nil {
		return Candidate{}, err
	}
	c := a.newCheck(x.round, x.key, true, x.told)
	if err := a.register(c); err != nil {
		return Candidate{}, err
	}
	defer a.unregister(c)
	if err := a.begin(ctx, p, x); err != nil {
		return Candidate{}, err
	}
	defer func() {
		try.Remote = c.addresses()
		a.mu.Lock()
		p.compared.note(c.working())
		a.mu.Unlock()
	}()
	return c.run(ctx)
}

// exchanged is what both ends know after the offers.
type exchanged struct {
	round string
	key   []byte
	told  []Candidate // of the peer
	rtt   time.Duration
}

// exchange exchanges offers with a peer.
func (a *Agent) exchange(ctx context.Context, p *peer, compare bool, try *Try) (x exchanged, err error) {
	known, ok := a.cfg.Find(p.Name)
	if !ok {
		return x, errors.New("the peer is not known any more")
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	x.round = hex.EncodeToString(id[:])
	x.key = roundKey(known.Secret, x.round)
	ours := a.offer(ctx, x.round, compare)
	try.Local = ours.Candidates
	b, err := json.Marshal(ours)
	if err != nil {
		return x, err
	}
	asking, cancel := context.WithTimeout(ctx, offerTime)
	reply, rtt, err := a.cfg.Request(asking, p.Name, b)
	cancel()
	if err != nil {
		return x, err
	}
	theirs, err := parseSignal(reply)
	if err != nil {
		return x, err
	}
	try.Theirs = [2]Brief{theirs.NAT4, theirs.NAT6}
	if took := time.Duration(theirs.Took) * time.Microsecond; took > 0 && took < rtt { // not the reply to an offer sent again
		rtt -= took
	}
	x.told, x.rtt = a.remote(theirs), rtt
	return x, nil
}

// begin says go, and returns when the peer has it.
func (a *Agent) begin(ctx context.Context, p *peer, x exchanged) error {
	b, err := json.Marshal(signal{Verb: verbGo, Round: x.round})
	if err != nil {
		return err
	}
	for range 2 {
		if err := a.cfg.Notify(p.Name, b); err != nil {
			return err
		}
	}
	if !sleep(ctx, x.rtt/2) {
		return context.Cause(ctx)
	}
	return nil
}

// use makes at a pair what is missing: a session, over which paths come, or a path.
func (a *Agent) use(ctx context.Context, p *peer, at netip.AddrPort) error {
	a.cfg.Found(p.Name, at)
	for end := time.Now().Add(upTime); ; {
		a.mu.Lock()
		session, direct, gone := p.Session, p.Direct, p.gone
		a.mu.Unlock()
		switch {
		case gone:
			return errors.New("the peer left the mesh")
		case !session:
			meet, cancel := context.WithTimeout(ctx, meetTime)
			defer cancel()
			return a.cfg.Meet(meet, p.Name, at)
		case direct:
			return nil
		case time.Now().After(end):
			return errors.New("checks came through, but no path")
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Answer answers a leader's offer by reply, and then checks, when the leader says go. It
// returns when that is over.
func (a *Agent) Answer(ctx context.Context, from frame.PeerName, payload []byte, reply func([]byte)) {
	theirs, err := parseSignal(payload)
	if err == nil && theirs.Verb == verbProbe {
		a.probe(from, theirs, reply)
		return
	}
	known, ok := a.cfg.Find(from)
	if err != nil || !ok || theirs.Verb != verbOffer || from >= a.cfg.Self {
		a.refused.Add(1)
		return
	}
	came, started := time.Now(), make(chan struct{})
	a.mu.Lock()
	p := a.peers[from]
	if p != nil {
		p.heardAt, p.started, p.round = time.Now(), started, theirs.Round
	}
	a.mu.Unlock()
	if p == nil {
		a.refused.Add(1)
		return
	}
	ours := a.offer(ctx, theirs.Round, theirs.Compare)
	ours.Took = time.Since(came).Microseconds()
	b, err := json.Marshal(ours)
	if err != nil {
		return
	}
	told := a.remote(theirs)
	if theirs.Compare {
		a.mu.Lock()
		told = p.compared.worth(p.Pair, told)
		a.mu.Unlock()
	}
	c := a.newCheck(theirs.Round, roundKey(known.Secret, theirs.Round), false, told)
	if err := a.register(c); err != nil {
		return
	}
	reply(b)
	try := Try{At: time.Now(), Local: ours.Candidates, Theirs: [2]Brief{theirs.NAT4, theirs.NAT6}}
	if theirs.Compare {
		a.sampleFor(ctx, p, c, started, try)
		return
	}
	a.follow(ctx, p, c, started, try)
}

// follow checks when the leader says so, and at the latest after a while.
func (a *Agent) follow(ctx context.Context, p *peer, c *check, started <-chan struct{}, try Try) {
	defer a.unregister(c)
	timer := time.NewTimer(goWithin)
	defer timer.Stop()
	select {
	case <-started:
	case <-timer.C:
	case <-ctx.Done():
		return
	}
	pair, err := c.run(ctx)
	try.Remote, try.Pair = c.addresses(), pair
	if err != nil {
		try.Err = err.Error()
	} else {
		a.log.Info("direct way found", "peer", p.Name, "addr", pair.Addr, "kind", pair.Kind)
		a.cfg.Found(p.Name, pair.Addr)
	}
	a.mu.Lock()
	p.compared.note(c.working())
	a.mu.Unlock()
	a.ended(p, try, err)
}

func (a *Agent) register(c *check) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.checks) >= maxChecks {
		return errors.New("too many rounds are under way")
	}
	a.checks[c.user] = c
	return nil
}

func (a *Agent) unregister(c *check) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.checks, c.user)
}
