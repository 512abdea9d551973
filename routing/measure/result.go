package measure

import "time"

// Limit says what ended the search for the highest rate.
type Limit string

// The limits.
const (
	LimitPath   Limit = "path"   // above, frames were lost or late
	LimitSender Limit = "sender" // this host sends no faster
	LimitTime   Limit = ""       // there was no time to find out
)

// Rate is a rate of frames as they arrived.
type Rate struct {
	Frames float64 // per second
	Bits   float64 // per second, Ethernet headers included, FCS not
}

// or returns the higher one of r and of a rate of frames of size bytes.
func (r Rate) or(frames float64, size int) Rate {
	if frames > r.Frames {
		return Rate{Frames: frames, Bits: frames * 8 * float64(size)}
	}
	return r
}

// Held is what came of the time in which one rate was held.
type Held struct {
	Sent, Received uint64 // frames
	Bytes          uint64 // received
	OutOfOrder     uint64 // of Received
	Time           time.Duration
}

// Loss is the share that was lost, 0 to 1.
func (h *Held) Loss() float64 {
	if h.Sent == 0 {
		return 0
	}
	return 1 - float64(h.Received)/float64(h.Sent)
}

// Rate is at which frames arrived.
func (h *Held) Rate() Rate {
	if h.Time <= 0 {
		return Rate{}
	}
	s := h.Time.Seconds()
	return Rate{Frames: float64(h.Received) / s, Bits: float64(h.Bytes) * 8 / s}
}

// Result is what a measurement found.
type Result struct {
	FrameBytes int  // of each frame of data
	Highest    Rate // at which less than 1% was lost; 0: there was none
	Limit      Limit
	Held       Held
	Idle       RTT // without load
	Loaded     RTT // while a rate was held
	Took       time.Duration
}

// outcome is what came of a round.
type outcome struct {
	sentRound
	tally tally
}

// arrived is how many frames came, never more than were sent: duplicates, and what
// a peer makes up, do not make good what was lost.
func (o *outcome) arrived() uint64 { return min(o.tally.frames, uint64(o.frames)) }

// span is how long the round took, at this end or the other.
func (o *outcome) span() time.Duration {
	return max(o.took, time.Duration(min(o.tally.span, uint64(time.Hour))))
}

// received is how many frames arrived per second.
func (o *outcome) received() float64 { return float64(o.arrived()) / o.span().Seconds() }

// good reports whether the way carried the round: hardly anything was lost, and
// what arrived did not pile up on the way.
func (o *outcome) good() bool {
	lost := uint64(o.frames) - o.arrived()
	return o.frames > 0 && float64(lost) <= maxLoss*float64(o.frames) &&
		o.span() <= time.Duration(lateShare*float64(o.took))+lateSlack
}

func (h *Held) add(o outcome) {
	n := o.arrived()
	h.Sent += uint64(o.frames)
	h.Received += n
	h.OutOfOrder += min(o.tally.outOfOrder, n)
	h.Time += o.took
	if o.tally.frames > 0 {
		h.Bytes += n * min(o.tally.bytes/o.tally.frames, 1<<16)
	}
}
