package transport

import (
	"context"
	"time"
)

// sampleEvery is how often the counters of all links are read for rates.
const sampleEvery = time.Second

// Rate is how fast one direction of a path is.
type Rate struct {
	Frames float64 `json:"frames_per_second"`
	Bits   float64 `json:"bits_per_second"` // of frames: Ethernet header included, FCS not
}

// meter remembers the last two samples of a path's counters. A rate is what came
// since the older one, so that it is over one to two seconds, and up to date, at
// whatever moment it is asked for. The zero value is ready.
//
//	old ────── 1 s ────── new ─── 0 to 1 s ─── now
//	 └──────────────── rate ────────────────────┘
type meter struct{ old, new sample }

// sample is a reading of both directions' counters.
type sample struct {
	at     time.Time // zero: none
	tx, rx tally
}

type tally struct{ frames, bytes uint64 }

func (f *Flow) tally() tally { return tally{f.frames.Load(), f.bytes.Load()} }

// sample reads the counters. The first sample is all there is to go by until the
// next one. Needs the link's mutex.
func (c *Counters) sample(now time.Time) {
	m := &c.meter
	m.old, m.new = m.new, sample{now, c.Tx.tally(), c.Rx.tally()}
	if m.old.at.IsZero() {
		m.old = m.new
	}
}

// rates are the rates up to now; nil: there is no sample that is old enough.
// Needs the link's mutex.
func (c *Counters) rates(now time.Time) (tx, rx *Rate) {
	old := &c.meter.old
	passed := now.Sub(old.at)
	if old.at.IsZero() || passed < sampleEvery/2 {
		return nil, nil
	}
	return c.Tx.tally().since(old.tx, passed), c.Rx.tally().since(old.rx, passed)
}

// since is the rate of what was counted in a time. Counters do not go back, but
// never is a rate negative.
func (t tally) since(old tally, passed time.Duration) *Rate {
	return &Rate{
		Frames: float64(t.frames-min(old.frames, t.frames)) / passed.Seconds(),
		Bits:   8 * float64(t.bytes-min(old.bytes, t.bytes)) / passed.Seconds(),
	}
}

// sample reads the counters of all transports over which there was a path.
func (l *Link) sample(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.counters {
		c.sample(now)
	}
}

// sampleAll reads the counters of all links every second until ctx is done.
func (s *Set) sampleAll(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			for _, l := range s.links {
				l.sample(time.Now())
			}
			s.mu.Unlock()
		}
	}
}
