package udp

import (
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type heard struct {
		at   time.Duration
		v    Verdict
		want finding
	}
	v := func(runPassed, runFailed, singlePassed, singleFailed int) Verdict {
		return Verdict{runPassed, runFailed, singlePassed, singleFailed}
	}
	const tried = settleTime + doubtWindow
	mangled := heard{0, v(0, doubtFailed, 1, 0), suspected}
	after := func(before heard, says ...heard) []heard { return append([]heard{before}, says...) }
	tests := []struct {
		name string
		says []heard
	}{
		{"all is well", []heard{{0, v(1e6, 0, 9, 0), trusted}, {time.Hour, v(1e6, 0, 9, 0), trusted}}},
		{"too few fail in a window", []heard{
			{0, v(0, doubtFailed-1, 9, 0), trusted},
			{doubtWindow + 1, v(0, 1, 9, 0), trusted},
			{doubtWindow + 2, v(0, doubtFailed-2, 9, 0), trusted},
			{doubtWindow + 3, v(0, 1, 9, 0), suspected},
		}},
		{"a few of very many fail", []heard{{0, v(doubtFailed*7+1, doubtFailed, 9, 0), trusted}}},
		{"one in eight fails", []heard{{0, v(doubtFailed*7, doubtFailed, 9, 0), suspected}}},
		{"no single one passes", []heard{{0, v(0, 500, 0, 0), trusted}, {1, v(0, 0, 1, 0), suspected}}},
		{"single ones are forged too", []heard{{0, v(0, 500, 8, 2), trusted}, {1, v(0, 500, 8, 0), suspected}}},
		{"guilty", after(mangled,
			heard{1, v(0, 500, 0, 500), suspected}, // of runs that were in the buffer
			heard{settleTime, v(0, 0, 100, doubtFailed-1), suspected},
			heard{tried - 1, v(0, 0, 1000, 0), suspected},
			heard{tried, v(0, 0, 1, 0), guilty},
			heard{tried + judgedFor - 1, v(0, 500, 1, 500), guilty},
			heard{tried + judgedFor, v(0, 0, 1, 0), trusted},
			heard{tried + judgedFor, v(0, doubtFailed, 1, 0), suspected},
		)},
		{"nothing passes to judge by", after(mangled,
			heard{tried, v(0, 0, 0, 1), suspected},
			heard{2 * tried, v(0, 0, 1, 0), guilty},
		)},
		{"forged: it goes on", after(mangled,
			heard{settleTime, v(0, 0, 10, doubtFailed), acquitted},
			heard{settleTime + judgedFor - 1, v(0, 1e6, 10, 0), acquitted},
			heard{settleTime + judgedFor, v(0, 1e6, 10, 0), trusted},
			heard{settleTime + judgedFor, v(0, doubtFailed, 10, 0), suspected},
		)},
		{"nothing heard", after(mangled, heard{time.Hour, Verdict{}, suspected})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var j judge
			for i, h := range tt.says {
				before := j.finding
				changed := j.add(start.Add(h.at), h.v)
				if j.finding != h.want || changed != (before != j.finding) {
					t.Fatalf("step %d: finding %v, changed %v; want finding %v", i, j.finding, changed, h.want)
				}
				if want := h.want == trusted || h.want == acquitted; j.on() != want {
					t.Errorf("step %d: on = %v", i, j.on())
				}
			}
		})
	}
}
