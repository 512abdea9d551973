package quic

import (
	"time"

	"meshd/internal/encap"
	"meshd/transport"
)

// probeDueLocked is when the next probe is due; zero: none is.
func (p *path) probeDueLocked(now time.Time) time.Time {
	if p.bound == nil {
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

// testLocked orders tests of the path's MTU. quic-go finds how large its packets
// may be, but never that they have become too large (RFC 8899, section 4.3): a
// connection that large datagrams do not get through any more is given up, and a
// new one finds the MTU anew.
func (p *path) testLocked(now time.Time, o *orders) {
	if !p.life.Up || p.bound == nil || p.room == 0 || p.life.Idle(now) && !p.pmtu.Testing() {
		return
	}
	o.tests = p.pmtu.Next(now, nil)
	switch {
	case p.pmtu.MTU() >= p.pmtu.Limit(p.room):
		p.shortAt = time.Time{}
	case p.shortAt.IsZero():
		p.shortAt = now
	case now.Sub(p.shortAt) >= shortFor && now.Sub(p.brokeAt) >= breakEvery:
		p.brokeAt, p.shortAt = now, time.Time{}
		o.give = p.bound
	}
}

// lookAtRoom asks the connection how long datagrams may be. It grows soon after
// the connection begins.
func (p *path) lookAtRoom(now time.Time) {
	p.mu.Lock()
	b := p.bound
	wanted := b != nil && !now.Before(p.roomAt)
	p.mu.Unlock()
	if !wanted {
		return
	}
	room := b.conn.DatagramRoom()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bound != b {
		return
	}
	p.roomAt = now.Add(roomEvery)
	if now.Sub(b.since) < eagerFor { // quic-go goes on with its search when it sends
		p.roomAt = now.Add(roomEager)
		p.tx.note([]byte{padding, 0, 0, 0})
	}
	if room != 0 && room != p.room {
		p.room = room
		p.pmtu.SetRoute(now, room)
	}
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

// heed takes an item that is not a frame, of a datagram of size bytes.
func (p *path) heed(now time.Time, i encap.NativeItem, size int) {
	if q, ok := i.Question(); ok {
		p.answer(now, q)
		return
	}
	if a, ok := i.Answer(); ok {
		p.answered(now, a)
		return
	}
	if size, ok := i.Tested(); ok {
		p.mu.Lock()
		p.pmtu.Acked(now, size-besides)
		p.mu.Unlock()
		p.rouse()
		return
	}
	if i.Type != encap.NativeTest {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	if p.allowed(now) {
		p.tx.note(encap.AppendNativeTested(nil, size))
	}
}

// allowed reports whether one more answer may be sent.
func (p *path) allowed(now time.Time) bool {
	ok := p.answers.AllowN(now, 1)
	if !ok {
		p.session.Counters.Rx.Drop(transport.DropRate, 1)
	}
	return ok
}

// answer answers a probe, and takes what it says of our datagrams.
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
	if p.allowed(now) {
		p.tx.note(encap.AppendNativeReply(nil, encap.NativeAnswer{Sequence: q.Sequence}))
	}
}

// answered takes the reply to a probe. A path that is down may be up by it, and one
// that rested can be relied on again.
func (p *path) answered(now time.Time, a encap.NativeAnswer) {
	p.mu.Lock()
	look := !p.life.Up || p.life.Unproven(now)
	sent, ok := p.prober.Replied(now, a.Sequence)
	if ok {
		p.life.Replied(now, sent)
		if p.tx.large() { // while there are any, it is verified that they arrive
			p.pmtu.Doubt(now)
		}
	}
	p.mu.Unlock()
	if look {
		p.rouse()
	}
}
