package transport

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What is told, and when, of states that follow each other.
func TestReporter(t *testing.T) {
	var told []State
	var log bytes.Buffer
	r := NewReporter(func(s State) { told = append(told, s) }, slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Unix(9000, 0)
	down := State{Loss: -1, Why: "no heartbeat yet"}
	up := State{Up: true, MTU: 1438, Loss: -1, Addr: netip.MustParseAddrPort("10.9.9.2:6783")}
	with := func(s State, change func(*State)) State { change(&s); return s }
	measured := with(up, func(s *State) { s.RTT, s.MinRTT, s.Loss = time.Millisecond, time.Millisecond, 0 })
	steps := []struct {
		name  string
		after time.Duration
		state State
		told  bool
	}{
		{"the first", 0, down, true},
		{"the same", time.Hour, down, false},
		{"up", 0, up, true},
		{"the first figures", 0, measured, true},
		{"another RTT too soon", 0, with(measured, func(s *State) { s.RTT *= 2 }), false},
		{"another least RTT too soon", 0, with(measured, func(s *State) { s.MinRTT /= 2 }), false},
		{"another loss too soon", 0, with(measured, func(s *State) { s.Loss = 0.5 }), false},
		{"another RTT", reportEvery, with(measured, func(s *State) { s.RTT *= 2 }), true},
		{"another MTU", 0, with(measured, func(s *State) { s.MTU = 1400 }), true},
		{"another address", 0, with(measured, func(s *State) { s.MTU, s.Addr = 1400, netip.MustParseAddrPort("10.9.9.3:1") }), true},
		{"down", 0, down, true},
	}
	for _, s := range steps {
		before := len(told)
		now = now.Add(s.after)
		r.Tell(now, s.state)
		if got := len(told) > before; got != s.told {
			t.Errorf("%s: told %v, want %v", s.name, got, s.told)
		}
		if s.told && told[len(told)-1] != s.state {
			t.Errorf("%s: told %+v", s.name, told[len(told)-1])
		}
	}
	for _, want := range []string{"path up", "path down", "neighbour's address changed"} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%d log lines %q, want 1:\n%s", n, want, &log)
		}
	}
}
