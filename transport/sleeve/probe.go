package sleeve

import (
	"time"

	"meshd/transport"
)

// probeDueLocked is when the next probe is due; zero: none is.
func (p *path) probeDueLocked(now time.Time) time.Time {
	if !p.session.Native || !p.established || p.conn == nil {
		return time.Time{}
	}
	return p.prober.Due(now, &p.life)
}

// probeLocked orders a probe where one is due.
func (p *path) probeLocked(now time.Time, o *orders) {
	due := p.probeDueLocked(now)
	if due.IsZero() || now.Before(due) {
		return
	}
	// Both ends may have moved, and back, while neither heard the other. Then the
	// last known addresses are both wrong, and the first ones are a second chance.
	if !p.life.Up && p.home != p.addr {
		o.home = p.home
	}
	o.probe = &probe{uid: p.session.UID, sequence: p.prober.Send(now, &p.life), heard: p.heardAgo(now)}
}

// heardAgo is how long the neighbour has not been heard, as probes tell it.
func (p *path) heardAgo(now time.Time) uint32 {
	heard := p.heardAt()
	if heard.IsZero() {
		return neverHeard
	}
	return uint32(min(max(now.Sub(heard).Milliseconds(), 0), neverHeard-1))
}

// reply answers a probe, and takes what it says of our datagrams.
func (p *path) reply(now time.Time, q probe) {
	p.mu.Lock()
	look := p.life.Asked(now, q.sequence, &p.prober)
	if q.heard != neverHeard {
		p.life.Reach(now.Add(-time.Duration(q.heard) * time.Millisecond))
	}
	p.mu.Unlock()
	if look {
		p.rouse()
	}
	if !p.replies.AllowN(now, 1) {
		p.session.Counters.Rx.Drop(transport.DropRate, 1)
		return
	}
	r := probe{uid: p.session.UID, sequence: q.sequence}
	p.sendSpecial(r.append(nil, specialReply), true)
}

// replied takes the reply to a probe. A path that is down may be up by it, and one
// that rested can be relied on again.
func (p *path) replied(now time.Time, q probe) {
	p.mu.Lock()
	look := !p.life.Up || p.life.Unproven(now)
	if sent, ok := p.prober.Replied(now, q.sequence); ok {
		p.life.Replied(now, sent)
	}
	p.mu.Unlock()
	if look {
		p.rouse()
	}
}
