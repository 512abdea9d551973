package pathstate

import (
	"testing"
	"time"
)

// restEnd is one end of a path that may rest.
type restEnd struct {
	Life
	prober Prober
	heard  time.Time
	out    time.Time // when it sent something last
	used   bool      // frames flowed since the last step
	sent   int       // probes
	downs  int
	other  *restEnd
	shut   func() bool // whether what it sends is lost
}

// restWay is a way between two ends that takes no time. forgets: b reaches a only
// while a has sent something within that time; 0: always.
type restWay struct {
	now     time.Time
	a, b    *restEnd
	cut     [2]bool // from a, from b
	forgets time.Duration
	tick    time.Duration
}

func newRestWay(forgets time.Duration) *restWay {
	w := &restWay{now: time.Unix(7000, 0), forgets: forgets, tick: 10 * time.Millisecond}
	w.a, w.b = &restEnd{}, &restEnd{}
	w.a.other, w.b.other = w.b, w.a
	w.a.shut = func() bool { return w.cut[0] }
	w.b.shut = func() bool { return w.cut[1] || w.forgets > 0 && w.now.Sub(w.a.out) >= w.forgets }
	for _, e := range []*restEnd{w.a, w.b} {
		e.Begin(w.now, true)
		e.MayRest(nil)
	}
	return w
}

// step lets an end do what is due.
func (e *restEnd) step(now time.Time) {
	up := e.Up
	e.Settle(now, e.used, e.prober.Loss(now))
	e.used = false
	e.Judge(now, e.heard, true, false)
	if up && !e.Up {
		e.downs++
	}
	if due := e.prober.Due(now, &e.Life); now.Before(due) {
		return
	}
	n := e.prober.Send(now, &e.Life)
	ago := now.Sub(e.heard)
	e.sent++
	e.out = now
	if e.shut() {
		return
	}
	o := e.other
	o.heard = now
	o.Asked(now, n, &o.prober)
	o.Reach(now.Add(-ago))
	o.out = now
	if o.shut() {
		return
	}
	e.heard = now
	if sent, ok := e.prober.Replied(now, n); ok {
		e.Life.Replied(now, sent)
	}
}

// frame sends a frame, and reports whether it arrives.
func (e *restEnd) frame(now time.Time) bool {
	e.used, e.out = true, now
	if e.shut() {
		return false
	}
	e.other.used, e.other.heard = true, now
	return true
}

func (w *restWay) run(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(w.tick) {
		w.a.step(w.now)
		w.b.step(w.now)
	}
}

// An idle path is probed now and then, and stays up.
func TestRest(t *testing.T) {
	w := newRestWay(0)
	w.run(8 * time.Second)
	if w.a.Resting() || w.a.sent < 14 {
		t.Errorf("resting %v after 8 s, %d probes; want usual probes at first", w.a.Resting(), w.a.sent)
	}
	w.run(4 * time.Second)
	w.a.sent, w.b.sent = 0, 0
	w.run(5 * time.Minute)
	first := [2]int{w.a.sent, w.b.sent}
	w.a.sent, w.b.sent = 0, 0
	w.run(5 * time.Minute)
	then := [2]int{w.a.sent, w.b.sent}
	t.Logf("probes in 5 minutes: %v, in the next 5 minutes: %v", first, then)
	if max(first[0], first[1]) >= 40 || max(then[0], then[1]) > 21 || min(then[0], then[1]) < 11 {
		t.Errorf("probes in 5 minutes %v, then %v; want fewer than 40, then 11 to 21", first, then)
	}
	if w.a.downs+w.b.downs > 0 || !w.a.Up || !w.b.Up {
		t.Error("a path that works went down")
	}
}

// While frames flow, in either direction, probes and judgement are those of a path
// that may not rest.
func TestNoRestWhileFramesFlow(t *testing.T) {
	for _, from := range []string{"a", "b"} {
		w := newRestWay(0)
		w.run(20 * time.Second)
		w.a.sent, w.b.sent = 0, 0
		for range 60 {
			e := w.a
			if from == "b" {
				e = w.b
			}
			if !e.frame(w.now) {
				t.Fatal("the way is shut")
			}
			w.run(500 * time.Millisecond)
		}
		if w.a.sent < 58 || w.b.sent < 58 {
			t.Errorf("%d and %d probes in 30 s, want 60", w.a.sent, w.b.sent)
		}
		w.cut = [2]bool{true, true}
		w.run(doubtAfter + 20*time.Millisecond)
		if !w.a.Doubtful(w.now, w.a.heard) || !w.b.Doubtful(w.now, w.b.heard) {
			t.Error("not doubtful in time")
		}
		if w.run(deadAfter - doubtAfter); w.a.Up || w.b.Up {
			t.Error("not down in time")
		}
	}
}

// The silence of a rest counts against nobody; silence counts from when frames flow.
func TestRestEndsWithFrames(t *testing.T) {
	w := newRestWay(0)
	w.run(12 * time.Second)
	for !w.a.Resting() || w.now.Sub(w.a.prober.last) < 3*time.Second {
		w.run(10 * time.Millisecond)
	}
	w.cut = [2]bool{true, false}
	w.a.sent = 0
	w.a.frame(w.now)
	if w.run(10 * time.Millisecond); w.a.sent != 1 {
		t.Errorf("%d probes at once, want 1", w.a.sent)
	}
	w.run(doubtAfter - 30*time.Millisecond)
	if w.a.Doubtful(w.now, w.a.heard) {
		t.Error("doubtful too soon")
	}
	if w.run(40 * time.Millisecond); !w.a.Doubtful(w.now, w.a.heard) {
		t.Error("not doubtful in time")
	}
	w.run(deadAfter - doubtAfter - 40*time.Millisecond)
	if !w.a.Up {
		t.Error("down too soon")
	}
	if w.run(40 * time.Millisecond); w.a.Up {
		t.Error("not down in time")
	}
}

// A path that is dead is found out by the next probe of each end.
func TestRestOfTheDead(t *testing.T) {
	for _, cut := range [][2]bool{{true, true}, {true, false}, {false, true}} {
		w := newRestWay(0)
		w.run(3 * time.Minute)
		w.cut = cut
		if w.run(paces[len(paces)-1].most + deadAfter + 20*time.Millisecond); w.a.Up || w.b.Up {
			t.Errorf("cut %v: up = %v and %v, want both down", cut, w.a.Up, w.b.Up)
		}
	}
}

// An end that may not rest, and judges by silence, gets its answers.
func TestRestBesidesWakeful(t *testing.T) {
	w := newRestWay(0)
	w.b.able = false
	w.run(10 * time.Minute)
	if w.b.downs > 0 || w.a.downs > 0 || w.b.sent < 1190 {
		t.Errorf("downs %d and %d, %d probes of the wakeful end", w.a.downs, w.b.downs, w.b.sent)
	}
}

// Where the way closes after a silence, the rests become shorter until it does not.
func TestPaceOfShortMappings(t *testing.T) {
	for _, tt := range []struct {
		forgets time.Duration
		level   int // at most
	}{{10 * time.Second, 1}, {14 * time.Second, 2}, {20 * time.Second, 2}, {30 * time.Second, 3}} {
		lost, late, downs, slow := 0, 0, 0, 0
		for range 5 {
			w := newRestWay(tt.forgets)
			w.tick = 100 * time.Millisecond
			w.run(12 * time.Second)
			for i := range 60 {
				w.run(between(11*time.Second, 70*time.Second))
				if w.b.frame(w.now) {
					continue
				}
				lost++
				if i >= 30 {
					late++
				}
			}
			w.run(3 * time.Minute)
			if got := min(w.a.level, w.b.level); got > tt.level { // the other one keeps the way open
				slow++ // a pace is tried again by and by, so one may be caught at it
			}
			downs += w.a.downs + w.b.downs
		}
		t.Logf("mappings of %v: %d of 300 frames lost, %d late, %d times down", tt.forgets, lost, late, downs)
		if slow > 1 {
			t.Errorf("mappings of %v: a pace above %d on %d of 5 ways", tt.forgets, tt.level, slow)
		}
		if late > 6 {
			t.Errorf("mappings of %v: %d of 150 frames lost after a while", tt.forgets, late)
		}
	}
}

func TestPaceForgets(t *testing.T) {
	var p Pace
	now := time.Unix(7000, 0)
	if !p.allows(now, time.Hour) {
		t.Error("a silence is too long though nothing is known")
	}
	p.note(now, 11*time.Second)
	p.note(now, 20*time.Second)
	if p.allows(now, 12*time.Second) || !p.allows(now, 8*time.Second) {
		t.Error("the shortest silence that was too long does not count")
	}
	if !p.allows(now.Add(paceMemory), 25*time.Second) {
		t.Error("it counts for ever")
	}
}

// A path on which probes are lost does not rest: its loss is measured.
func TestLossyPathDoesNotRest(t *testing.T) {
	w := newRestWay(0)
	n := 0
	w.a.shut = func() bool { n++; return n%7 == 0 } // odd: probes and replies take turns
	w.run(time.Minute)
	w.a.sent = 0
	if w.run(time.Minute); w.a.sent < 100 {
		t.Errorf("%d probes in a minute of a path that loses every seventh", w.a.sent)
	}
	if l := w.a.prober.Loss(w.now); l < 0.05 {
		t.Errorf("loss = %v", l)
	}
}

func TestTraffic(t *testing.T) {
	var f Traffic
	if f.Note() {
		t.Error("Run is roused though the path does not rest")
	}
	if !f.Rest(true) {
		t.Error("frames before the rest are overlooked")
	}
	if !f.Take() || f.Take() {
		t.Error("frames are not taken once")
	}
	if f.Rest(true) || !f.Note() || f.Note() {
		t.Error("Run is not roused once")
	}
}
