package control

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"meshd/internal/frame"
)

// Retry times. First and factor are stock's (weave protocol section 7.3); the
// cap is lower, so that a host that was away for long is back soon.
const (
	retryFirst  = 2 * time.Second
	retryFactor = 1.5
	retryCap    = 30 * time.Second
	// politeness is how long the peer with the higher name waits before it dials
	// one it discovered, so that not both dial at once.
	politeness = 700 * time.Millisecond
	// settled is how long a session must have lived for the next attempt to be
	// made at once; the end of a shorter one counts as a failure.
	settled = 5 * time.Second
)

// target is a peer that should be a neighbour: a configured address (direct), or a
// peer that was discovered in the topology.
type target struct {
	direct bool
	spec   string // direct: as configured
	host   string // direct: what to resolve
	port   uint16
	ported bool // direct: the port was given

	name       frame.PeerName   // who is behind it; of a direct one 0: not known yet
	candidates []netip.AddrPort // discovered: where it may be, best first
	known      time.Time        // discovered: when the topology last had it
	met        bool             // discovered: it was connected once, or in an earlier run

	resolved   []netip.AddrPort // what was tried last
	attempting bool
	never      bool // direct: a retry is pointless
	err        error
	tryAt      time.Time
	wait       time.Duration // before the next retry
	cancel     func()        // ends the attempt under way
}

// parseTarget reads host[:port]; an IPv6 address with a port is in brackets.
// Without a port it gets defaultPort.
func parseTarget(spec string, defaultPort uint16) (*target, error) {
	t := &target{direct: true, spec: spec, host: spec, port: defaultPort, wait: retryFirst}
	if _, err := netip.ParseAddr(strings.Trim(spec, "[]")); err == nil {
		t.host = strings.Trim(spec, "[]")
		return t, nil
	}
	if strings.Contains(spec, ":") {
		host, port, err := net.SplitHostPort(spec)
		if err != nil {
			return nil, fmt.Errorf("peer %q: wanted host[:port]", spec)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("peer %q: %q is not a port (1 to 65535)", spec, port)
		}
		t.host, t.port, t.ported = host, uint16(n), true
	}
	if t.host == "" || strings.ContainsAny(t.host, " /") {
		return nil, fmt.Errorf("peer %q: wanted host[:port]", spec)
	}
	return t, nil
}

// sameAs reports whether both direct targets are one host and port.
func (t *target) sameAs(u *target) bool {
	if t.port != u.port {
		return false
	}
	a, err := netip.ParseAddr(t.host)
	if err != nil {
		return strings.EqualFold(t.host, u.host)
	}
	b, err := netip.ParseAddr(u.host)
	return err == nil && a.Unmap() == b.Unmap()
}

// named reports whether the target is a name, which may mean other addresses
// later.
func (t *target) named() bool {
	_, err := netip.ParseAddr(t.host)
	return err != nil
}

// fail makes the target wait for its next attempt, longer each time.
func (t *target) fail(err error, now time.Time) {
	t.err = err
	t.tryAt = now.Add(t.wait/2 + time.Duration(rand.Int64N(int64(t.wait))))
	t.wait = min(time.Duration(float64(t.wait)*retryFactor), retryCap)
}

// retryAt makes the target due at a time, as if it had never failed.
func (t *target) retryAt(at time.Time) {
	t.tryAt, t.wait, t.never = at, retryFirst, false
}

// abort ends an attempt under way.
func (t *target) abort() {
	if t.cancel != nil {
		t.cancel()
	}
}

// state is how status shows the target while it is not connected.
func (t *target) state() ConnState {
	switch {
	case t.attempting && t.err != nil:
		return StateRetrying
	case t.attempting:
		return StateConnecting
	case t.err != nil:
		return StateFailed
	}
	return StateWaiting
}

// address is the address that status shows for the target.
func (t *target) address() string {
	switch {
	case len(t.resolved) > 0:
		return t.resolved[0].String()
	case len(t.candidates) > 0:
		return t.candidates[0].String()
	case t.ported:
		return t.spec
	}
	return net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
}

// outcome is how an attempt at one address of a target ended.
type outcome struct {
	addr netip.AddrPort
	err  error // nil: it is a session now
}

// telling picks the error that says most: one of a handshake before one of a
// connection that could not be made.
func telling(outcomes []outcome) (err error) {
	for _, o := range outcomes {
		if _, unreached := errors.AsType[*dialError](err); err == nil || unreached {
			err = o.err
		}
	}
	return err
}
