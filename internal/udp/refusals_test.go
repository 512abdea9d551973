package udp

import (
	"net/netip"
	"testing"
	"time"
)

func TestRefusals(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	var r refusals
	if r.has(a, true, 1400) {
		t.Error("an empty table refuses")
	}
	r.add(start, a, true, 1400)
	r.add(start.Add(time.Second), b, false, 0)
	tests := []struct {
		after time.Duration
		to    netip.Addr
		df    bool
		size  int
		want  bool
	}{
		{1, a, true, 1400, true},
		{1, a, true, 1401, true},
		{1, a, true, 1399, false},
		{1, a, false, 1400, false},
		{1, b, true, 1400, false},
		{1, b, false, 1, true},
		{refusedFor - 1, a, true, 1400, true},
		{refusedFor, a, true, 1400, false},
		{refusedFor, b, false, 1400, true},
	}
	for _, tt := range tests {
		if got := r.hasAt(start.Add(tt.after), tt.to, tt.df, tt.size); got != tt.want {
			t.Errorf("after %v: %v, df %v, %d bytes: %v, want %v", tt.after, tt.to, tt.df, tt.size, got, tt.want)
		}
	}
	// The smaller size counts, unless it is out of date.
	r.add(start, a, true, 1200)
	r.add(start, a, true, 1300)
	if !r.hasAt(start, a, true, 1200) {
		t.Error("a larger size has taken the place of a smaller")
	}
	r.add(start.Add(refusedFor), a, true, 1400)
	if r.hasAt(start.Add(refusedFor), a, true, 1300) {
		t.Error("an old size counts")
	}
	r.forget()
	if r.hasAt(start, b, false, 1) || r.has(b, false, 1) {
		t.Error("a forgotten one refuses")
	}
}

// TestRefusalsAreBounded: more of them push the oldest out.
func TestRefusalsAreBounded(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ip := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	var r refusals
	for i := range 3 * maxRefusals {
		r.add(start.Add(time.Duration(i)), ip(i), true, 1)
	}
	now := start.Add(time.Second)
	for i := range 3 * maxRefusals {
		if got, want := r.hasAt(now, ip(i), true, 1), i >= 2*maxRefusals; got != want {
			t.Errorf("entry %d is there: %v, want %v", i, got, want)
		}
	}
}
