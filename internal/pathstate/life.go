package pathstate

import "time"

// Times of the neighbour's silence.
const (
	stockSilence = 60 * time.Second // ends the path (weave protocol, section 6.6)

	// Between meshd peers. Either direction dead for deadAfter takes the path down:
	// with the time until the next step below the 2.5 s that are promised.
	// From doubtAfter on, when two hurried probes had time to be answered, another path
	// may carry the frames: so TCP's third retransmission finds a way, after 1.4 s.
	quietAfter    = time.Second
	doubtAfter    = 1200 * time.Millisecond
	deadAfter     = 2200 * time.Millisecond
	aliveWithin   = time.Second // both directions, for the path to come up again
	questionTime  = time.Second // to prove itself after the control connection is lost
	questionSlip  = 200 * time.Millisecond
	farFuture     = time.Hour
	notReachedWhy = "our datagrams do not reach the neighbour"
	notHeardWhy   = "silent: no datagram from the neighbour"
)

// A path that looks later than stallAfter did not run in between: its process
// was stopped, or the machine is busy. Watch tells Life.Stalled and PMTU.Shift how
// late it is. stallGrace is what Life leaves it to read what has
// come meanwhile.
const (
	stallAfter = 300 * time.Millisecond
	stallGrace = 200 * time.Millisecond
)

// Life judges whether a path works. It knows two times: when we last heard the
// neighbour, and when, as far as we know, the neighbour last heard us.
//
//	neighbour ──── any valid datagram ────► us           heard
//	neighbour ◄─── anything ─── us
//	    └───────── reply, or probe that tells ────► us    reached
//
// When we last heard the neighbour is noted by the data path, for each batch;
// Judge and Due are told.
type Life struct {
	Up      bool   // decided by Judge
	Why     string // where it was up and is not any more
	Expired bool   // a stock neighbour was silent for too long: the path has ended

	native  bool
	reached time.Time
	replied time.Time // when the newest probe was sent that was replied to
	// What stalls of our own make of the times: nothing is held against the
	// neighbour that happened while we did not run.
	heardFloor, reachedFloor time.Time
	downAt                   time.Time
	questionAt, questionEnd  time.Time // zero: nothing is in question
	rest
}

// Begin starts to judge. native: the neighbour is meshd and answers probes;
// otherwise it is a stock router whose heartbeats are all there is to go by.
func (l *Life) Begin(now time.Time, native bool) {
	l.native = native
	l.heardFloor, l.downAt = now, now
}

// Reached is when the neighbour last had something of ours, as far as we know;
// zero: never.
func (l *Life) Reached() time.Time { return l.reached }

// Reach notes that the neighbour had something of ours at that time.
func (l *Life) Reach(at time.Time) { l.reached = later(l.reached, at) }

// Replied notes that a probe sent at that time was replied to.
func (l *Life) Replied(now, sent time.Time) {
	l.Reach(sent)
	l.proven(now, sent)
	l.replied = later(l.replied, sent)
}

// Question demands a sign of life, within a second, of a path whose control
// connection is lost: the reply to a probe that is sent from now on, or a
// datagram that cannot have been under way already.
func (l *Life) Question(now time.Time) {
	l.Interrupt(now)
	l.questionAt, l.questionEnd = now, now.Add(questionTime)
}

// Stalled notes that we did not run for a time before now.
func (l *Life) Stalled(now time.Time, d time.Duration) {
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
	l.judgeAt = l.judgeAt.Add(d)
}

// Judge decides. heard is zero where nothing was heard yet; ready: both ends have
// had something of the other; lost: the control connection is gone, and the path
// does not come up again.
func (l *Life) Judge(now, heard time.Time, ready, lost bool) {
	l.heardFloor = later(l.heardFloor, heard)
	if !l.native {
		l.Up = ready
		l.Expired = now.Sub(l.heardFloor) >= stockSilence
		return
	}
	if !l.questionAt.IsZero() && (!l.replied.Before(l.questionAt) || heard.After(l.questionAt.Add(questionSlip))) {
		l.questionAt, l.questionEnd = time.Time{}, time.Time{}
	}
	silent, unreached := now.Sub(l.heardFloor), now.Sub(later(l.reached, l.reachedFloor))
	switch {
	case !ready, l.resting:
	case l.Up && l.questioned(now), l.Up && silent >= deadAfter:
		l.down(now, notHeardWhy)
	case l.Up && unreached >= deadAfter:
		l.down(now, notReachedWhy)
	case !l.Up && !lost && now.Sub(heard) < aliveWithin && now.Sub(l.reached) < aliveWithin:
		l.Up, l.Why = true, ""
		l.activeAt, l.watchAt, l.level, l.proofs = now, time.Time{}, 0, 0
	}
}

// questioned reports whether the time to prove itself is over.
func (l *Life) questioned(now time.Time) bool {
	return !l.questionEnd.IsZero() && !now.Before(l.questionEnd)
}

func (l *Life) down(now time.Time, why string) { l.Up, l.Why, l.downAt = false, why, now }

// anxious reports whether signs of life are overdue.
func (l *Life) anxious(now time.Time) bool {
	if l.resting {
		return false
	}
	return !l.questionAt.IsZero() || now.Sub(l.heardFloor) >= quietAfter ||
		now.Sub(later(l.reached, l.reachedFloor)) >= quietAfter
}

// Doubtful reports whether a path that is up may be dead: the signs of life that are
// overdue did not come when they were asked for. heard is as for Judge.
func (l *Life) Doubtful(now, heard time.Time) bool {
	return l.native && l.Up && !l.resting && (now.Sub(later(l.heardFloor, heard)) >= doubtAfter ||
		now.Sub(later(l.reached, l.reachedFloor)) >= doubtAfter)
}

// Due is when Judge may change its mind, or probes become more frequent, without
// a datagram. heard is as for Judge.
func (l *Life) Due(now, heard time.Time) time.Time {
	heard = later(l.heardFloor, heard)
	if !l.native {
		return heard.Add(stockSilence)
	}
	due := now.Add(farFuture)
	if l.resting {
		if t := l.replied.Add(doubtAfter); t.After(now) {
			due = t // it is unproven
		}
		return due
	}
	reached := later(l.reached, l.reachedFloor)
	for _, t := range [...]time.Time{
		l.questionEnd, l.judgeAt, heard.Add(quietAfter), heard.Add(doubtAfter), heard.Add(deadAfter),
		reached.Add(quietAfter), reached.Add(doubtAfter), reached.Add(deadAfter),
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
