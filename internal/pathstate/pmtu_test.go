package pathstate

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// skipped is a size that the simulated transport cannot test.
const skipped = 59987

// pathSim drives a PMTU over a path that silently drops what is larger than
// carries and answers the rest after rtt.
type pathSim struct {
	m       *PMTU
	now     time.Time
	rtt     time.Duration
	carries int
	loss    float64
	repeat  int // how many times each answer comes
	rng     *rand.Rand
	answers []answer
	tests   int
	idle    int // steps without progress of time
	largest int // MTU in use, the largest ever since reset
}

type answer struct {
	at   time.Time
	size int
}

func newPathSim(overhead, route, carries int, rtt time.Duration) *pathSim {
	s := &pathSim{
		m: NewPMTU(PMTUConfig{Overhead: overhead, Skip: func(size int) bool { return size == skipped }}), now: time.Unix(1_000_000, 0), rtt: rtt,
		carries: carries, repeat: 1, rng: rand.New(rand.NewPCG(1, 2)),
	}
	s.m.SetRoute(s.now, route)
	return s
}

// run lets d pass, in steps as the machine and the answers ask for.
func (s *pathSim) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		for _, c := range s.m.Next(s.now, nil) {
			s.tests++
			if c <= s.carries && s.rng.Float64() >= s.loss {
				for range s.repeat {
					s.answers = append(s.answers, answer{s.now.Add(s.rtt), c})
				}
			}
		}
		s.largest = max(s.largest, s.m.MTU())
		next := end
		if due := s.m.Due(); !due.IsZero() && due.Before(next) {
			next = due
		}
		for _, a := range s.answers {
			if a.at.Before(next) {
				next = a.at
			}
		}
		if !next.Before(end) {
			s.now = end
			return
		}
		if !next.After(s.now) {
			if s.idle++; s.idle > 100 {
				panic("pmtu is due again and again without doing anything")
			}
			next = s.now.Add(time.Microsecond)
		} else {
			s.idle = 0
		}
		s.now = next
		s.answer()
	}
}

func (s *pathSim) answer() {
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool {
		if a.at.After(s.now) {
			return false
		}
		s.m.Acked(s.now, a.size)
		return true
	})
}

func TestPMTUFinds(t *testing.T) {
	tests := []struct {
		name            string
		overhead, route int
		carries         int
		rtt             time.Duration
		within          time.Duration
		want            int
	}{
		{"clean Ethernet, plain", 62, 1500, 1438, time.Millisecond, 100 * time.Millisecond, 1438},
		{"clean Ethernet, encrypted", 86, 1500, 1414, time.Millisecond, 100 * time.Millisecond, 1414},
		{"jumbo", 62, 9000, 8938, time.Millisecond, 100 * time.Millisecond, 8938},
		{"jumbo behind Ethernet", 62, 9000, 1438, 20 * time.Millisecond, 6 * time.Second, 1438},
		{"loopback", 62, 65536, 65473, time.Millisecond, 100 * time.Millisecond, 65473},
		{"black hole of capture 06", 62, 1500, 1342, 2 * time.Millisecond, 6 * time.Second, 1342},
		{"every byte counts", 62, 1500, 1343, 2 * time.Millisecond, 6 * time.Second, 1343},
		{"tunnel in tunnel", 106, 1500, 1234, 60 * time.Millisecond, 6 * time.Second, 1234},
		{"only the floor", 62, 1500, 552, 10 * time.Millisecond, 6 * time.Second, 552},
		{"jumbo that carries little", 62, 9000, 700, 10 * time.Millisecond, 6 * time.Second, 700},
		{"late answers", 62, 1500, 1342, 600 * time.Millisecond, 8 * time.Second, 1342},
		{"answers later than any wait", 62, 1500, 1438, 2500 * time.Millisecond, 6 * time.Second, 1438},
		{"route below the floor", 62, 576, 514, time.Millisecond, time.Second, 552},
		{"loopback that carries 60 KB", 62, 65536, 59999, time.Millisecond, 10 * time.Second, 59999},
		{"next to a size that cannot be tested", 62, 65536, skipped, time.Millisecond, 10 * time.Second, skipped - 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newPathSim(tt.overhead, tt.route, tt.carries, tt.rtt)
			s.run(tt.within)
			if got := s.m.MTU(); got != tt.want {
				t.Errorf("MTU after %v = %d, want %d", tt.within, got, tt.want)
			}
			before := s.tests
			s.run(5 * time.Second)
			if s.tests-before > 60 {
				t.Errorf("%d tests in 5 s after the search", s.tests-before)
			}
		})
	}
}

func TestPMTUTestsOnlyWhatItMay(t *testing.T) {
	s := newPathSim(62, 65536, skipped, time.Millisecond)
	for range 2000 {
		s.run(10 * time.Millisecond)
		for _, x := range s.m.sent {
			if x.size == skipped || x.size < floorMTU || x.size > 65473 {
				t.Fatalf("tested %d", x.size)
			}
		}
	}
}

func TestPMTUConfig(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	m := NewPMTU(PMTUConfig{Overhead: 90, Floor: 1200, Safe: 1250, Verify: time.Second})
	if m.MTU() != 0 || !m.Due().IsZero() || len(m.Next(now, nil)) != 0 {
		t.Error("it does something before it knows the route")
	}
	m.SetRoute(now, 1500)
	sizes := m.Next(now, nil)
	if m.MTU() != 1410 || slices.Max(sizes) != 1410 || slices.Min(sizes) != 1200 {
		t.Errorf("MTU = %d, tests %v; want 1410 and down to 1200", m.MTU(), sizes)
	}
	m.Acked(now, 1410)
	m.Acked(now, 1200)
	if got := m.Due().Sub(now); got != time.Second {
		t.Errorf("due in %v, want the check in a second", got)
	}
	if got := m.Limit(100); got != 1200 {
		t.Errorf("limit of a route of 100 bytes = %d, want the floor 1200", got)
	}
	deaf := NewPMTU(PMTUConfig{Overhead: 90, Safe: 1250})
	deaf.SetRoute(now, 1500)
	deaf.Next(now.Add(2*time.Second), nil)
	if got := deaf.MTU(); got != 1250 {
		t.Errorf("MTU without answers = %d, want 1250", got)
	}
}

func TestPMTUIsLoweredSoon(t *testing.T) {
	s := newPathSim(62, 1500, 1342, 5*time.Millisecond)
	if got := s.m.MTU(); got != 1438 {
		t.Fatalf("MTU at first = %d, want the route's 1438", got)
	}
	s.run(450 * time.Millisecond)
	if got := s.m.MTU(); got != 1338 { // the rung 1400
		t.Errorf("MTU 450 ms after the start = %d, want the largest answered 1338", got)
	}
	s.largest = 0
	s.run(20 * time.Second)
	if s.largest > 1342 {
		t.Errorf("MTU rose to %d, more than the path carries", s.largest)
	}
}

func TestPMTUWithoutAnswers(t *testing.T) {
	s := newPathSim(62, 1500, 0, time.Millisecond)
	s.run(900 * time.Millisecond)
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU after 0.9 s = %d, want 1438", got)
	}
	s.run(200 * time.Millisecond)
	if got := s.m.MTU(); got != safeMTU {
		t.Errorf("MTU after 1.1 s without answers = %d, want %d", got, safeMTU)
	}
	s.run(10 * time.Minute)
	if s.tests > 15*len(rungs)*len(tryWaits) {
		t.Errorf("%d tests in 10 minutes without answers", s.tests)
	}
	s.carries = 1400
	s.run(2 * time.Minute)
	if got := s.m.MTU(); got != 1400 {
		t.Errorf("MTU after the path began to answer = %d, want 1400", got)
	}
}

func TestPMTUBlackHoleLater(t *testing.T) {
	s := newPathSim(62, 1500, 1438, 5*time.Millisecond)
	s.run(time.Minute)
	s.carries = 1376
	s.run(13 * time.Second)
	if got := s.m.MTU(); got > 1376 || got < 1300 {
		t.Errorf("MTU 13 s after the path shrank to 1376 = %d", got)
	}
	s.run(6 * time.Second)
	if got := s.m.MTU(); got != 1376 {
		t.Errorf("MTU 19 s after the path shrank = %d, want 1376", got)
	}
	s.carries = 1438
	s.run(raiseLast + time.Minute)
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU after the path grew again = %d, want 1438", got)
	}
}

func TestPMTUKeepsMTUWhileNothingIsAnswered(t *testing.T) {
	s := newPathSim(62, 1500, 1438, 5*time.Millisecond)
	s.run(time.Minute)
	s.carries = 0 // control messages do not come, or the path is dead
	s.run(10 * time.Minute)
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU after 10 min without any answer = %d, want 1438", got)
	}
}

func TestPMTURoute(t *testing.T) {
	s := newPathSim(62, 1500, 1438, 5*time.Millisecond)
	s.run(time.Minute)
	s.m.SetRoute(s.now, 1400)
	if got := s.m.MTU(); got != 1338 {
		t.Errorf("MTU when the kernel says 1400 = %d, want 1338 at once", got)
	}
	s.run(time.Minute)
	if got := s.m.MTU(); got != 1338 {
		t.Errorf("MTU a minute later = %d, want 1338", got)
	}
	s.m.SetRoute(s.now, 9000)
	if got := s.m.MTU(); got != 1338 {
		t.Errorf("MTU when the kernel says 9000 = %d, want 1338 until verified", got)
	}
	s.run(10 * time.Second)
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU after the route grew = %d, want 1438", got)
	}
	s.m.SetRoute(s.now, 1500) // no less than what is in use
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU when the kernel says 1500 = %d, want 1438", got)
	}
	s.m.SetOverhead(s.now, 82, 1500)
	if got := s.m.MTU(); got != 1418 {
		t.Errorf("MTU over IPv6 = %d, want 1418", got)
	}
}

func TestPMTULossAndRepeats(t *testing.T) {
	for seed := range uint64(20) {
		s := newPathSim(62, 1500, 1401, 30*time.Millisecond)
		s.rng = rand.New(rand.NewPCG(seed, 7))
		s.loss, s.repeat = 0.1, 3
		s.run(30 * time.Second)
		if got := s.m.MTU(); got != 1401 {
			t.Errorf("seed %d: MTU over a path that loses 10 %% = %d, want 1401", seed, got)
		}
		s.largest = 0
		s.run(time.Hour)
		if s.m.MTU() != 1401 || s.largest != 1401 {
			t.Errorf("seed %d: MTU after an hour = %d, at most %d, want 1401", seed, s.m.MTU(), s.largest)
		}
	}
}

func TestPMTUIgnoresForeignAnswers(t *testing.T) {
	s := newPathSim(62, 1500, 1342, 5*time.Millisecond)
	s.run(10 * time.Second)
	for _, size := range []int{0, 1, 551, 1343, 1438, 1439, 60000, 65535} {
		s.m.Acked(s.now, size)
	}
	if got := s.m.MTU(); got != 1342 {
		t.Errorf("MTU after answers to nothing = %d, want 1342", got)
	}
}

func TestPMTUShift(t *testing.T) {
	s := newPathSim(62, 1500, 1438, 200*time.Millisecond)
	s.run(100 * time.Millisecond) // tests are out, then the process is stopped
	s.now = s.now.Add(20 * time.Second)
	s.m.Shift(20 * time.Second)
	s.run(time.Millisecond)
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU after a stall = %d, want 1438", got)
	}
	s.answer()
	s.run(time.Second)
	if got := s.m.MTU(); got != 1438 {
		t.Errorf("MTU a second after a stall = %d, want 1438", got)
	}
}

// Doubt finds a hole long before the next verification, and costs one test where
// there is none.
func TestPMTUDoubt(t *testing.T) {
	s := newPathSim(62, 1500, 1438, 20*time.Millisecond)
	s.run(5 * time.Second)
	s.tests = 0
	for range 4 {
		s.m.Doubt(s.now)
		s.run(500 * time.Millisecond)
	}
	if s.tests != 4 || s.m.MTU() != 1438 {
		t.Errorf("four doubts cost %d tests, MTU %d; want 4 and 1438", s.tests, s.m.MTU())
	}
	s.carries = 1338
	for range 6 {
		s.m.Doubt(s.now)
		s.run(500 * time.Millisecond)
	}
	if got := s.m.MTU(); got > 1338 {
		t.Errorf("MTU = %d 3 s after the path shrank to 1338", got)
	}
	s.carries = 0 // and a search without any answer
	s.m.Suspect(s.now)
	s.run(time.Minute)
	s.carries = 1338
	s.m.Doubt(s.now)
	s.tests = 0
	s.run(100 * time.Millisecond)
	if s.tests == 0 {
		t.Error("no test although the neighbour is heard again")
	}
	m := NewPMTU(PMTUConfig{})
	m.Doubt(s.now) // before it has begun
	if !m.Due().IsZero() {
		t.Error("doubt began the search")
	}
}

// A path that shrinks while more than its MTU is looked for is found out.
func TestPMTUShrinksDuringRaise(t *testing.T) {
	for at := 30 * time.Second; at < 32*time.Second; at += 250 * time.Millisecond {
		s := newPathSim(62, 9000, 1438, 20*time.Millisecond)
		s.run(at)
		s.carries = 1338
		for range 8 {
			s.m.Doubt(s.now)
			s.run(500 * time.Millisecond)
		}
		if got := s.m.MTU(); got > 1338 {
			t.Errorf("MTU = %d 4 s after the path shrank to 1338 at %v", got, at)
		}
	}
}
