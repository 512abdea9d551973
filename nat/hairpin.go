package nat

import (
	"context"
	"net/netip"
	"time"
)

// Verdict is the answer to a question that cannot always be answered.
type Verdict string

// The answers.
const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Unknown Verdict = "unknown"
)

// hairpin looks whether what our data socket sends to its own outside address arrives
// there: then so do peers behind the same NAT. RFC 5780, section 4.5.
func (a *Agent) hairpin(ctx context.Context, outside netip.AddrPort) Verdict {
	id, came := newTransactionID(), make(chan struct{}, askTimes)
	echo := func() {
		select {
		case came <- struct{}{}:
		default:
		}
	}
	if !a.expect(id, pending{to: outside, echo: echo}) {
		return Unknown
	}
	defer a.forget(id)
	wait := askFirst
	for range askTimes {
		// A server has told of the address: it may be another's.
		if !a.budget.allow(time.Now(), outside) {
			a.unspent.Add(1)
			return Unknown
		}
		if err := a.cfg.Send(outside, bindingRequest(id, 0), 0); err != nil {
			return Unknown
		}
		timer := time.NewTimer(wait)
		select {
		case <-came:
			timer.Stop()
			a.budget.answered(outside)
			return Yes
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Unknown
		}
		wait *= 2
	}
	return No
}
