package pathstate

import (
	"testing"
	"time"
)

func TestProber(t *testing.T) {
	var b Prober
	now := time.Unix(9000, 0)
	if l := b.Loss(now); l != -1 {
		t.Errorf("loss before any probe = %v, want -1", l)
	}
	if _, ok := b.Replied(now, 0); ok {
		t.Error("a reply to a probe that was never sent counts")
	}
	n := b.Send(now, &Life{})
	if sent, ok := b.Replied(now.Add(40*time.Millisecond), n); !ok || !sent.Equal(now) {
		t.Errorf("reply = %v %v, want %v", sent, ok, now)
	}
	if _, ok := b.Replied(now.Add(50*time.Millisecond), n); ok {
		t.Error("a reply counts twice")
	}
	if b.RTT() != 40*time.Millisecond {
		t.Errorf("RTT = %v, want 40 ms", b.RTT())
	}
	n = b.Send(now, &Life{})
	b.Replied(now.Add(120*time.Millisecond), n)
	if b.RTT() != 50*time.Millisecond { // 7/8·40 + 1/8·120
		t.Errorf("smoothed RTT = %v, want 50 ms", b.RTT())
	}
	if got := b.MinRTT(now); got != 40*time.Millisecond {
		t.Errorf("least RTT = %v, want 40 ms", got)
	}
	for i := range 200 {
		now = now.Add(probeEvery)
		n := b.Send(now, &Life{})
		if i%4 != 0 {
			b.Replied(now.Add(time.Millisecond), n)
		}
	}
	if l := b.Loss(now.Add(lostAfter)); l != 0.25 {
		t.Errorf("loss = %v, want 0.25", l)
	}
	if got := b.MinRTT(now); got != time.Millisecond {
		t.Errorf("least RTT = %v, want 1 ms", got)
	}
	if _, ok := b.Replied(now, n-probeMemory*4); ok {
		t.Error("a reply to a probe long ago counts")
	}
}

func TestProberDue(t *testing.T) {
	var b Prober
	now := time.Unix(9000, 0)
	l := &Life{}
	l.Begin(now, true)
	due := func(what string, want time.Duration) {
		t.Helper()
		if got := b.Due(now, l).Sub(now); got != want {
			t.Errorf("%s: due in %v, want %v", what, got, want)
		}
	}
	due("nothing sent yet", 0)
	b.Send(now, &Life{})
	due("not up yet", probeEvery)
	now = now.Add(patientAfter)
	b.Send(now, &Life{})
	due("down for long", probePatient)
	l.Reach(now)
	l.Judge(now, now, true, false)
	due("up", probeEvery)
	l.Question(now)
	due("in question", probeAnxious)
	b.Hurry()
	due("in a hurry", 0)
}

// What was lost before a path came up, or came back, says nothing about it.
func TestLossAfterSilence(t *testing.T) {
	var b Prober
	now := time.Unix(1_000_000, 0)
	for range 5 { // nobody is there yet
		b.Send(now, &Life{})
		now = now.Add(probeEvery)
	}
	for range 4 {
		b.Replied(now, b.Send(now, &Life{}))
		now = now.Add(probeEvery)
	}
	if l := b.Loss(now); l != 0 {
		t.Errorf("loss = %v of a path that has just come up, want 0", l)
	}
	for range 30 {
		b.Send(now, &Life{})
		now = now.Add(probeAnxious)
	}
	if l := b.Loss(now); l < 0.8 {
		t.Errorf("loss = %v of a path that carries nothing any more", l)
	}
	b.Replied(now, b.Send(now, &Life{}))
	if l := b.Loss(now.Add(lostAfter)); l != 0 {
		t.Errorf("loss = %v of a path that is back, want 0", l)
	}
	b.Send(now, &Life{})
	if l := b.Loss(now.Add(lostAfter)); l != 1.0/6 {
		t.Errorf("loss = %v, want one of 6", l)
	}
}
