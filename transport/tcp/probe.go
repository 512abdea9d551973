package tcp

import (
	"time"

	"meshd/internal/encap"
	"meshd/transport"
)

// probeDueLocked is when the next probe is due; zero: none is.
func (p *path) probeDueLocked(now time.Time) time.Time {
	if !p.connectedLocked() {
		return time.Time{}
	}
	due := p.prober.Due(now, &p.life)
	if !p.life.Up && now.Sub(p.bound.since) < eagerFor {
		if eager := p.probedAt.Add(eagerEvery); eager.Before(due) {
			due = eager
		}
	}
	return due
}

// probeLocked orders a probe where one is due.
func (p *path) probeLocked(now time.Time, o *orders) {
	due := p.probeDueLocked(now)
	if due.IsZero() || now.Before(due) {
		return
	}
	o.probe, o.seq = true, p.prober.Send(now, &p.life)
	p.probedAt = now
}

// heardAgo is how long the neighbour has not been heard, as probes tell it.
func (p *path) heardAgo(now time.Time) uint32 {
	heard := p.heardAt()
	if heard.IsZero() {
		return encap.NativeNever
	}
	return uint32(min(max(now.Sub(heard).Milliseconds(), 0), encap.NativeNever-1))
}

// hurry makes a probe due at once on a path that is not up.
func (p *path) hurry() {
	p.mu.Lock()
	if !p.life.Up {
		p.prober.Hurry()
	}
	p.mu.Unlock()
	p.rouse()
}

// heed takes a probe or a reply.
func (p *path) heed(now time.Time, i encap.NativeItem) {
	if q, ok := i.Question(); ok {
		p.answer(now, q)
		return
	}
	if a, ok := i.Answer(); ok {
		p.answered(now, a)
		return
	}
	p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
}

// answer answers a probe, and takes what it says of what we sent.
func (p *path) answer(now time.Time, q encap.NativeQuestion) {
	p.mu.Lock()
	look := p.life.Asked(now, q.Sequence, &p.prober)
	if q.Heard != encap.NativeNever {
		p.life.Reach(now.Add(-time.Duration(q.Heard) * time.Millisecond))
		look = look || !p.life.Up
	}
	p.mu.Unlock()
	if look {
		p.rouse()
	}
	if !p.answers.AllowN(now, 1) {
		p.session.Counters.Rx.Drop(transport.DropRate, 1)
		return
	}
	p.tx.note(encap.AppendNativeReply(nil, encap.NativeAnswer{Sequence: q.Sequence}))
}

// answered takes the reply to a probe. A path that is down may be up by it, and one
// that rested can be relied on again.
func (p *path) answered(now time.Time, a encap.NativeAnswer) {
	p.mu.Lock()
	look := !p.life.Up || p.life.Unproven(now)
	if sent, ok := p.prober.Replied(now, a.Sequence); ok {
		p.life.Replied(now, sent)
	}
	p.mu.Unlock()
	if look {
		p.rouse()
	}
}
