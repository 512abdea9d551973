package udp

import (
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var g gate
	for range 10 { // as many in each second as may be
		for i := range gateMost {
			if g.pass(now) {
				t.Fatalf("shut by error %d of a second", i+1)
			}
		}
		now = now.Add(time.Second + 1)
	}
	for range gateMost {
		g.pass(now)
	}
	if g.open(now.Add(gateQuiet)) {
		t.Error("an open gate is opened")
	}
	if !g.pass(now.Add(time.Second)) || !g.closed {
		t.Fatal("one more error does not shut it")
	}
	now = now.Add(time.Second)
	if g.open(now.Add(gateQuiet - 1)) {
		t.Error("opened too early")
	}
	if !g.open(now.Add(gateQuiet)) || g.closed || g.pass(now.Add(gateQuiet)) {
		t.Error("not opened in time, or shut again at once")
	}
}
