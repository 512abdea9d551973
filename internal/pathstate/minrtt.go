package pathstate

import "time"

// The minimum round-trip time is that of the last minRTTSlots minutes, the
// current one included: one path after another may belong to an address, and
// what it once was must not stand for ever (RFC 9002, section 5.2, leaves the
// window to the endpoint).
const (
	minRTTSlots = 5
	minRTTSlot  = time.Minute
)

// minRTT is a minimum over a window of time. The zero value is ready.
type minRTT struct {
	began time.Time                  // of the newest slot
	slots [minRTTSlots]time.Duration // the newest first; 0: no sample
}

// add takes a sample.
func (m *minRTT) add(now time.Time, rtt time.Duration) {
	m.advance(now)
	if m.slots[0] == 0 || rtt < m.slots[0] {
		m.slots[0] = rtt
	}
}

// get is the minimum; 0: no sample in the window.
func (m *minRTT) get(now time.Time) time.Duration {
	m.advance(now)
	least := time.Duration(0)
	for _, d := range m.slots {
		if d != 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// advance makes room for the slot that now belongs to.
func (m *minRTT) advance(now time.Time) {
	passed := now.Sub(m.began) / minRTTSlot
	switch {
	case passed <= 0:
	case passed >= minRTTSlots:
		*m = minRTT{began: now}
	default:
		copy(m.slots[passed:], m.slots[:])
		clear(m.slots[:passed])
		m.began = m.began.Add(passed * minRTTSlot)
	}
}
