package sleeve

import "time"

// Times of the neighbour's silence.
const (
	stockSilence = 60 * time.Second // ends the path (weave protocol, section 6.6)

	// Between meshd peers. Either direction dead for deadAfter takes the path down:
	// with the time until the next step below the 2.5 s that are promised.
	quietAfter    = time.Second
	deadAfter     = 2200 * time.Millisecond
	aliveWithin   = time.Second // both directions, for the path to come up again
	questionTime  = time.Second // to prove itself after the control connection is lost
	questionSlip  = 200 * time.Millisecond
	patientAfter  = 10 * time.Second // down for that long: probed less often
	farFuture     = time.Hour
	notReachedWhy = "our datagrams do not reach the neighbour"
	notHeardWhy   = "silent: no datagram from the neighbour"
)

// life judges whether a path works. It knows two times: when we last heard the
// neighbour, and when, as far as we know, the neighbour last heard us.
//
//	neighbour ──── any valid datagram ────► us           heard
//	neighbour ◄─── anything ─── us
//	    └───────── reply, or probe that tells ────► us    reached
//
// It has no clock and does no I/O; the path's mutex guards it.
type life struct {
	native  bool
	up      bool
	why     string // where it was up and is not any more
	expired bool   // a stock neighbour was silent for too long

	begun   time.Time
	reached time.Time
	replied time.Time // when the newest probe was sent that was replied to
	// What stalls of our own make of the times: nothing is held against the
	// neighbour that happened while we did not run.
	heardFloor, reachedFloor time.Time
	downAt                   time.Time
	questionAt, questionEnd  time.Time // zero: nothing is in question
}

func (l *life) begin(now time.Time, native bool) {
	l.begun, l.native = now, native
	l.heardFloor, l.downAt = now, now
}

// reach notes that the neighbour had something of ours at that time.
func (l *life) reach(at time.Time) {
	if at.After(l.reached) {
		l.reached = at
	}
}

// reply notes that a probe sent at that time was replied to.
func (l *life) reply(sent time.Time) {
	l.reach(sent)
	l.replied = later(l.replied, sent)
}

// question demands a sign of life of a path whose control connection is lost.
func (l *life) question(now time.Time) { l.questionAt, l.questionEnd = now, now.Add(questionTime) }

// stalled notes that we did not run for a time before now.
func (l *life) stalled(now time.Time, d time.Duration) {
	floor := func(t time.Time) time.Time {
		t = t.Add(d)
		if left := now.Add(stallGrace - deadAfter); t.Before(left) {
			t = left
		}
		if t.After(now) {
			t = now
		}
		return t
	}
	l.heardFloor, l.reachedFloor = floor(l.heardFloor), floor(later(l.reached, l.reachedFloor))
	if !l.questionEnd.IsZero() {
		l.questionEnd = l.questionEnd.Add(d)
	}
}

// judge decides. heard is zero where nothing was heard yet; ready: both ends have
// had a heartbeat of the other; lost: the control connection is gone.
func (l *life) judge(now, heard time.Time, ready, lost bool) {
	l.heardFloor = later(l.heardFloor, heard)
	if !l.native {
		l.up = ready
		l.expired = now.Sub(l.heardFloor) >= stockSilence
		return
	}
	if !l.questionAt.IsZero() && (!l.replied.Before(l.questionAt) || heard.After(l.questionAt.Add(questionSlip))) {
		l.questionAt, l.questionEnd = time.Time{}, time.Time{}
	}
	silent, unreached := now.Sub(l.heardFloor), now.Sub(later(l.reached, l.reachedFloor))
	switch {
	case !ready:
	case l.up && l.questioned(now), l.up && silent >= deadAfter:
		l.down(now, notHeardWhy)
	case l.up && unreached >= deadAfter:
		l.down(now, notReachedWhy)
	case !l.up && !lost && now.Sub(heard) < aliveWithin && now.Sub(l.reached) < aliveWithin:
		l.up, l.why = true, ""
	}
}

// questioned reports whether the time to prove itself is over.
func (l *life) questioned(now time.Time) bool {
	return !l.questionEnd.IsZero() && !now.Before(l.questionEnd)
}

func (l *life) down(now time.Time, why string) { l.up, l.why, l.downAt = false, why, now }

// anxious reports whether signs of life are overdue.
func (l *life) anxious(now time.Time) bool {
	return !l.questionAt.IsZero() || now.Sub(l.heardFloor) >= quietAfter ||
		now.Sub(later(l.reached, l.reachedFloor)) >= quietAfter
}

// due is when judge or anxious may change their minds without a datagram.
func (l *life) due(now, heard time.Time) time.Time {
	heard = later(l.heardFloor, heard)
	if !l.native {
		return heard.Add(stockSilence)
	}
	due := now.Add(farFuture)
	reached := later(l.reached, l.reachedFloor)
	for _, t := range [...]time.Time{
		l.questionEnd, heard.Add(quietAfter), heard.Add(deadAfter),
		reached.Add(quietAfter), reached.Add(deadAfter),
	} {
		if t.After(now) && t.Before(due) {
			due = t
		}
	}
	return due
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
