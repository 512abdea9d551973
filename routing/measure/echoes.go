package measure

import (
	"slices"
	"sync"
	"time"
)

// keptEchoes is how many echoes may be on their way at once; older ones are lost.
const keptEchoes = 1024

// echoes measures round-trip times. All methods may be called concurrently.
type echoes struct {
	mu       sync.Mutex // guards below
	next     uint32     // sequence number of the next one
	since    uint32     // that of the first one that counts
	sent     [keptEchoes]time.Time
	samples  []time.Duration // of those that count
	received chan struct{}   // capacity 1: one came
}

func newEchoes() *echoes { return &echoes{received: make(chan struct{}, 1)} }

// begin forgets what was measured.
func (e *echoes) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.since, e.samples = e.next, nil
}

// send notes that one leaves, and returns its sequence number.
func (e *echoes) send(now time.Time) uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.next
	e.next++
	e.sent[n%keptEchoes] = now
	return n
}

// replied takes a reply. One that was not asked for, or comes twice, or far too
// late, does not count.
func (e *echoes) replied(sequence uint32, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := &e.sent[sequence%keptEchoes]
	if sequence < e.since || sequence >= e.next || e.next-sequence > keptEchoes || at.IsZero() {
		return
	}
	e.samples = append(e.samples, now.Sub(*at))
	*at = time.Time{}
	select {
	case e.received <- struct{}{}:
	default:
	}
}

// RTT is what a number of echoes told.
type RTT struct {
	Sent, Received int
	P50, P99       time.Duration // 0 where none was received
}

// rtt sums up what was sent since begin.
func (e *echoes) rtt() RTT {
	e.mu.Lock()
	defer e.mu.Unlock()
	sorted := slices.Sorted(slices.Values(e.samples))
	return RTT{
		Sent: int(e.next - e.since), Received: len(sorted),
		P50: percentile(sorted, 50), P99: percentile(sorted, 99),
	}
}

// percentile is the nearest-rank one of a sorted list, 0 of an empty one.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
