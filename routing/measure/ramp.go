package measure

import "math"

// Rates, in frames per second.
const (
	firstRate = 2000
	lowRate   = 5          // below this nothing is looked for
	highRate  = 20_000_000 // nor above this
	fast      = 4          // how much each round adds until one is bad
	closeness = 1.1        // of good and bad, where the search ends

	maxShort   = 3   // rounds that the sender was too slow for
	overloaded = 0.7 // of the rate, that arrived
	guessShare = 0.97
)

// ramp looks for the highest rate that the way carries: up in large steps, then
// between the last good and the first bad one. A bad round is tried once more,
// since anything may disturb one.
type ramp struct {
	rate      float64 // to try now
	good, bad float64 // highest that was good, lowest that was bad; 0: none yet
	again     bool    // rate was bad once
	short     int     // how often the sender did not reach rate
	done      bool
}

func newRamp() *ramp { return &ramp{rate: firstRate} }

// passed takes a good round, and the rate that the sender reached. Where it does not
// reach the one that was asked for again and again, there is nothing above.
func (r *ramp) passed(reached float64) {
	r.again = false
	r.good = max(r.good, min(reached, r.rate))
	if reached < r.rate*senderShare {
		r.short++
		r.done = r.short >= maxShort
		return
	}
	r.short = 0
	r.step()
}

// failed takes a bad round, and the rate at which frames arrived.
func (r *ramp) failed(arrived float64) {
	if !r.again {
		r.again = true
		return
	}
	r.again = false
	r.bad = r.rate
	r.step()
	// Where much more was sent than got through, what did is a good guess.
	if arrived < r.bad*overloaded {
		guess := arrived * guessShare
		r.done = r.done || r.good > 0 && guess < r.good*closeness
		if guess > max(r.good, lowRate) {
			r.rate = guess
		}
	}
}

// step chooses the next rate.
func (r *ramp) step() {
	switch {
	case r.bad == 0:
		r.rate *= fast
	case r.good == 0:
		r.rate /= fast
	default:
		r.rate = math.Sqrt(r.good * r.bad)
	}
	r.done = r.bad > 0 && r.good > 0 && r.bad/r.good < closeness || r.rate < lowRate || r.rate > highRate
}
