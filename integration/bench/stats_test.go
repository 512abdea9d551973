package main

import (
	"math"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 4}, 4},
		{[]float64{4, 1, 9, 2}, 3},
	} {
		in := append([]float64(nil), tt.in...)
		if got := median(in); got != tt.want {
			t.Errorf("median(%v) = %v, want %v", tt.in, got, tt.want)
		}
		for i := range in {
			if in[i] != tt.in[i] {
				t.Errorf("median changed %v to %v", tt.in, in)
			}
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v, want NaN", got)
	}
}

func TestPercentile(t *testing.T) {
	var hundred []int
	for i := range 100 {
		hundred = append(hundred, i+1)
	}
	for _, tt := range []struct {
		in   []int
		p    float64
		want int
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {hundred, 100, 100}, {hundred, 0, 1},
		{[]int{7}, 50, 7}, {[]int{7}, 99, 7}, {[]int{1, 2}, 50, 1}, {[]int{1, 2}, 99, 2},
	} {
		if got := percentile(tt.in, tt.p); got != tt.want {
			t.Errorf("percentile(%d values, %v) = %d, want %d", len(tt.in), tt.p, got, tt.want)
		}
	}
}

func TestLatencyOf(t *testing.T) {
	got := latencyOf([]time.Duration{3000, 1000, 2000}, 4)
	if want := (latency{n: 3, lost: 4, p50: 2000, p99: 3000}); got != want {
		t.Errorf("latencyOf = %+v, want %+v", got, want)
	}
	if got := micros(1500 * time.Nanosecond); got != 1.5 {
		t.Errorf("micros = %v, want 1.5", got)
	}
}

func TestAllocationsPerFrame(t *testing.T) {
	idle := background{reading: 1000, perSecond: 500}
	for _, tt := range []struct {
		allocations float64
		want        float64
	}{{2000, 0}, {1500, 0}, {22000, 1}} {
		if got := idle.perFrame(tt.allocations, 2*time.Second, 10000); got != tt.want {
			t.Errorf("%v allocations in 2 s for 10000 frames over two daemons = %v per frame, want %v", tt.allocations, got, tt.want)
		}
	}
}
