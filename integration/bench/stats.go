package main

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// median is the middle of the values, the mean of the two middle ones where
// their number is even; NaN without values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

// percentile is the smallest of the sorted values that p of 100 do not exceed.
func percentile[T cmp.Ordered](sorted []T, p float64) T {
	i := int(math.Ceil(p/100*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// latency is what a series of round trips took.
type latency struct {
	n, lost  int
	p50, p99 time.Duration
}

// latencyOf sorts the round trips, of which there must be one.
func latencyOf(trips []time.Duration, lost int) latency {
	slices.Sort(trips)
	return latency{len(trips), lost, percentile(trips, 50), percentile(trips, 99)}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
