package transport

import (
	"time"

	"meshd/internal/pathstate"
)

// Times of choosing between the transports of a link.
const (
	// takeOver is for how long a better path must have been healthy before it takes
	// over from one that works.
	takeOver = 10 * time.Second
	// maxTakeOver bounds what takeOver grows to: it doubles with each failure of the
	// transport, so that one that comes and goes does not take the frames with it.
	maxTakeOver = 5 * time.Minute
	// forgiveAfter without a failure makes it takeOver again.
	forgiveAfter = 10 * time.Minute
	// opening is how long a better path takes over at once after the first one came
	// up where none was: paths come up one after the other, and a new mesh need not
	// run on its second choice for takeOver.
	opening = 3 * time.Second
)

// A path that loses more than lossyAbove of its probes is unhealthy until it
// loses less than cleanBelow. Loss is not judged in the first lossAfter of a
// path: of a few probes one makes a large share.
const (
	lossyAbove = 0.20
	cleanBelow = 0.05
	lossAfter  = takeOver
)

// standing is how one transport has fared on a link. It outlives paths and
// sessions.
type standing struct {
	upSince      time.Time // zero: no path of it is up
	healthySince time.Time // zero: it is not up, lossy, or doubtful
	lossy        bool
	blamed       bool          // since its last time of health
	failedAt     time.Time     // when it was blamed last; zero: never
	wait         time.Duration // health before it takes over; 0: takeOver
	pace         pathstate.Pace
}

// observe takes the state of the transport's path now; nil: none is up. The loss
// of a path that was chosen by hand does not matter.
func (t *standing) observe(now time.Time, st *State, pinned bool) {
	if st == nil {
		if !t.upSince.IsZero() {
			t.blame(now)
		}
		t.upSince, t.healthySince, t.lossy = time.Time{}, time.Time{}, false
		return
	}
	if t.upSince.IsZero() {
		t.upSince = now
	}
	switch {
	case pinned, st.Loss < cleanBelow: // also where it is not known
		t.lossy = false
	case st.Loss > lossyAbove && now.Sub(t.upSince) >= lossAfter:
		t.lossy = true
	}
	switch {
	case t.lossy:
		t.blame(now)
		t.healthySince = time.Time{}
	case st.Doubtful: // as all are while the neighbour stands still: no failure
		t.healthySince = time.Time{}
	case t.healthySince.IsZero():
		t.healthySince, t.blamed = now, false
	}
}

// blame notes a failure, one for each time of health: the transport waits longer
// the next time.
func (t *standing) blame(now time.Time) {
	if t.blamed {
		return
	}
	t.blamed = true
	if t.failedAt.IsZero() || now.Sub(t.failedAt) >= forgiveAfter {
		t.wait = takeOver
	} else {
		t.wait = min(2*t.wait, maxTakeOver)
	}
	t.failedAt = now
}

// flapping reports whether the transport has failed again and again of late.
func (t *standing) flapping() bool { return t.wait > takeOver }

// readyAt is when the transport may take over from one that works; zero: not as
// long as it is unhealthy.
func (t *standing) readyAt() time.Time {
	if t.healthySince.IsZero() {
		return time.Time{}
	}
	return t.healthySince.Add(max(t.wait, takeOver))
}

// ready reports whether it may.
func (t *standing) ready(now time.Time) bool {
	at := t.readyAt()
	return !at.IsZero() && !now.Before(at)
}
