package udp

import (
	"testing"
	"time"
)

// TestJudgeTurnsGROOff: what Judge finds holds for the socket, both ways.
func TestJudgeTurnsGROOff(t *testing.T) {
	both := Offload{GSO: true, GRO: true}
	from, c := listenWith(t, loopbacks["IPv4"], both), listenWith(t, loopbacks["IPv4"], both)
	if o := c.Offload(); !o.GSO || !o.GRO {
		t.Skip(o.Why)
	}
	var told []Offload
	c.OnOffload(func(o Offload) { told = append(told, o) })
	sent := shape(repeated(10, 1000), true, c.LocalAddr())
	messages := func() int {
		t.Helper()
		if n, err := from.WriteBatch(sent, true); n != len(sent) || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		return len(readMessages(t, c, len(sent)))
	}
	if got := messages(); got != 1 {
		t.Errorf("%d messages, want a run", got)
	}
	now := time.Now()
	c.Judge(now, Verdict{RunFailed: doubtFailed, SinglePassed: 1})
	if o := c.Offload(); o.GRO || !o.GSO || o.Why == "" {
		t.Errorf("after failed runs: %+v", o)
	}
	if got := messages(); got != len(sent) {
		t.Errorf("%d messages, want %d single ones", got, len(sent))
	}
	c.Judge(now.Add(settleTime), Verdict{SingleFailed: doubtFailed})
	if o := c.Offload(); !o.GRO || o.Why != "" {
		t.Errorf("after others failed as well: %+v", o)
	}
	if got := messages(); got != 1 {
		t.Errorf("%d messages, want a run", got)
	}
	if len(told) != 2 || told[0].GRO || !told[1].GRO {
		t.Errorf("told %+v", told)
	}

	// Without GRO there is nothing to judge, nor after Close.
	c.Close()
	c.Judge(now.Add(2*judgedFor), Verdict{RunFailed: doubtFailed, SinglePassed: 1})
	c.Judge(now.Add(2*judgedFor), Verdict{RunFailed: doubtFailed, SinglePassed: 1})
	none := listenOn(t, loopbacks["IPv4"])
	none.Judge(now, Verdict{RunFailed: doubtFailed, SinglePassed: 1})
	if o := none.Offload(); o != (Offload{}) || len(told) != 2 {
		t.Errorf("judged where there is nothing to judge: %+v, told %+v", o, told)
	}
}
