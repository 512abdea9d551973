package pathstate

import (
	"testing"
	"time"
)

// lifeSim lets a life of a meshd neighbour see events at times after its begin.
type lifeSim struct {
	Life
	begun time.Time
	heard time.Time
}

func newLifeSim(native bool) *lifeSim {
	s := &lifeSim{begun: time.Unix(5000, 0)}
	s.Begin(s.begun, native)
	s.heard = s.begun
	s.Reach(s.begun)
	s.at(0)
	return s
}

func (s *lifeSim) at(d time.Duration) *lifeSim {
	s.Judge(s.begun.Add(d), s.heard, true, false)
	return s
}

func (s *lifeSim) hear(d time.Duration) { s.heard = s.begun.Add(d) }

func TestLifeBothDirections(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name           string
		heard, reached time.Duration // last
		at             time.Duration
		up             bool
		why            string
	}{
		{"both fresh", 900 * ms, 900 * ms, 1000 * ms, true, ""},
		{"silent for 2.1 s", 0, 2000 * ms, 2100 * ms, true, ""},
		{"silent for 2.2 s", 0, 2100 * ms, 2200 * ms, false, notHeardWhy},
		{"not reached for 2.1 s", 2000 * ms, 0, 2100 * ms, true, ""},
		{"not reached for 2.2 s", 2100 * ms, 0, 2200 * ms, false, notReachedWhy},
		{"nothing", 0, 0, 2300 * ms, false, notHeardWhy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newLifeSim(true)
			s.hear(tt.heard)
			s.Reach(s.begun.Add(tt.reached))
			s.at(tt.at)
			if s.Up != tt.up || s.Why != tt.why {
				t.Errorf("up = %v %q, want %v %q", s.Up, s.Why, tt.up, tt.why)
			}
		})
	}
}

func TestLifeReturns(t *testing.T) {
	s := newLifeSim(true)
	s.at(3 * time.Second)
	s.hear(10 * time.Second)
	if s.at(10 * time.Second); s.Up {
		t.Error("up although the neighbour does not hear us")
	}
	s.Reach(s.begun.Add(9500 * time.Millisecond))
	if s.at(10 * time.Second); !s.Up {
		t.Error("not up although both directions work")
	}
}

// A stall of our own is not the neighbour's silence, but what follows it is.
func TestLifeStall(t *testing.T) {
	for _, before := range []time.Duration{0, time.Second, 2100 * time.Millisecond} {
		s := newLifeSim(true)
		s.at(before)
		const stall = 30 * time.Second
		now := before + stall
		s.Stalled(s.begun.Add(now), stall)
		if s.at(now); !s.Up {
			t.Errorf("down after a stall that began after %v of silence", before)
		}
		left := max(deadAfter-before, stallGrace)
		if s.at(now + left - time.Millisecond); !s.Up {
			t.Errorf("down earlier than %v after the stall", left)
		}
		if s.at(now + left); s.Up {
			t.Errorf("up %v after the stall without a sign of life", left)
		}
	}
}

func TestLifeQuestion(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name  string
		event func(s *lifeSim)
		up    bool
	}{
		{"nothing", func(s *lifeSim) {}, false},
		{"what was under way", func(s *lifeSim) { s.hear(5100 * ms); s.Reach(s.begun.Add(5100 * ms)) }, false},
		{"reply to an older probe", func(s *lifeSim) { s.Replied(s.begun.Add(5050*ms), s.begun.Add(4999*ms)) }, false},
		{"reply", func(s *lifeSim) { s.Replied(s.begun.Add(5050*ms), s.begun.Add(5000*ms)); s.hear(5050 * ms) }, true},
		{"data", func(s *lifeSim) { s.hear(5300 * ms) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newLifeSim(true)
			s.hear(4900 * ms)
			s.Reach(s.begun.Add(4900 * ms))
			s.Question(s.begun.Add(5000 * ms))
			tt.event(s)
			if s.at(5999 * ms); !s.Up {
				t.Error("down before its time was over")
			}
			if s.at(6000 * ms); s.Up != tt.up {
				t.Errorf("up = %v, want %v", s.Up, tt.up)
			}
		})
	}
	s := newLifeSim(true)
	s.Question(s.begun)
	s.Stalled(s.begun.Add(5*time.Second), 5*time.Second)
	if s.at(5500 * ms); !s.Up {
		t.Error("down although we did not run since the question")
	}
}

func TestLifeStock(t *testing.T) {
	s := newLifeSim(false)
	if s.at(59 * time.Second); !s.Up || s.Expired {
		t.Errorf("up %v, expired %v after 59 s, want up", s.Up, s.Expired)
	}
	if s.at(60 * time.Second); !s.Expired {
		t.Error("not expired after 60 s")
	}
	s = newLifeSim(false)
	s.hear(50 * time.Second)
	if s.at(100 * time.Second); s.Expired {
		t.Error("expired 50 s after a heartbeat")
	}
}

// A path whose signs of life are overdue is doubtful before it is down, in either
// direction, and stops being so with the next one.
func TestDoubtful(t *testing.T) {
	start := time.Unix(9000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	for _, tt := range []struct {
		name           string
		heard, reached time.Duration
		now            time.Duration
		want           bool
	}{
		{"both fresh", time.Second, time.Second, 1500 * time.Millisecond, false},
		{"quiet", time.Second, time.Second, time.Second + doubtAfter - 1, false},
		{"silent", time.Second, 2 * time.Second, time.Second + doubtAfter, true},
		{"not reached", 2 * time.Second, time.Second, time.Second + doubtAfter, true},
		{"heard again", time.Second + doubtAfter, time.Second + doubtAfter, time.Second + doubtAfter, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l Life
			l.Begin(start, true)
			l.Reach(start)
			l.Judge(start, start, true, false)
			l.Reach(at(tt.reached))
			if l.Judge(at(tt.now), at(tt.heard), true, false); !l.Up {
				t.Fatal("the path is down")
			}
			if got := l.Doubtful(at(tt.now), at(tt.heard)); got != tt.want {
				t.Errorf("Doubtful = %v, want %v", got, tt.want)
			}
		})
	}
	stock := Life{Up: true}
	if stock.Doubtful(at(time.Hour), start) {
		t.Error("a stock neighbour, which answers no probes, is doubtful")
	}
}
