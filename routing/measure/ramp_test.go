package measure

import (
	"slices"
	"testing"
	"time"
)

func TestRampFindsAnyCapacity(t *testing.T) {
	for capacity := 50.0; capacity < highRate/fast; capacity *= 1.7 {
		r := newRamp()
		rounds := 0
		for ; !r.done && rounds < 100; rounds++ {
			if r.rate <= capacity {
				r.passed(r.rate)
			} else {
				r.failed(capacity)
			}
		}
		if r.good > capacity || r.good < capacity*guessShare/closeness || rounds > 30 {
			t.Errorf("capacity %.0f: found %.0f in %d rounds", capacity, r.good, rounds)
		}
	}
}

func TestRampForgivesOneBadRound(t *testing.T) {
	r := newRamp()
	for n := 1; !r.done; n++ {
		if n%3 == 0 || r.rate > 5000 {
			r.failed(r.rate * 0.9)
		} else {
			r.passed(r.rate)
		}
	}
	if r.good < 5000/closeness {
		t.Errorf("found %.0f, want about 5000", r.good)
	}
}

func TestRampEnds(t *testing.T) {
	r := newRamp()
	for n := 0; !r.done; n++ {
		if r.failed(0); n > 20 {
			t.Fatal("does not end where every round is bad")
		}
	}
	r = newRamp()
	for n := 0; !r.done; n++ {
		if r.passed(r.rate); n > 20 {
			t.Fatal("does not end where every round is good")
		}
	}
	r = newRamp()
	for n := 1; !r.done; n++ {
		r.passed(min(r.rate, 20*firstRate))
		if n%3 == 0 {
			r.passed(r.rate / 10) // held up, for once
		}
		if n > 20 {
			t.Fatal("does not end where the sender is slow")
		}
	}
	if r.good != 20*firstRate {
		t.Errorf("a slow sender: good %.0f, want %d", r.good, 20*firstRate)
	}
}

func TestPercentile(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(i+1))
	}
	for _, tt := range []struct {
		list []time.Duration
		p    int
		want time.Duration
	}{{d, 50, 50}, {d, 99, 99}, {d, 100, 100}, {d[:1], 99, 1}, {d[:3], 50, 2}, {nil, 50, 0}, {slices.Clone(d[:2]), 0, 1}} {
		if got := percentile(tt.list, tt.p); got != tt.want {
			t.Errorf("percentile %d of %d = %d, want %d", tt.p, len(tt.list), got, tt.want)
		}
	}
}
