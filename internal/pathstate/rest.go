package pathstate

import "time"

const (
	idleAfter = 10 * time.Second // without frames
	// A path on which probes are lost is watched, not rested: its loss decides
	// whether it is used.
	restfulLoss = 0.05
	// jumpAfter is how long the neighbour has asked nothing when a jump of its
	// sequence numbers tells of probes that were lost after a rest.
	jumpAfter = 3 * time.Second
)

// rest is the part of a Life that lets an idle path be: where both ends can, and no
// frames flow, signs of life are demanded only now and then.
//
//	       frames, a probe that is due, a hurry
//	     ┌────────────────────────────────────────┐
//	     │                                        ▼
//	resting                                    watched: as without rest, silence
//	     ▲                                        │     counts from here on
//	     └────────────────────────────────────────┘
//	       10 s without frames, and a reply to a probe since
//
// Each end decides for itself and by the replies to its own probes. When one rests and
// the other does not, it answers. Both rest best together: a probe of the neighbour's
// makes ours due, so that both know how long the way was silent.
type rest struct {
	able     bool
	resting  bool
	pace     *Pace
	level    int           // of paces
	every    time.Duration // until the next probe
	proofs   int           // silences in a row that were outlived
	doubts   int           // silences in a row that seem not to have been
	doubted  bool          // the last one did
	activeAt time.Time     // when frames flowed last, or the path came up
	watchAt  time.Time     // a reply to a probe from then on lets the path rest; zero: it is not idle

	wokeAt  time.Time     // when it rested last
	silent  time.Duration // how long there were no probes before that
	judged  bool          // whether that was too long has been said, or there was none
	judgeAt time.Time     // without a reply it was

	askedAt time.Time // when the neighbour probed last; zero: never
	asked   uint32    // with that sequence number
}

// MayRest tells that both ends may let the path rest. p: what is known of the way to
// the neighbour; nil: nothing.
func (l *Life) MayRest(p *Pace) {
	if p == nil {
		p = &Pace{}
	}
	l.able, l.pace, l.judged = true, p, true
}

// Idle reports whether the path is up and no frames flow, so that nothing but its
// life needs to be watched. A path that may not rest is never idle.
func (l *Life) Idle(now time.Time) bool {
	return l.able && l.Up && now.Sub(l.activeAt) >= idleAfter
}

// Resting reports whether no sign of life is demanded.
func (l *Life) Resting() bool { return l.resting }

// Unproven reports whether a path that is up has rested since a probe was replied to
// that was sent not long ago: it may be dead without anybody having noticed.
func (l *Life) Unproven(now time.Time) bool {
	switch {
	case !l.able, !l.Up:
		return false
	case l.resting:
		return now.Sub(l.replied) >= doubtAfter
	}
	return l.replied.Before(l.wokeAt)
}

// Settle decides whether the path rests, before Judge. used: frames flowed since the
// last call; loss: as by Prober.Loss.
func (l *Life) Settle(now time.Time, used bool, loss float64) {
	if !l.able {
		return
	}
	if !l.judged && !now.Before(l.judgeAt) {
		l.tooLong(now)
	}
	switch {
	case !l.Up:
	case used, loss > restfulLoss:
		l.Wake(now)
		l.activeAt, l.watchAt = now, time.Time{}
	case !l.Idle(now), l.resting, !l.questionAt.IsZero():
	case l.watchAt.IsZero():
		l.watchAt = now
	case !l.replied.Before(l.watchAt):
		l.lieDown(now)
	}
}

// lieDown begins a rest.
func (l *Life) lieDown(now time.Time) {
	l.resting = true
	if l.proofs >= paceProofs && l.level+1 < len(paces) && l.pace.allows(now, paces[l.level+1].most) {
		l.level, l.proofs = l.level+1, 0
	}
	l.every = between(paces[l.level].least, paces[l.level].most)
}

// Wake ends a rest: the path has the usual times to prove itself, from now on.
func (l *Life) Wake(now time.Time) {
	if !l.resting {
		return
	}
	l.resting = false
	l.watchAt, l.wokeAt, l.silent = now, now, now.Sub(l.replied)
	l.judged, l.judgeAt = false, now.Add(doubtAfter)
	l.heardFloor, l.reachedFloor = later(l.heardFloor, now), later(l.reachedFloor, now)
}

// Interrupt ends a rest because what carries the path has ended or was replaced: that
// was not for its silence.
func (l *Life) Interrupt(now time.Time) {
	if l.resting {
		l.Wake(now)
		l.judged = true
	}
}

// Asked notes a probe of the neighbour's, and reports whether ours is due by it.
func (l *Life) Asked(now time.Time, sequence uint32, b *Prober) (due bool) {
	if !l.able {
		return false
	}
	before := l.askedAt
	jump := int32(sequence - l.asked)
	if before.IsZero() || jump > 0 {
		l.asked, l.askedAt = sequence, now
	}
	if !before.IsZero() && jump > 1 && now.Sub(before) >= jumpAfter {
		l.missed(now, before, int(jump)-1)
	}
	if !l.resting || now.Sub(b.last) < l.every/2 {
		return false
	}
	b.Hurry()
	return true
}

// missed takes it that n probes of the neighbour's were lost since the one before. If
// we rested meanwhile it may be that the way had closed: our own probes, which opened
// it, do not show it.
func (l *Life) missed(now, before time.Time, n int) {
	switch {
	case l.resting:
		l.silent = now.Sub(later(before, l.replied))
	case l.wokeAt.Before(before):
		return // what was lost was lost under watch
	}
	l.judged = true
	if n >= 3 {
		l.tooLong(now)
		return
	}
	l.doubt(now)
}

// proven takes the first reply after a rest, to a probe that was sent then.
func (l *Life) proven(now, sent time.Time) {
	if !l.able || l.judged || sent.Before(l.wokeAt) {
		return
	}
	l.judged = true
	switch {
	case sent.Sub(l.wokeAt) >= probeEvery: // the first probe was lost
		l.doubted = false
		l.doubt(now)
	case l.silent >= paces[l.level].least:
		if !l.doubted { // otherwise the neighbour's probes may have been lost again
			l.doubts = 0
		}
		l.doubted = false
		l.proofs++
	}
}

// doubt notes a silence that seems to have been too long, once.
func (l *Life) doubt(now time.Time) {
	l.proofs = 0
	if l.doubted {
		return
	}
	l.doubted = true
	if l.doubts++; l.doubts >= paceDoubts {
		l.tooLong(now)
	}
}

// tooLong notes a silence that was too long: shorter ones are tried anew.
func (l *Life) tooLong(now time.Time) {
	l.judged = true
	l.level, l.proofs, l.doubts = 0, 0, 0
	if l.silent > paces[0].most { // otherwise it is not for its length
		l.pace.note(now, l.silent)
	}
}
