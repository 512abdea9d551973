package nat

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/pion/stun/v3"
)

// How the lifetime of a mapping is looked for.
const (
	lifetimeFirst = 5 * time.Second
	lifetimeMost  = 10 * time.Minute
	lifetimeFine  = 10 // the answer is good to that part of it, or a second
	lifetimeTries = 2  // that are lost before a mapping counts as gone
)

// ErrNoResponsePort says that a server does not send answers to another port.
var ErrNoResponsePort = errors.New("the server does not send answers to another port (RESPONSE-PORT, RFC 5780): ask a meshd peer")

// responsePort is the attribute RESPONSE-PORT, RFC 5780 section 7.5: the answer is to
// go to that port of the address that asks.
type responsePort uint16

func (p responsePort) AddTo(m *stun.Message) error {
	m.Add(stun.AttrResponsePort, []byte{byte(p >> 8), byte(p), 0, 0})
	return nil
}

// wantedPort is where the answer to a request is to go.
func wantedPort(m *stun.Message, from netip.AddrPort) netip.AddrPort {
	v, err := m.Get(stun.AttrResponsePort)
	if err != nil || len(v) != 4 || v[0] == 0 && v[1] == 0 {
		return from
	}
	return netip.AddrPortFrom(from.Addr(), uint16(v[0])<<8|uint16(v[1]))
}

// Lifetime measures how long the NATs keep the mapping of a socket that is idle, after
// RFC 5780 section 4.6: y asks the server to answer to the outside port of x. It takes
// several times as long as the lifetime; progress is told how long a mapping has lived,
// or not lived. most: it lives for longer than the ten minutes that are looked at.
func Lifetime(ctx context.Context, x, y *Agent, server netip.AddrPort, progress func(d time.Duration, lived bool)) (d time.Duration, most bool, err error) {
	if lived, err := lives(ctx, x, y, server, 0); err != nil {
		return 0, false, err
	} else if !lived {
		return 0, false, ErrNoResponsePort
	}
	var low, high time.Duration // lived for low, not for high; 0: not known
	for d := lifetimeFirst; ; {
		lived, err := lives(ctx, x, y, server, d)
		if err != nil {
			return 0, false, err
		}
		progress(d, lived)
		if lived {
			low = d
		} else {
			high = d
		}
		switch {
		case high == 0 && low >= lifetimeMost:
			return low, true, nil
		case high == 0:
			d = min(2*low, lifetimeMost)
		case high-low <= max(high/lifetimeFine, time.Second):
			return low, false, nil
		default:
			d = (low + high) / 2
		}
	}
}

// lives reports whether a mapping that was used, and then not for d, is there.
func lives(ctx context.Context, x, y *Agent, server netip.AddrPort, d time.Duration) (bool, error) {
	at, _, err := x.Ask(ctx, server)
	if err != nil {
		return false, err
	}
	if !sleep(ctx, d) {
		return false, context.Cause(ctx)
	}
	came := make(chan struct{}, lifetimeTries)
	for range lifetimeTries {
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest, responsePort(at.Port()), stun.Fingerprint)
		if err != nil {
			return false, err
		}
		if !x.expect(m.TransactionID, pending{to: server, take: func(*stun.Message, netip.AddrPort) { came <- struct{}{} }}) {
			return false, errors.New("too many requests")
		}
		defer x.forget(m.TransactionID)
		if err := y.cfg.Send(server, m.Raw, 0); err != nil {
			return false, err
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-came:
			timer.Stop()
			return true, nil
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}
