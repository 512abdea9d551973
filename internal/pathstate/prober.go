package pathstate

import "time"

// Intervals of probes between meshd peers.
const (
	probeEvery   = 500 * time.Millisecond
	probeAnxious = 100 * time.Millisecond
	probePatient = time.Second      // to a path that has been down for long
	patientAfter = 10 * time.Second // down for that long: probed less often
	eagerFor     = time.Second      // of what carries the path anew: like an anxious one
)

// probeMemory is over how many probes loss is measured. lostAfter is when a probe
// without reply counts as lost. After a silence there was no path, rather than loss
// on it: what was lost until then is forgotten.
const (
	probeMemory = 64
	lostAfter   = time.Second
	silence     = 2 * time.Second
)

// Prober numbers probes and measures by their replies. The zero value is ready.
type Prober struct {
	next  uint32    // sequence number
	last  time.Time // when a probe was sent
	marks [probeMemory]mark
	srtt  time.Duration
	eager time.Time // since when probes are frequent, while the path is not up
	least minRTT
	heard time.Time // when the last reply came, or a rest ended after that
}

// mark is a probe that was sent.
type mark struct {
	sequence uint32
	at       time.Time // zero: none
	answered bool
}

// Due is when the next probe is due for a path that lives like that.
func (b *Prober) Due(now time.Time, l *Life) time.Time {
	every := probeEvery
	switch {
	case l.resting:
		every = l.every
	case l.Up && l.anxious(now), !l.Up && now.Sub(b.eager) < eagerFor:
		every = probeAnxious
	case !l.Up && now.Sub(l.downAt) >= patientAfter:
		every = probePatient
	}
	if b.last.IsZero() {
		return now
	}
	return b.last.Add(every)
}

// Send numbers a probe that is sent now, on a path that lives like that: it does not
// rest any more.
func (b *Prober) Send(now time.Time, l *Life) (sequence uint32) {
	l.Wake(now)
	sequence = b.next
	b.marks[sequence%probeMemory] = mark{sequence: sequence, at: now}
	b.next++
	b.last = now
	if !b.heard.IsZero() {
		b.heard = later(b.heard, l.wokeAt)
	}
	return sequence
}

// Hurry makes the next probe due.
func (b *Prober) Hurry() { b.last = time.Time{} }

// Eager makes probes frequent for a second, as long as the path is not up.
func (b *Prober) Eager(now time.Time) { b.eager = now }

// Replied takes a reply and says when its probe was sent; false: to no probe
// that is remembered, or not the first reply.
func (b *Prober) Replied(now time.Time, sequence uint32) (sent time.Time, ok bool) {
	m := &b.marks[sequence%probeMemory]
	if m.at.IsZero() || m.sequence != sequence || m.answered {
		return time.Time{}, false
	}
	m.answered = true
	if now.Sub(b.heard) >= silence {
		sent := m.at
		for i := range b.marks {
			if o := &b.marks[i]; !o.answered && o.at.Before(sent) {
				*o = mark{}
			}
		}
	}
	b.heard = now
	rtt := max(now.Sub(m.at), 1) // a clock may be too coarse for a fast path
	b.least.add(now, rtt)
	if b.srtt == 0 {
		b.srtt = rtt
	} else {
		b.srtt += (rtt - b.srtt) / 8
	}
	return m.at, true
}

// RTT is the round-trip time, smoothed as in RFC 6298, section 2; 0: unknown.
func (b *Prober) RTT() time.Duration { return b.srtt }

// MinRTT is the smallest round-trip time of the last 5 minutes; 0: no probe was
// answered in that time.
func (b *Prober) MinRTT(now time.Time) time.Duration { return b.least.get(now) }

// Loss is the share of the last probes that were lost, 0 to 1; -1: none has been
// answered or lost yet.
func (b *Prober) Loss(now time.Time) float64 {
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
