package transport

import (
	"log/slog"
	"time"
)

// reportEvery is how often figures that always change are reported.
const reportEvery = time.Second

// Reporter tells changes of a path's state to whom Path.Run was given: the
// important ones at once, figures that always change once a second. It logs what
// an operator cares about. It must not be used concurrently; Run's goroutine owns
// it.
type Reporter struct {
	report func(State)
	log    *slog.Logger
	last   State
	at     time.Time // zero: nothing was told yet
}

// NewReporter returns a Reporter that has told nothing yet. log has the fields
// peer and transport.
func NewReporter(report func(State), log *slog.Logger) *Reporter {
	return &Reporter{report: report, log: log}
}

// Tell reports the state if it has changed.
func (r *Reporter) Tell(now time.Time, s State) {
	if r.at.IsZero() || r.changed(now, s) {
		r.note(s)
		r.last, r.at = s, now
		r.report(s)
	}
}

func (r *Reporter) changed(now time.Time, s State) bool {
	if s == r.last {
		return false
	}
	old := r.last
	if old.RTT != 0 { // a first figure is told at once
		old.RTT = s.RTT
	}
	if old.MinRTT != 0 {
		old.MinRTT = s.MinRTT
	}
	if old.Loss >= 0 {
		old.Loss = s.Loss
	}
	return s != old || r.last.RTT == 0 || now.Sub(r.at) >= reportEvery
}

// note logs what an operator cares about.
func (r *Reporter) note(s State) {
	switch {
	case s.Up && !r.last.Up:
		r.log.Info("path up", "addr", s.Addr, "mtu", s.MTU, "encrypted", s.Encrypted)
	case !s.Up && r.last.Up:
		r.log.Info("path down", "addr", s.Addr, "why", s.Why)
	case s.Up && s.Addr != r.last.Addr:
		r.log.Info("neighbour's address changed", "addr", s.Addr)
	case s.MTU != r.last.MTU:
		r.log.Debug("path MTU", "mtu", s.MTU)
	}
}
