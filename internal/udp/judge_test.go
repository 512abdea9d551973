package udp

import (
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type heard struct {
		at time.Duration
		v  Verdict
		on bool
	}
	runs := func(passed, failed int) Verdict { return Verdict{RunPassed: passed, RunFailed: failed} }
	singles := func(passed, failed int) Verdict { return Verdict{SinglePassed: passed, SingleFailed: failed} }
	tests := []struct {
		name string
		says []heard
	}{
		{"all is well", []heard{{0, runs(1e6, 0), true}, {time.Hour, runs(1e6, 0), true}}},
		{"a few fail", []heard{{0, runs(0, judgeFailed-1), true}, {judgeWindow, runs(0, 1), true}, {judgeWindow + 1, runs(0, judgeFailed-2), true}}},
		{"most pass", []heard{{0, runs(1000, 900), true}}},
		{"singles fail too: forged", []heard{{0, singles(10, 500), true}, {1, runs(0, 500), true}}},
		{"mangled", []heard{
			{0, singles(100, 0), true}, {1, runs(0, judgeFailed), false}, {2, singles(1000, 0), false},
			{1 + judgeWindow, singles(1000, 0), false}, {time.Hour * 24, singles(1000, 0), false},
		}},
		{"forged in runs", []heard{
			{0, runs(10, 500), false}, {1, singles(10, judgeStill), true}, {2, runs(10, 500), true},
			{2 + judgeAcquits, runs(0, 0), true}, {3 + judgeAcquits, runs(10, 500), false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			j := judge{since: start}
			for i, h := range tt.says {
				if on := j.hear(start.Add(h.at), h.v); on != h.on {
					t.Fatalf("step %d: on = %v, want %v", i, on, h.on)
				}
			}
		})
	}
}

// TestJudgeTurnsGROOff: what Judge decides holds for the socket, both ways.
func TestJudgeTurnsGROOff(t *testing.T) {
	c := listenOn(t, loopbacks["IPv4"])
	if !c.Offload().GRO {
		t.Skipf("no GRO here: %s", c.Offload().Why)
	}
	var told []Offload
	c.OnOffload(func(o Offload) { told = append(told, o) })
	now := time.Now()
	c.Judge(now, Verdict{RunFailed: judgeFailed})
	if o := c.Offload(); o.GRO || o.Why == "" {
		t.Errorf("after failed runs: %+v", o)
	}
	c.Judge(now, Verdict{SingleFailed: judgeStill})
	if o := c.Offload(); !o.GRO || o.Why != "" {
		t.Errorf("after others failed as well: %+v", o)
	}
	if len(told) != 2 || told[0].GRO || !told[1].GRO {
		t.Errorf("told %+v", told)
	}
}
