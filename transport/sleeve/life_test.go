package sleeve

import (
	"testing"
	"time"
)

// lifeSim lets a life of a meshd neighbour see events at times after its begin.
type lifeSim struct {
	life
	begun time.Time
	heard time.Time
}

func newLifeSim(native bool) *lifeSim {
	s := &lifeSim{begun: time.Unix(5000, 0)}
	s.begin(s.begun, native)
	s.heard = s.begun
	s.reach(s.begun)
	s.at(0)
	return s
}

func (s *lifeSim) at(d time.Duration) *lifeSim {
	s.judge(s.begun.Add(d), s.heard, true, false)
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
			s.reach(s.begun.Add(tt.reached))
			s.at(tt.at)
			if s.up != tt.up || s.why != tt.why {
				t.Errorf("up = %v %q, want %v %q", s.up, s.why, tt.up, tt.why)
			}
		})
	}
}

func TestLifeReturns(t *testing.T) {
	s := newLifeSim(true)
	s.at(3 * time.Second)
	s.hear(10 * time.Second)
	if s.at(10 * time.Second); s.up {
		t.Error("up although the neighbour does not hear us")
	}
	s.reach(s.begun.Add(9500 * time.Millisecond))
	if s.at(10 * time.Second); !s.up {
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
		s.stalled(s.begun.Add(now), stall)
		if s.at(now); !s.up {
			t.Errorf("down after a stall that began after %v of silence", before)
		}
		left := max(deadAfter-before, stallGrace)
		if s.at(now + left - time.Millisecond); !s.up {
			t.Errorf("down earlier than %v after the stall", left)
		}
		if s.at(now + left); s.up {
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
		{"what was under way", func(s *lifeSim) { s.hear(5100 * ms); s.reach(s.begun.Add(5100 * ms)) }, false},
		{"reply to an older probe", func(s *lifeSim) { s.reply(s.begun.Add(4999 * ms)) }, false},
		{"reply", func(s *lifeSim) { s.reply(s.begun.Add(5000 * ms)); s.hear(5050 * ms) }, true},
		{"data", func(s *lifeSim) { s.hear(5300 * ms) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newLifeSim(true)
			s.hear(4900 * ms)
			s.reach(s.begun.Add(4900 * ms))
			s.question(s.begun.Add(5000 * ms))
			tt.event(s)
			if s.at(5999 * ms); !s.up {
				t.Error("down before its time was over")
			}
			if s.at(6000 * ms); s.up != tt.up {
				t.Errorf("up = %v, want %v", s.up, tt.up)
			}
		})
	}
	s := newLifeSim(true)
	s.question(s.begun)
	s.stalled(s.begun.Add(5*time.Second), 5*time.Second)
	if s.at(5500 * ms); !s.up {
		t.Error("down although we did not run since the question")
	}
}

func TestLifeStock(t *testing.T) {
	s := newLifeSim(false)
	if s.at(59 * time.Second); !s.up || s.expired {
		t.Errorf("up %v, expired %v after 59 s, want up", s.up, s.expired)
	}
	if s.at(60 * time.Second); !s.expired {
		t.Error("not expired after 60 s")
	}
	s = newLifeSim(false)
	s.hear(50 * time.Second)
	if s.at(100 * time.Second); s.expired {
		t.Error("expired 50 s after a heartbeat")
	}
}

func TestProber(t *testing.T) {
	var b prober
	now := time.Unix(9000, 0)
	if l := b.loss(now); l != -1 {
		t.Errorf("loss before any probe = %v, want -1", l)
	}
	if _, ok := b.replied(now, 0); ok {
		t.Error("a reply to a probe that was never sent counts")
	}
	n := b.send(now)
	if sent, ok := b.replied(now.Add(40*time.Millisecond), n); !ok || !sent.Equal(now) {
		t.Errorf("reply = %v %v, want %v", sent, ok, now)
	}
	if _, ok := b.replied(now.Add(50*time.Millisecond), n); ok {
		t.Error("a reply counts twice")
	}
	if b.srtt != 40*time.Millisecond {
		t.Errorf("RTT = %v, want 40 ms", b.srtt)
	}
	n = b.send(now)
	b.replied(now.Add(120*time.Millisecond), n)
	if b.srtt != 50*time.Millisecond { // 7/8·40 + 1/8·120
		t.Errorf("smoothed RTT = %v, want 50 ms", b.srtt)
	}
	for i := range 200 {
		now = now.Add(time.Second)
		n := b.send(now)
		if i%4 != 0 {
			b.replied(now.Add(time.Millisecond), n)
		}
	}
	if l := b.loss(now.Add(lostAfter)); l != 0.25 {
		t.Errorf("loss = %v, want 0.25", l)
	}
	if _, ok := b.replied(now, n-probeMemory*4); ok {
		t.Error("a reply to a probe long ago counts")
	}
}

func TestFragTest(t *testing.T) {
	now := time.Unix(9000, 0)
	var f fragTest
	f.passed(now)
	if f.ok {
		t.Error("ok before any test")
	}
	sent := 0
	run := func(d time.Duration) {
		for end := now.Add(d); now.Before(end); now = now.Add(100 * time.Millisecond) {
			if f.next(now) {
				sent++
			}
		}
	}
	run(time.Minute)
	if sent != fragTries || f.ok {
		t.Errorf("%d tries, ok %v without an answer, want %d", sent, f.ok, fragTries)
	}
	f.passed(now) // late
	if !f.ok {
		t.Error("not ok after a late answer")
	}
	sent = 0
	run(fragEvery + 500*time.Millisecond)
	if sent != 1 || !f.ok {
		t.Errorf("%d tries, ok %v after %v, want one and still ok", sent, f.ok, fragEvery)
	}
	run(10 * time.Second)
	if f.ok {
		t.Error("ok although the second test was never answered")
	}
}

func TestSpecialLayout(t *testing.T) {
	want := probe{uid: 0x1122334455667788, sequence: 0xa1b2c3d4, heard: 0x01020304}
	for _, kind := range []special{specialProbe, specialReply} {
		b := want.append(nil, kind)
		if len(b) != probeLen || classify(b, true) != kind || classify(b, false) != specialMTUTest {
			t.Errorf("a probe of kind %d is read as %d in %d bytes", kind, classify(b, true), len(b))
		}
		if got := readProbe(b); got != want {
			t.Errorf("probe = %+v, want %+v", got, want)
		}
		b[kindAt] = 9
		if classify(b, true) != specialMTUTest {
			t.Error("a probe of unknown kind is not taken for an MTU test")
		}
	}
	for n := range 40 {
		b := make([]byte, n)
		if !allZero(b) {
			t.Errorf("%d zero bytes are not all zero", n)
		}
		for i := range b {
			b[i] = 1
			if allZero(b) {
				t.Errorf("byte %d of %d is overlooked", i, n)
			}
			b[i] = 0
		}
	}
}
