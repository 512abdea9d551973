package transporttest

import (
	"testing"
	"time"

	"meshd/internal/frame"
)

// Times of paths that rest.
const (
	restAfter  = 15 * time.Second // without frames
	restProbed = 25 * time.Second // the longest time between two probes
	doubtTime  = 1300 * time.Millisecond
	// restDatagrams is how many datagrams an end sends at most in 5 minutes of rest:
	// 30 heartbeats of sleeve, fewer than 40 probes, and answers.
	restDatagrams = 100
)

func resting(o *Options) { o.Rests = true }

func datagrams(s *Side) uint64 { return s.Counters.Tx.Stats().Datagrams }

// rests lets the path be for five minutes.
func (s suite) rests(t *testing.T) {
	p, c := s.connect(t, resting)
	wait(restAfter)
	c.A.States()
	c.B.States()
	a, b := datagrams(c.A), datagrams(c.B)
	wait(5 * time.Minute)
	a, b = datagrams(c.A)-a, datagrams(c.B)-b
	t.Logf("%d and %d datagrams in 5 minutes", a, b)
	if a > restDatagrams || b > restDatagrams || a < 20 || b < 20 {
		t.Errorf("%d and %d datagrams in 5 minutes, want 20 to %d", a, b, restDatagrams)
	}
	for _, x := range c.Sides() {
		for _, st := range x.States() {
			if !st.Up || st.Doubtful {
				t.Fatalf("up %v, doubtful %v (%s) while the path rests and works", st.Up, st.Doubtful, st.Why)
			}
		}
	}
	works(t, p, c)
}

// diesResting cuts a path that rests: it is found out soon when it is used, and
// otherwise by the next probe.
func (s suite) diesResting(t *testing.T) {
	for _, used := range []bool{true, false} {
		p, c := s.connect(t, resting)
		wait(restAfter + 2*time.Minute)
		cut := lan
		cut.Cut = true
		p.Net.Connect(p.A.Host, p.B.Host, cut)
		within := restProbed + deathWithin
		if used {
			send(t, c.A.Path, packet(p.A, p.B, Frame(1, 100)))
			send(t, c.B.Path, packet(p.B, p.A, Frame(1, 100)))
			start := time.Now()
			for _, x := range c.Sides() {
				Eventually(t, doubtTime-time.Since(start), "path is doubtful", func() bool { return x.State().Doubtful })
			}
			within = deathWithin - time.Since(start)
		}
		start := time.Now()
		for _, x := range c.Sides() {
			Eventually(t, within-time.Since(start), "path is down", func() bool { return !x.State().Up })
		}
		wait(30 * time.Second)
		p.Net.Connect(p.A.Host, p.B.Host, lan)
		c.Up(t, upWithin)
		works(t, p, c)
		c.A.Stop()
		c.B.Stop()
	}
}

// diesBusy cuts a path that may rest and carries frames, in one direction only.
func (s suite) diesBusy(t *testing.T) {
	for _, oneWay := range []bool{false, true} {
		p, c := s.connect(t, resting)
		for range 200 {
			send(t, c.A.Path, packet(p.A, p.B, Frame(1, 100)))
			wait(100 * time.Millisecond)
		}
		cut := lan
		cut.Cut = true
		p.Net.SetLink(p.A.Host, p.B.Host, cut)
		if !oneWay {
			p.Net.SetLink(p.B.Host, p.A.Host, cut)
		}
		start := time.Now()
		for _, x := range c.Sides() {
			Eventually(t, deathWithin-time.Since(start), "path is down", func() bool { return !x.State().Up })
		}
		c.A.Stop()
		c.B.Stop()
	}
}

// lostResting loses the session of a path that rests: it proves itself, or ends.
func (s suite) lostResting(t *testing.T) {
	p, c := s.connect(t, resting)
	wait(restAfter + time.Minute)
	c.A.Lose()
	c.B.Lose()
	wait(time.Minute)
	works(t, p, c)
	cut := lan
	cut.Cut = true
	p.Net.Connect(p.A.Host, p.B.Host, cut)
	for _, x := range c.Sides() {
		ended(t, x, deathWithin)
	}
}

// restsForgotten puts a NAT before one end that forgets mappings after 10 s. Frames
// to that end, after any time of idleness, are lost for a moment at most.
func (s suite) restsForgotten(t *testing.T) {
	p, c := s.connect(t, resting, func(o *Options) { o.NAT = true })
	p.NAT.Forget(10 * time.Second)
	lost, late := 0, 0
	for i := range uint64(60) {
		wait(time.Duration(20+i) * 1100 * time.Millisecond)
		p.A.Take()
		sent := 0
		for len(p.A.Take()) == 0 {
			if sent++; sent > 30 {
				t.Fatalf("no frame got through in 3 s, %d times idle", i)
			}
			if c.B.State().Up {
				_ = c.B.Path.Send(frame.Packet{Src: p.B.Peer.Name, Dst: p.A.Peer.Name, Frame: frame.Frame{Data: Frame(i, 100)}})
				_ = c.B.Path.Flush()
			}
			wait(100 * time.Millisecond)
		}
		if sent > 1 {
			if lost++; i >= 20 {
				late++
			}
		}
	}
	t.Logf("first frames lost: %d of 60, %d of the last 40", lost, late)
	if late > 2 {
		t.Errorf("%d of the last 40 first frames were lost", late)
	}
}

// restsOneEnd lets one end be and not the other, which judges by silence.
func (s suite) restsOneEnd(t *testing.T) {
	p, c := s.connect(t, func(o *Options) { o.RestsB = true })
	wait(restAfter)
	c.A.States()
	c.B.States()
	wait(5 * time.Minute)
	for _, x := range c.Sides() {
		for _, st := range x.States() {
			if !st.Up || st.Doubtful {
				t.Fatalf("up %v, doubtful %v (%s) while one end rests", st.Up, st.Doubtful, st.Why)
			}
		}
	}
	cut := lan
	cut.Cut = true
	p.Net.Connect(p.A.Host, p.B.Host, cut)
	start := time.Now()
	Eventually(t, deathWithin, "path of the end that does not rest is down", func() bool { return !c.A.State().Up })
	Eventually(t, restProbed+deathWithin-time.Since(start), "path of the end that rests is down", func() bool { return !c.B.State().Up })
}

// hurried asks a path that rests whether it works, while it does and after.
func (s suite) hurried(t *testing.T) {
	p, c := s.connect(t, resting)
	wait(restAfter + time.Minute)
	hurry := c.A.Path.(interface{ Hurry() }).Hurry
	if !c.A.State().Unproven {
		t.Error("a path that rests is taken for proven")
	}
	c.A.States()
	hurry()
	wait(2 * rtt)
	if c.A.State().Unproven {
		t.Error("a path that has answered is not taken for proven")
	}
	for _, st := range c.A.States() {
		if !st.Up || st.Doubtful {
			t.Errorf("up %v, doubtful %v of a path that was asked and works", st.Up, st.Doubtful)
		}
	}
	wait(3 * time.Second)
	cut := lan
	cut.Cut = true
	p.Net.Connect(p.A.Host, p.B.Host, cut)
	start := time.Now()
	hurry()
	Eventually(t, doubtTime, "path is doubtful", func() bool { return c.A.State().Doubtful })
	Eventually(t, deathWithin-time.Since(start), "path is down", func() bool { return !c.A.State().Up })
}
