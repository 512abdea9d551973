package punch

import "time"

// Kernels and network cards exist that mangle runs of datagrams. The neighbour
// sees it as datagrams from us that do not open, and its replies tell how many.
const (
	badAtLeast = 16          // between two replies, and
	badShare   = 16          // one in so many of those sent
	distrust   = time.Minute // for how long no runs are sent; doubled each time
	distrustTo = 16 * time.Minute
)

// runTrust decides whether runs are sent to the neighbour. The path's mutex
// guards it. Anybody who sees our datagrams can send the neighbour bad copies of
// them, so nothing worse may follow from it than slowness.
type runTrust struct {
	bad, sent uint64 // as of the last reply
	known     bool
	until     time.Time // no runs before
	next      time.Duration
}

// reply takes what a reply says, and how many datagrams were sent until now.
func (r *runTrust) reply(now time.Time, bad uint32, sent uint64) (distrusted bool) {
	newBad, newSent := uint64(bad-uint32(r.bad)), sent-r.sent
	first := !r.known
	r.bad, r.sent, r.known = uint64(bad), sent, true
	if first || newBad >= 1<<31 || newBad < badAtLeast || newBad*badShare < newSent || now.Before(r.until) {
		return false
	}
	if r.next == 0 {
		r.next = distrust
	}
	r.until = now.Add(r.next)
	r.next = min(2*r.next, distrustTo)
	return true
}

// without reports whether runs are left out now.
func (r *runTrust) without(now time.Time) bool { return now.Before(r.until) }

// expire forgives after a long time without trouble.
func (r *runTrust) expire(now time.Time) {
	if !r.until.IsZero() && now.Sub(r.until) > distrustTo {
		r.until, r.next = time.Time{}, 0
	}
}
