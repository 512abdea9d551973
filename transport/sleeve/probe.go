package sleeve

import (
	"time"
)

// probeDueLocked is when the next probe is due; zero: none is.
func (p *path) probeDueLocked(now time.Time) time.Time {
	if !p.session.Native || !p.established || p.conn == nil {
		return time.Time{}
	}
	return p.Prober.Due(now, &p.Life)
}

// probeLocked orders a probe where one is due.
func (p *path) probeLocked(now time.Time, o *orders) {
	due := p.probeDueLocked(now)
	if due.IsZero() || now.Before(due) {
		return
	}
	// Both ends may have moved, and back, while neither heard the other. Then the
	// last known addresses are both wrong, and the first ones are a second chance.
	if !p.Life.Up && p.home != p.addr {
		o.home = p.home
	}
	o.probe = &probe{uid: p.session.UID, sequence: p.Prober.Send(now, &p.Life), heard: p.HeardAgo(now)}
}

// reply answers a probe.
func (p *path) reply(now time.Time, q probe) {
	p.Asked(now, q.sequence, q.heard)
	if p.session.Counters.Rx.Within(now, p.replies) {
		r := probe{uid: p.session.UID, sequence: q.sequence}
		p.sendSpecial(r.append(nil, specialReply), true)
	}
}

// replied takes the reply to a probe.
func (p *path) replied(now time.Time, q probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.RepliedLocked(now, q.sequence)
}
