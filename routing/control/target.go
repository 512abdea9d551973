package control

import (
	"cmp"
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
	direct  bool
	spec    string // direct: as configured
	carrier string // direct: the only one to use; empty: all
	host    string // direct: what to resolve
	port    uint16 // direct: of the carrier named, TCP's where none is
	ported  bool   // direct: the port was given

	name       frame.PeerName // who is behind it; of a direct one 0: not known yet
	candidates []Candidate    // discovered: where it may be, best first
	known      time.Time      // discovered: when the topology last had it
	met        bool           // discovered: it was connected once, or in an earlier run
	stock      bool           // discovered: it was a stock router when it was met

	resolved   []Candidate // what was tried last
	attempting bool
	never      bool // direct: a retry is pointless
	err        error
	tryAt      time.Time
	wait       time.Duration // before the next retry
	cancel     func()        // ends the attempt under way
}

// schemeSeparator stands between a carrier and what it reaches.
const schemeSeparator = "://"

// parseTarget reads host[:port] (any carrier; the port is TCP's), tcp://host[:port]
// or quic://host[:port] (that carrier only). An IPv6 address with a port is in
// brackets. Without a port the target gets the carrier's own.
func parseTarget(spec string, ports carrierPorts) (*target, error) {
	t := &target{direct: true, spec: spec, wait: retryFirst}
	rest := spec
	if scheme, after, found := strings.Cut(spec, schemeSeparator); found {
		if t.carrier = strings.ToLower(scheme); !isCarrier(t.carrier) {
			return nil, fmt.Errorf("peer %q: no carrier is called %q: %w", spec, scheme, errTargetForm)
		}
		rest = after
	}
	t.port, _ = ports.of(cmp.Or(t.carrier, CarrierTCP))
	if t.carrier == CarrierQUIC && t.port == 0 {
		t.port = DefaultQUICPort
	}
	t.host = rest
	if _, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		t.host = strings.Trim(rest, "[]")
		return t, nil
	}
	if strings.Contains(rest, ":") {
		host, port, err := net.SplitHostPort(rest)
		if err != nil {
			return nil, fmt.Errorf("peer %q: %w", spec, errTargetForm)
		}
		n, ok := parsePort(port)
		if !ok {
			return nil, fmt.Errorf("peer %q: %q is not a port (1 to 65535)", spec, port)
		}
		t.host, t.port, t.ported = host, n, true
	}
	if t.host == "" || strings.ContainsAny(t.host, " /") {
		return nil, fmt.Errorf("peer %q: %w", spec, errTargetForm)
	}
	return t, nil
}

// takes reports whether the target may be dialled over a carrier.
func (t *target) takes(carrier string) bool { return t.carrier == "" || t.carrier == carrier }

// portOver is the port to dial over a carrier whose own port is own. A port that is
// given without a carrier is TCP's.
func (t *target) portOver(carrier string, own uint16) uint16 {
	if t.carrier == "" && carrier != CarrierTCP {
		return own
	}
	return t.port
}

// sameAs reports whether both direct targets are one host and port over the same
// carriers.
func (t *target) sameAs(u *target) bool {
	if t.carrier != u.carrier || t.port != u.port {
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
		return t.resolved[0].Addr.String()
	case len(t.candidates) > 0:
		return t.candidates[0].Addr.String()
	case t.ported || t.carrier != "":
		return t.spec
	}
	return net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
}
