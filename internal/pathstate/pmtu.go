package pathstate

import (
	"cmp"
	"slices"
	"time"
)

// Sizes of path MTU discovery in bytes, of inner IP packets, where the PMTUConfig
// does not say them.
const (
	floorMTU = 552  // every path is taken to carry it (weave protocol, section 6.7)
	safeMTU  = 1280 // IPv6's minimum
	maxIP    = 65535
)

// How often the MTU in use is verified: towards meshd neighbours, and towards
// stock routers, where each test costs a control message.
const (
	VerifyNative = 10 * time.Second
	VerifyStock  = time.Minute
)

// PMTUConfig is what a PMTU needs to know of a path's transport.
type PMTUConfig struct {
	Overhead int // bytes of underlay IP packet besides the inner IP packet
	// Floor is what every path is taken to carry: nothing less is tested or
	// decided. 0: 552 bytes.
	Floor int
	// Safe is believed of a path that answers no test at all. 0: 1280 bytes.
	Safe   int
	Verify time.Duration // how often the MTU in use is verified; 0: VerifyNative
	// Skip reports sizes that cannot be tested: they count as failed. nil: none.
	Skip func(size int) bool
}

// Times of path MTU discovery.
const (
	optimism   = time.Second            // how long the route's MTU is believed without any answer
	answerSlip = 400 * time.Millisecond // for more answers after the first one: four tries of each
	retryFirst = 2 * time.Second        // after a round without any answer; doubled up to retryLast
	retryLast  = time.Minute
	raiseFirst = 30 * time.Second // search upwards; doubled up to raiseLast
	raiseLast  = 10 * time.Minute
	ackLife    = 5 * time.Second // how long after a test its answer counts
)

// tryWaits is how long each try of a candidate waits for its answer. Stock
// routers may answer some 100 ms late (weave protocol, section 3.2).
var tryWaits = [...]time.Duration{
	40 * time.Millisecond, 80 * time.Millisecond, 160 * time.Millisecond,
	320 * time.Millisecond, 640 * time.Millisecond,
}

// rungs are underlay MTUs that occur: jumbo frames, Ethernet, PPPoE, tunnels,
// clouds, IPv6's minimum.
var rungs = [...]int{
	9001, 9000, 8900, 4352, 1500, 1492, 1480, 1460, 1450, 1420, 1400, 1280, 1006,
}

// splitWidth is how many candidates are tried at once between what works and
// what does not.
const splitWidth = 8

// PMTU finds the largest inner IP packet that a path carries, by tests that the
// neighbour answers (RFC 8899). It is told the time, what the kernel knows of the
// route and which tests were answered, and says what to test next.
//
//	route ──► ladder ──► split … split ──► idle ──► check ──► idle
//	            ▲                           │ ▲       │ no answer
//	            └── raise ◄─────────────────┘ └───    ▼
//	            └───────────────────────────────── suspect
//
// Each round tries some candidates at once, each several times with growing
// waits. A round that ends without any answer concludes nothing: control
// messages may be late, and a dead path is not this machine's business.
// The MTU goes down before the search and up only to what was verified.
type PMTU struct {
	c PMTUConfig

	bound int // largest that the kernel's route lets through; 0: not started
	mtu   int // largest that frames may use now
	good  int // largest that was answered in this search; 0: none yet
	bad   int // smallest that is taken to fail; bound+1: none

	trials   []trial
	checking bool     // the round is a check of the MTU in use
	answered bool     // this search had an answer
	proven   bool     // some test was answered, ever
	sent     []tested // what was tested lately

	lowerAt   time.Time // when an unverified MTU is given up; zero: it stays
	retryAt   time.Time // when a search without answers is repeated; zero: none
	retryWait time.Duration
	checkAt   time.Time
	raiseAt   time.Time
	raiseWait time.Duration
}

// trial is one candidate that waits for its answer.
type trial struct {
	size, tries int
	next        time.Time // of the next try, or of giving up
}

type tested struct {
	size int
	at   time.Time
}

// NewPMTU returns a machine that waits for its first SetRoute.
func NewPMTU(c PMTUConfig) *PMTU {
	c.Floor = cmp.Or(c.Floor, floorMTU)
	c.Safe = cmp.Or(c.Safe, safeMTU)
	c.Verify = cmp.Or(c.Verify, VerifyNative)
	return &PMTU{c: c}
}

// MTU is the largest inner IP packet in bytes; 0 before the first SetRoute.
func (m *PMTU) MTU() int { return m.mtu }

// Limit turns the MTU of a route, in bytes of underlay IP packet, into the
// largest inner IP packet that may be expected of it.
func (m *PMTU) Limit(route int) int {
	return min(max(route-m.c.Overhead, m.c.Floor), maxIP-m.c.Overhead)
}

// SetRoute tells the MTU that the kernel knows for the route, in bytes of
// underlay IP packet. The first call starts the search.
func (m *PMTU) SetRoute(now time.Time, route int) {
	b := m.Limit(route)
	switch {
	case m.bound == 0:
		m.bound, m.mtu = b, b
		m.raiseWait, m.retryWait = raiseFirst, retryFirst
		m.search(now)
	case b < m.mtu:
		m.bound, m.mtu = b, b
		m.search(now)
	case b > m.bound:
		m.bound = b
		m.raiseAt = now
	default:
		m.bound, m.bad = b, min(m.bad, b+1)
		m.trials = slices.DeleteFunc(m.trials, func(t trial) bool { return t.size > b })
	}
}

// SetOverhead tells that the path now goes over the other IP version, and the
// MTU of its route.
func (m *PMTU) SetOverhead(now time.Time, overhead, route int) {
	if overhead == m.c.Overhead {
		return
	}
	m.c.Overhead = overhead
	if m.bound != 0 {
		m.bound = m.Limit(route)
		m.mtu = min(m.mtu, m.bound)
		m.search(now)
	}
}

// Suspect tells that the path may carry less than before: the MTU in use and
// everything below is tried. The MTU stays until an answer says more.
func (m *PMTU) Suspect(now time.Time) {
	if m.bound != 0 {
		m.search(now)
	}
}

// Doubt tells that the neighbour is heard and large packets may not arrive: the
// MTU in use is checked as soon as no tests are in progress, and a search that
// waits for its repetition is repeated, if tests were ever answered.
func (m *PMTU) Doubt(now time.Time) {
	if m.bound == 0 {
		return
	}
	if now.Before(m.checkAt) {
		m.checkAt = now
	}
	if m.proven && now.Before(m.retryAt) {
		m.retryAt = now
	}
}

// Shift puts off what is waited for, by a time in which we did not run.
func (m *PMTU) Shift(d time.Duration) {
	for i := range m.trials {
		m.trials[i].next = m.trials[i].next.Add(d)
	}
	if !m.lowerAt.IsZero() {
		m.lowerAt = m.lowerAt.Add(d)
	}
}

// Acked takes the answer to a test of size bytes. Answers that are repeated,
// late, or to nothing that was tested are harmless.
func (m *PMTU) Acked(now time.Time, size int) {
	if !slices.ContainsFunc(m.sent, func(t tested) bool { return t.size == size && now.Sub(t.at) < ackLife }) {
		return
	}
	if size <= m.bound && size > m.good {
		m.good = size
		if m.bad <= size {
			m.bad = m.bound + 1
		}
	}
	m.proven = true
	m.mtu = max(m.mtu, m.good)
	m.trials = slices.DeleteFunc(m.trials, func(t trial) bool { return t.size <= size })
	if !m.answered && !m.checking {
		m.answered = true
		m.lowerAt = now.Add(answerSlip)
	}
	m.conclude(now)
}

// Next appends the sizes to test now, in bytes of inner IP packet, and moves the
// machine on.
func (m *PMTU) Next(now time.Time, sizes []int) []int {
	if m.bound == 0 {
		return sizes
	}
	m.lower(now)
	m.expire(now)
	m.conclude(now)
	m.begin(now)
	for i := range m.trials {
		t := &m.trials[i]
		if t.next.After(now) || t.tries == len(tryWaits) {
			continue
		}
		t.next = now.Add(tryWaits[t.tries])
		t.tries++
		sizes = append(sizes, t.size)
		m.note(now, t.size)
	}
	return sizes
}

// Testing reports whether tests are in progress.
func (m *PMTU) Testing() bool { return len(m.trials) > 0 }

// Due is when Next wants to be called; zero: never.
func (m *PMTU) Due() time.Time {
	var due time.Time
	earliest := func(t time.Time) {
		if !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	if m.bound == 0 {
		return due
	}
	if m.mtu > m.good {
		earliest(m.lowerAt)
	}
	for _, t := range m.trials {
		earliest(t.next)
	}
	switch {
	case len(m.trials) > 0:
	case !m.retryAt.IsZero():
		earliest(m.retryAt)
	default:
		earliest(m.checkAt)
		earliest(m.raiseAt)
	}
	return due
}

// search starts over below the MTU in use, which stays until an answer came.
func (m *PMTU) search(now time.Time) {
	m.good, m.bad = 0, m.bound+1
	m.answered, m.checking = false, false
	m.lowerAt, m.retryAt = time.Time{}, time.Time{}
	if !m.proven {
		m.lowerAt = now.Add(optimism)
	}
	m.checkAt = now.Add(m.c.Verify)
	m.raiseAt = now.Add(m.raiseWait)
	m.try(now, m.ladder(m.c.Floor, m.mtu))
}

// ladder lists the candidates from low to high, both included, largest first.
func (m *PMTU) ladder(low, high int) []int {
	sizes := []int{high}
	for _, r := range rungs {
		if c := r - m.c.Overhead; c > low && c < high {
			sizes = append(sizes, c)
		}
	}
	if low < high {
		sizes = append(sizes, low)
	}
	return sizes
}

// try makes a round of the candidates. A size that cannot be tested counts as
// failed.
func (m *PMTU) try(now time.Time, sizes []int) {
	m.trials = m.trials[:0]
	for _, c := range sizes {
		if m.c.Skip != nil && m.c.Skip(c) {
			m.bad = min(m.bad, c)
			continue
		}
		m.trials = append(m.trials, trial{size: c, next: now})
	}
	m.conclude(now)
}

// lower gives up an MTU that was not verified in time.
func (m *PMTU) lower(now time.Time) {
	if m.lowerAt.IsZero() || now.Before(m.lowerAt) {
		return
	}
	m.lowerAt = time.Time{}
	if m.good > 0 {
		m.mtu = min(m.mtu, m.good)
		return
	}
	m.mtu = min(m.mtu, m.c.Safe)
}

// expire takes candidates that were tried often enough for failing.
func (m *PMTU) expire(now time.Time) {
	m.trials = slices.DeleteFunc(m.trials, func(t trial) bool {
		failed := t.tries == len(tryWaits) && !t.next.After(now)
		if failed && !m.checking && t.size > m.good {
			m.bad = min(m.bad, t.size)
		}
		if failed && m.checking {
			m.answered = false
		}
		return failed
	})
}

// conclude ends a round all of whose candidates are answered or have failed.
func (m *PMTU) conclude(now time.Time) {
	if len(m.trials) > 0 {
		return
	}
	switch {
	case m.checking:
		m.checking = false
		if !m.answered {
			m.search(now)
		}
	case m.good == 0:
		if m.retryAt.IsZero() {
			m.retryAt = now.Add(m.retryWait)
			m.retryWait = min(2*m.retryWait, retryLast)
		}
	case m.bad-m.good > 1:
		m.try(now, m.split())
	default:
		m.mtu = m.good
		m.lowerAt, m.retryAt = time.Time{}, time.Time{}
		m.retryWait = retryFirst
	}
}

// split spreads candidates evenly between what works and what does not.
func (m *PMTU) split() []int {
	n := min(splitWidth, m.bad-m.good-1)
	sizes := make([]int, 0, n)
	for i := n; i > 0; i-- {
		sizes = append(sizes, m.good+(m.bad-m.good)*i/(n+1))
	}
	return sizes
}

// begin starts the round that is due, if none runs.
func (m *PMTU) begin(now time.Time) {
	if len(m.trials) > 0 {
		return
	}
	switch {
	case !m.retryAt.IsZero():
		if !now.Before(m.retryAt) {
			m.search(now)
		}
	case !now.Before(m.raiseAt) && m.raise(now):
	case !now.Before(m.checkAt):
		m.checkAt = now.Add(m.c.Verify)
		m.checking, m.answered = true, true
		m.try(now, []int{m.mtu})
	}
}

// raise looks for more than the MTU in use, and reports whether there may be more.
func (m *PMTU) raise(now time.Time) bool {
	m.raiseWait = min(2*m.raiseWait, raiseLast)
	m.raiseAt = now.Add(m.raiseWait)
	if m.mtu >= m.bound {
		return false
	}
	m.good, m.bad = m.mtu, m.bound+1
	m.try(now, m.ladder(m.mtu+1, m.bound))
	return true
}

// note remembers that a size was tested, and forgets old tests.
func (m *PMTU) note(now time.Time, size int) {
	m.sent = slices.DeleteFunc(m.sent, func(t tested) bool {
		return t.size == size || now.Sub(t.at) >= ackLife
	})
	m.sent = append(m.sent, tested{size, now})
}
