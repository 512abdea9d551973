package udp

import "time"

// Verdict is what became of the datagrams of one batch that was read. Only those
// are counted that came from the address at which their peer last authenticated:
// what strangers send says nothing about the kernel.
type Verdict struct {
	RunPassed, RunFailed       int // of runs (Message.Segment > 0)
	SinglePassed, SingleFailed int // read alone
}

// Bounds of the judgment.
const (
	judgeWindow  = 10 * time.Second
	judgeFailed  = 64        // datagrams of runs, failed within a window: suspicious
	judgeStill   = 16        // datagrams failed with GRO off: it was not GRO
	judgeAcquits = time.Hour // without judgment, for somebody forges
)

// judge finds out whether the kernel mangles the datagrams of runs: they fail
// while those read alone pass, and it ends when GRO is turned off. Whoever forges
// datagrams from a peer's address can make runs fail as well; but then it does
// not end, and GRO is turned on again for good measure.
//
//	watching ── runs fail, others do not ──► trial (off)
//	    ▲                                      │   │ nothing fails any more
//	    └─ an hour ◄── acquitted (on) ◄────────┘   └──► guilty (off)
type judge struct {
	state judgment
	since time.Time // of the state, or of the window
	sum   Verdict
}

type judgment uint8

const (
	watching judgment = iota
	trial
	acquitted
	guilty
)

// hear takes a verdict and reports whether GRO may be on.
func (j *judge) hear(now time.Time, v Verdict) (on bool) {
	over := now.Sub(j.since) >= judgeWindow
	if j.state == watching && over {
		j.enter(watching, now)
	}
	j.sum.RunPassed += v.RunPassed
	j.sum.RunFailed += v.RunFailed
	j.sum.SinglePassed += v.SinglePassed
	j.sum.SingleFailed += v.SingleFailed
	switch j.state {
	case watching:
		s := j.sum
		if s.RunFailed >= judgeFailed && s.RunFailed > s.RunPassed && 8*s.SingleFailed <= s.SinglePassed+8 {
			j.enter(trial, now)
		}
	case trial:
		if j.sum.RunFailed+j.sum.SingleFailed >= judgeStill {
			j.enter(acquitted, now)
		} else if over && j.sum.SinglePassed > 0 {
			j.enter(guilty, now)
		}
	case acquitted:
		if now.Sub(j.since) >= judgeAcquits {
			j.enter(watching, now)
		}
	}
	return j.state == watching || j.state == acquitted
}

func (j *judge) enter(s judgment, now time.Time) { j.state, j.since, j.sum = s, now, Verdict{} }
