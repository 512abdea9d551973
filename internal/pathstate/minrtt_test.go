package pathstate

import (
	"testing"
	"time"
)

func TestMinRTT(t *testing.T) {
	const ms = time.Millisecond
	type sample struct {
		at  time.Duration // after the first moment
		rtt time.Duration
	}
	for _, tt := range []struct {
		name    string
		samples []sample
		at      time.Duration
		want    time.Duration
	}{
		{"none", nil, time.Hour, 0},
		{"one", []sample{{0, 40 * ms}}, 0, 40 * ms},
		{"a larger one does not count", []sample{{0, 40 * ms}, {time.Second, 90 * ms}}, time.Second, 40 * ms},
		{"a smaller one counts at once", []sample{{0, 40 * ms}, {time.Second, 30 * ms}}, time.Second, 30 * ms},
		{"kept for four minutes", []sample{{59 * time.Second, 1 * ms}, {4 * time.Minute, 9 * ms}}, 5*time.Minute - 1, 1 * ms},
		{"gone after five", []sample{{0, 1 * ms}, {4 * time.Minute, 9 * ms}}, 5 * time.Minute, 9 * ms},
		{"all gone after a silence", []sample{{0, 1 * ms}}, 5 * time.Minute, 0},
		{"a silence of hours", []sample{{0, 1 * ms}, {9 * time.Hour, 7 * ms}}, 9*time.Hour + time.Minute, 7 * ms},
		{"a clock that steps back", []sample{{time.Minute, 5 * ms}, {0, 3 * ms}}, 0, 3 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t0 := time.Unix(9000, 0)
			var m minRTT
			for _, s := range tt.samples {
				m.add(t0.Add(s.at), s.rtt)
			}
			if got := m.get(t0.Add(tt.at)); got != tt.want {
				t.Errorf("minimum = %v, want %v", got, tt.want)
			}
		})
	}
}

// The minimum is that of the samples of the window, however they fall.
func TestMinRTTIsTheWindows(t *testing.T) {
	var m minRTT
	t0 := time.Unix(9000, 0)
	var all []time.Duration // one each 10 s
	for i := range 200 {
		rtt := time.Duration(1+(i*37)%101) * time.Millisecond
		all = append(all, rtt)
		now := t0.Add(time.Duration(i) * 10 * time.Second)
		m.add(now, rtt)
		first := max(0, i/6-minRTTSlots+1) * 6 // of the oldest minute in the window
		want := all[first]
		for _, d := range all[first:] {
			want = min(want, d)
		}
		if got := m.get(now); got != want {
			t.Fatalf("after %d samples: minimum = %v, want %v", i+1, got, want)
		}
	}
}
