package sleeve

import (
	"time"

	"meshd/transport"
)

// Intervals of probes between meshd peers.
const (
	probeEvery   = 500 * time.Millisecond
	probeAnxious = 100 * time.Millisecond
	probePatient = time.Second // to a path that has been down for long
)

// probeMemory is over how many probes loss is measured. lostAfter is when a probe
// without reply counts as lost.
const (
	probeMemory = 64
	lostAfter   = time.Second
)

// prober numbers probes and measures by their replies. The zero value is ready;
// the path's mutex guards it.
type prober struct {
	next  uint32    // sequence number
	last  time.Time // when a probe was sent
	marks [probeMemory]mark
	srtt  time.Duration // smoothed as in RFC 6298, section 2; 0: unknown
}

// mark is a probe that was sent.
type mark struct {
	sequence uint32
	at       time.Time // zero: none
	answered bool
}

// send numbers a probe that is sent now.
func (b *prober) send(now time.Time) (sequence uint32) {
	sequence = b.next
	b.marks[sequence%probeMemory] = mark{sequence: sequence, at: now}
	b.next++
	b.last = now
	return sequence
}

// hurry makes the next probe due.
func (b *prober) hurry() { b.last = time.Time{} }

// replied takes a reply and says when its probe was sent; false: to no probe
// that is remembered, or not the first reply.
func (b *prober) replied(now time.Time, sequence uint32) (sent time.Time, ok bool) {
	m := &b.marks[sequence%probeMemory]
	if m.at.IsZero() || m.sequence != sequence || m.answered {
		return time.Time{}, false
	}
	m.answered = true
	rtt := max(now.Sub(m.at), 1) // a clock may be too coarse for a fast path
	if b.srtt == 0 {
		b.srtt = rtt
	} else {
		b.srtt += (rtt - b.srtt) / 8
	}
	return m.at, true
}

// loss is the share of the last probes that were lost, 0 to 1; -1: none has been
// answered or lost yet.
func (b *prober) loss(now time.Time) float64 {
	lost, settled := 0, 0
	for _, m := range b.marks {
		switch {
		case m.at.IsZero():
		case m.answered:
			settled++
		case now.Sub(m.at) >= lostAfter:
			settled++
			lost++
		}
	}
	if settled == 0 {
		return -1
	}
	return float64(lost) / float64(settled)
}

// probeDueLocked is when the next probe is due; zero: none is.
func (p *path) probeDueLocked(now time.Time) time.Time {
	if !p.session.Native || !p.established || p.conn == nil {
		return time.Time{}
	}
	every := probeEvery
	switch {
	case !p.life.up && now.Sub(p.life.downAt) >= patientAfter:
		every = probePatient
	case p.life.up && p.life.anxious(now):
		every = probeAnxious
	}
	if p.prober.last.IsZero() {
		return now
	}
	return p.prober.last.Add(every)
}

// probeLocked orders a probe where one is due.
func (p *path) probeLocked(now time.Time, o *orders) {
	due := p.probeDueLocked(now)
	if due.IsZero() || now.Before(due) {
		return
	}
	// Both ends may have moved, and back, while neither heard the other. Then the
	// last known addresses are both wrong, and the first ones are a second chance.
	if !p.life.up && p.home != p.addr {
		o.home = p.home
	}
	o.probe = &probe{uid: p.session.UID, sequence: p.prober.send(now), heard: p.heardAgo(now)}
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
	if q.heard != neverHeard {
		p.mu.Lock()
		p.life.reach(now.Add(-time.Duration(q.heard) * time.Millisecond))
		p.mu.Unlock()
	}
	if !p.replies.AllowN(now, 1) {
		p.session.Counters.Rx.Drop(transport.DropRate, 1)
		return
	}
	r := probe{uid: p.session.UID, sequence: q.sequence}
	p.sendSpecial(r.append(nil, specialReply), true)
}

// replied takes the reply to a probe. A path that is down may be up by it.
func (p *path) replied(now time.Time, q probe) {
	p.mu.Lock()
	if sent, ok := p.prober.replied(now, q.sequence); ok {
		p.life.reply(sent)
	}
	down := !p.life.up
	p.mu.Unlock()
	if down {
		p.rouse()
	}
}
