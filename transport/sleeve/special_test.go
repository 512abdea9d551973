package sleeve

import (
	"testing"
	"time"
)

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
