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
	return p.Prober.Due(now, &p.Life)
}

// probeLocked orders a probe where one is due.
func (p *path) probeLocked(now time.Time, o *orders) {
	due := p.probeDueLocked(now)
	if due.IsZero() || now.Before(due) {
		return
	}
	o.probe, o.seq = true, p.Prober.Send(now, &p.Life)
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

// answer answers a probe.
func (p *path) answer(now time.Time, q encap.NativeQuestion) {
	p.Asked(now, q.Sequence, q.Heard)
	if p.session.Counters.Rx.Within(now, p.answers) {
		p.tx.note(encap.AppendNativeReply(nil, encap.NativeAnswer{Sequence: q.Sequence}))
	}
}

// answered takes the reply to a probe.
func (p *path) answered(now time.Time, a encap.NativeAnswer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.RepliedLocked(now, a.Sequence)
}
