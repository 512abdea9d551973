package sleeve

import (
	"log/slog"
	"time"

	"meshd/transport"
)

// reporter tells changes of a path's state: the important ones at once, figures
// that always change now and then. Run's goroutine owns it.
type reporter struct {
	report func(transport.State)
	log    *slog.Logger
	last   transport.State
	at     time.Time // zero: nothing was told yet
}

func (r *reporter) tell(now time.Time, s transport.State) {
	if r.at.IsZero() || r.changed(now, s) {
		r.note(s)
		r.last, r.at = s, now
		r.report(s)
	}
}

func (r *reporter) changed(now time.Time, s transport.State) bool {
	if s == r.last {
		return false
	}
	old := r.last
	if old.RTT != 0 { // a first figure is told at once
		old.RTT = s.RTT
	}
	if old.Loss >= 0 {
		old.Loss = s.Loss
	}
	return s != old || r.last.RTT == 0 || now.Sub(r.at) >= reportEvery
}

// note logs what an operator cares about.
func (r *reporter) note(s transport.State) {
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
