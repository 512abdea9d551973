package udp

import "time"

// Verdict is what authentication made of datagrams, in numbers of them. Only
// those count that came from the address at which their peer last passed: what
// somebody else forges says nothing about the kernel.
type Verdict struct {
	RunPassed, RunFailed       int // of runs, that is where Message.Segment > 0
	SinglePassed, SingleFailed int // of others
}

func (v *Verdict) add(w Verdict) {
	v.RunPassed += w.RunPassed
	v.RunFailed += w.RunFailed
	v.SinglePassed += w.SinglePassed
	v.SingleFailed += w.SingleFailed
}

// What makes a judge doubt reading in runs.
const (
	doubtWindow = 10 * time.Second
	doubtFailed = 64          // datagrams of runs that fail in one window, at least,
	doubtShare  = 8           // and one in so many of them
	settleTime  = time.Second // until no run is left in the socket's buffer
	judgedFor   = time.Hour   // how long a finding holds
)

// finding is what a judge holds of the offload.
type finding uint8

const (
	trusted   finding = iota // on, and watched
	suspected                // off, to see whether failures go on without it
	guilty                   // off for judgedFor: they did not
	acquitted                // on for judgedFor, and not watched: they did
)

// judge turns reading in runs off if it spoils datagrams:
//
//	          runs fail, singles pass         failures ended
//	trusted ──────────────────────► suspected ──────────────► guilty
//	   ▲                                │ failures go on         │
//	   │            an hour             ▼                        │
//	   ├──────────────────────────── acquitted                   │
//	   └─────────────────────── an hour ─────────────────────────┘
//
// Whoever forges a peer's address as well, and sends so fast that the forgeries
// come in runs of their own, gains no more than that: at worst, by stopping in
// time, an hour without runs. The zero value is ready; callers take turns.
type judge struct {
	finding finding
	since   time.Time // begin of the window, or of the finding
	count   Verdict   // of the window
}

// on reports whether runs shall be read.
func (j *judge) on() bool { return j.finding == trusted || j.finding == acquitted }

// add takes in a verdict and reports whether the finding has changed.
func (j *judge) add(now time.Time, v Verdict) (changed bool) {
	if v == (Verdict{}) {
		return false
	}
	switch j.finding {
	case trusted:
		return j.watch(now, v)
	case suspected:
		return j.try(now, v)
	}
	return now.Sub(j.since) >= judgedFor && j.find(trusted, now)
}

func (j *judge) find(f finding, now time.Time) bool {
	*j = judge{finding: f, since: now}
	return true
}

// watch looks for runs that fail where single datagrams pass.
func (j *judge) watch(now time.Time, v Verdict) bool {
	if now.Sub(j.since) > doubtWindow {
		j.since, j.count = now, Verdict{}
	}
	j.count.add(v)
	c := j.count
	if !many(c.RunFailed, c.RunPassed) || c.SinglePassed == 0 || c.SingleFailed*doubtShare > c.SinglePassed {
		return false
	}
	return j.find(suspected, now)
}

// try looks whether failures go on without runs.
func (j *judge) try(now time.Time, v Verdict) bool {
	passed := now.Sub(j.since)
	if passed < settleTime {
		return false
	}
	j.count.add(v)
	c := j.count
	if many(c.RunFailed+c.SingleFailed, c.RunPassed+c.SinglePassed) {
		return j.find(acquitted, now)
	}
	if passed < settleTime+doubtWindow || c.RunPassed+c.SinglePassed == 0 {
		return false
	}
	return j.find(guilty, now)
}

// many reports whether failures are more than noise.
func many(failed, passed int) bool {
	return failed >= doubtFailed && failed*(doubtShare-1) >= passed
}
