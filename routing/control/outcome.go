package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// outcome is how an attempt at one candidate of a target ended.
type outcome struct {
	at  Candidate
	err error // nil: it is a session now
}

// settles reports whether nothing is left to try: the peer is connected.
func (o outcome) settles() bool { return o.err == nil || errors.Is(o.err, errDuplicate) }

// dialError says that no connection could be made at all.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// telling picks the error that says most: one of a handshake before one of a
// connection that could not be made. Where no connection could be made over any
// carrier, it says why over each, once where that is the same.
func telling(outcomes []outcome) error {
	var unreached []outcome // the first one of each carrier
	for _, o := range outcomes {
		if _, ok := errors.AsType[*dialError](o.err); !ok {
			return overCarrier(o)
		}
		known := false
		for _, u := range unreached {
			known = known || u.at.Carrier == o.at.Carrier || u.err.Error() == o.err.Error()
		}
		if !known {
			unreached = append(unreached, o)
		}
	}
	switch len(unreached) {
	case 0:
		return nil
	case 1:
		return unreached[0].err
	}
	// In one order, so that the same fault is the same text.
	slices.SortStableFunc(unreached, func(a, b outcome) int { return strings.Compare(b.at.Carrier, a.at.Carrier) })
	var texts []string
	for _, u := range unreached {
		texts = append(texts, "over "+u.at.Carrier+": "+u.err.Error())
	}
	return &dialError{errors.New(strings.Join(texts, ", "))}
}

// overCarrier names the carrier of an error where a reader would not expect it.
func overCarrier(o outcome) error {
	if o.at.Carrier == CarrierTCP || o.at.Carrier == "" {
		return o.err
	}
	return fmt.Errorf("over %s: %w", o.at.Carrier, o.err)
}

// hopeless reports whether dialling again is pointless until somebody changes
// something: at each IP address that was tried is ourselves, or a host with our
// name. What other carriers say of such an address does not count.
func hopeless(outcomes []outcome) bool {
	condemned := map[netip.Addr]bool{}
	for _, o := range outcomes {
		ip := o.at.Addr.Addr()
		condemned[ip] = condemned[ip] || permanent(o.err)
	}
	for _, c := range condemned {
		if !c {
			return false
		}
	}
	return len(condemned) > 0
}
