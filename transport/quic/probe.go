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

// testLocked orders tests of the path's MTU. quic-go finds how large its packets
// may be, but never that they have become too large (RFC 8899, section 4.3): a
// connection that large datagrams do not get through any more is given up, and a
// new one finds the MTU anew.
func (p *path) testLocked(now time.Time, o *orders) {
	if p.bound == nil || p.room == 0 || !p.TestsLocked(now) {
		return
	}
	o.tests = p.PMTU.Next(now, nil)
	switch {
	case p.PMTU.MTU() >= p.PMTU.Limit(p.room):
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
	if now.Sub(b.since) < roomGrows { // quic-go goes on with its search when it sends
		p.roomAt = now.Add(roomEager)
		p.tx.note([]byte{padding, 0, 0, 0})
	}
	if room != 0 && room != p.room {
		p.room = room
		p.PMTU.SetRoute(now, room)
	}
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
		p.PMTU.Acked(now, size-besides)
		p.mu.Unlock()
		p.Rouse()
		return
	}
	if i.Type != encap.NativeTest {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	if p.session.Counters.Rx.Within(now, p.answers) {
		p.tx.note(encap.AppendNativeTested(nil, size))
	}
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
	// While there are large datagrams, it is verified that they arrive.
	if _, ok := p.RepliedLocked(now, a.Sequence); ok && p.tx.large() {
		p.PMTU.Doubt(now)
	}
}
