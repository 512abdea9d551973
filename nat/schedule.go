package nat

import (
	"context"
	"encoding/json"
	"net/netip"
	"sync"
	"time"

	"meshd/internal/frame"
)

// Times between rounds with one peer.
const (
	grace        = 600 * time.Millisecond // for the ordinary ways to a peer that is new
	rounds       = 3                      // before the back-off
	betweenRound = 500 * time.Millisecond // from the first to the second, for what was lost
	// forgetTime is until the third: longer than most gateways remember a datagram
	// that nobody inside has answered (Linux: 30 s). One that came too early has the
	// port until then.
	forgetTime   = 40 * time.Second
	backoffFirst = time.Minute // doubles
	backoffMost  = 10 * time.Minute
	wantAfter    = 1500 * time.Millisecond // a follower without an offer asks for one
	wantEvery    = 10 * time.Second
)

const (
	maxRunning = 16 // rounds that we lead
	keptTries  = 8
)

// peer is what the agent knows of one peer. Guarded by Agent.mu.
type peer struct {
	Peer
	lacking time.Time // since when there is no direct way; zero: there is one
	failed  int       // rounds in a row
	nextAt  time.Time // of the next round that we lead
	running bool
	ledAt   time.Time      // of the last round that we led
	heardAt time.Time      // of the last offer of the leader
	wantAt  time.Time      // when we may ask for one
	wanted  int            // how often we did
	tries   []Try          // the last ones, newest last
	pair    netip.AddrPort // that worked last
	started chan struct{}  // closed by go; nil: no round waits for it
	round   string         // that it is for
	gone    bool           // it left

	compared comparison
}

// needs reports whether a direct way is to be found.
func (p *peer) needs() bool { return !p.Session || !p.Direct }

// Look tells who is in the mesh now, ourselves left out. It does not block.
func (a *Agent) Look(now time.Time, all []Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[frame.PeerName]bool{}
	for _, view := range all {
		seen[view.Name] = true
		p := a.peers[view.Name]
		if p != nil && p.UID != view.UID && view.UID != 0 && p.UID != 0 {
			p.gone, p = true, nil
		}
		if p == nil {
			p = &peer{lacking: now, nextAt: now.Add(grace), wantAt: now.Add(wantAfter)}
			a.peers[view.Name] = p
		}
		was := p.Peer
		p.Peer = view
		switch {
		case !p.needs():
			p.lacking, p.failed, p.wanted = time.Time{}, 0, 0
			if p.compared.at.IsZero() {
				p.compared.plan(now, true)
			}
		case p.lacking.IsZero(): // lost: at once
			p.lacking, p.nextAt, p.wantAt = now, now, now.Add(wantAfter)
			p.compared.at = time.Time{}
			if p.compared.cancel != nil {
				p.compared.cancel()
			}
		case was.Direct && !p.Direct:
			p.nextAt = now
		case !was.Session && p.Session: // its paths come up by themselves, or not
			p.nextAt = later(p.nextAt, now.Add(grace))
		}
	}
	for name, p := range a.peers {
		if !seen[name] {
			p.gone = true
			delete(a.peers, name)
		}
	}
	a.rouse()
}

// Kick begins anew with all peers: addresses, routes or NATs have changed.
func (a *Agent) Kick() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.kicks++
	a.behaviour[0].At, a.behaviour[1].At = time.Time{}, time.Time{}
	a.filter[0].anew, a.filter[1].anew = true, true
	for _, p := range a.peers {
		p.failed, p.wanted, p.nextAt, p.wantAt = 0, 0, now, now
		p.compared.anew(now.Add(compareSoon))
		p.compared.askAt = p.compared.at
	}
	a.rouse()
}

// Announced is told that a peer has announced itself: rounds with it can begin.
func (a *Agent) Announced() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rouse()
}

func (a *Agent) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run leads rounds, and asks for them, until ctx is done. Then it returns nil, after
// all that it began.
func (a *Agent) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-timer.C:
		}
		now := time.Now()
		lead, compare, want, next := a.due(now)
		for _, p := range lead {
			wg.Go(func() { a.lead(ctx, p) })
		}
		for _, p := range compare {
			wg.Go(func() { a.compare(ctx, p) })
		}
		for _, name := range want {
			wg.Go(func() { a.want(name) })
		}
		families, filter := a.filterDue(now)
		for _, i := range families {
			wg.Go(func() { a.filterOf(ctx, i) })
		}
		timer.Reset(time.Until(earliest(next, filter)))
	}
}

// due are the peers with which a round or a comparison is to begin now, marked as running,
// those to be asked for one, and when to come back. Rounds, which look for a way, come
// before comparisons, which may have half of the room.
func (a *Agent) due(now time.Time) (lead, compare []*peer, want []frame.PeerName, next time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next = now.Add(time.Minute)
	running := 0
	var idle, fine []frame.PeerName
	for name, p := range a.peers {
		if p.running {
			running++
			continue
		}
		if _, known := a.cfg.Find(name); !known {
			continue
		}
		switch {
		case p.needs():
			idle = append(idle, name)
		case p.Pair.IsValid() && a.cfg.Move != nil:
			fine = append(fine, name)
		}
	}
	for _, name := range idle {
		p := a.peers[name]
		leads := a.cfg.Self < name
		switch at := p.roundAt(leads); {
		case at.After(now):
			next = earliest(next, at)
		case !leads:
			if p.ask(now) {
				want = append(want, name)
			}
			next = earliest(next, p.wantAt)
		case running < maxRunning: // else when another one has ended
			running++
			p.running, p.ledAt = true, now
			lead = append(lead, p)
		}
	}
	for _, name := range fine {
		m := &a.peers[name].compared
		leads := a.cfg.Self < name
		switch at := m.dueAt(leads); {
		case at.IsZero() && !leads:
		case at.After(now):
			next = earliest(next, at)
		case !leads:
			m.askAt = time.Time{}
			want = append(want, name)
		case running < maxRunning/2:
			running++
			a.peers[name].running, m.done = true, now
			compare = append(compare, a.peers[name])
		}
	}
	return lead, compare, want, next
}

// roundAt is when a round is to begin, which this end leads or asks for.
func (p *peer) roundAt(leads bool) time.Time {
	if leads {
		return p.nextAt
	}
	return p.wantAt
}

// ask reports whether the leader is to be asked for a round now, and plans the next time.
func (p *peer) ask(now time.Time) bool {
	p.wanted++
	p.wantAt = now.Add(max(wantEvery, pauseAfter(p.wanted)))
	return now.Sub(p.heardAt) >= wantAfter
}

// dueAt is when a comparison is to begin, or the leader to be asked for one; zero: never.
func (m *comparison) dueAt(leads bool) time.Time {
	if leads {
		return m.at
	}
	return m.askAt
}

// want asks a leader for a round.
func (a *Agent) want(name frame.PeerName) {
	b, _ := json.Marshal(signal{Verb: verbWant})
	if err := a.cfg.Notify(name, b); err != nil {
		a.log.Debug("ask for a round", "peer", name, "err", err)
	}
}

// ended notes how a round ended, and when the next one is.
func (a *Agent) ended(p *peer, try Try, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.keepLocked(try)
	if try.Pair.Addr.IsValid() {
		p.pair = try.Pair.Addr
	}
	if !try.Led {
		return
	}
	p.running = false
	now := time.Now()
	if p.nextAt.After(try.At) { // kicked meanwhile
		a.rouse()
		return
	}
	if p.failed++; err == nil {
		p.failed = 0
	}
	p.nextAt = now.Add(pauseAfter(p.failed))
	a.rouse()
}

// keepLocked keeps a round among the last ones.
func (p *peer) keepLocked(try Try) {
	p.tries = append(p.tries, try)
	p.tries = p.tries[max(0, len(p.tries)-keptTries):]
}

// pauseAfter is the time to the next round after that many in a row that failed.
func pauseAfter(failed int) time.Duration {
	switch {
	case failed < 2:
		return betweenRound
	case failed < rounds:
		return forgetTime
	}
	return min(backoffFirst<<min(failed-rounds, 10), backoffMost)
}

// Notice takes a message that wants no answer. It does not block.
func (a *Agent) Notice(from frame.PeerName, payload []byte) {
	s, err := parseSignal(payload)
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.peers[from]
	switch {
	case err != nil || p == nil:
		a.refused.Add(1)
	case s.Verb == verbGo && p.started != nil && p.round == s.Round:
		close(p.started)
		p.started = nil
	case s.Verb == verbWant && a.cfg.Self < from && !p.needs():
		p.compared.at = later(time.Now(), p.compared.done.Add(compareGap))
		a.rouse()
	case s.Verb == verbWant && a.cfg.Self < from && !p.running:
		p.nextAt = earliest(p.nextAt, later(time.Now(), p.ledAt.Add(pauseAfter(min(p.failed, 2)))))
		a.rouse()
	}
}
