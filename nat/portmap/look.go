package portmap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode"
)

var (
	// errLost says that a gateway answers and does not know our mapping.
	errLost = errors.New("the gateway has lost the mapping")
	// errNoExternal says that the gateway is not connected, or does not tell an
	// address that is of no use.
	errNoExternal = errors.New("the gateway has no external address, or is behind another NAT itself")
)

// asker asks one gateway in one protocol, and knows what it has asked for. One
// goroutine at a time uses it. Each call is back soon after its ctx is done,
// NAT-PMP's within half a second.
type asker interface {
	protocol() string
	// add asks for a mapping, from this external port if it can be had, or renews
	// the mapping there is.
	add(ctx context.Context, external uint16, lifetime time.Duration) (lease, error)
	// check asks for the external address, and whether the mapping is still
	// there: errLost if not.
	check(ctx context.Context) (netip.Addr, error)
	// asked is the external port of what add may have left on the gateway; 0:
	// nothing. remove takes it away.
	asked() uint16
	remove(ctx context.Context) error
}

// lease is a mapping as a gateway granted it.
type lease struct {
	external netip.AddrPort
	lifetime time.Duration // 0: for ever
}

// found is what looking for a mapping came to.
type found struct {
	gateway Gateway
	asker   asker
	lease   lease
}

// look asks the gateways, one after the other, and each in all protocols, until
// one has mapped the port. What the others may have left is tidied up.
func (m *Mapper) look(ctx context.Context, gateways []Gateway) (found, error) {
	var errs []error
	for _, g := range gateways[:min(len(gateways), maxGateways)] {
		if m.cfg.Refuse != nil {
			if why := m.cfg.Refuse(g.Addr); why != "" {
				errs = append(errs, fmt.Errorf("gateway %s is not asked: %s", g.Addr, why))
				continue
			}
		}
		f, err := m.race(ctx, g)
		if err == nil {
			return f, nil
		}
		errs = append(errs, fmt.Errorf("gateway %s forwards no port for us: %w", g.Addr, err))
	}
	if len(errs) == 0 {
		return found{}, errNoGateway
	}
	return found{}, inOneLine(errs)
}

// race asks one gateway: the protocols in parallel, each a head start behind the
// one before it or as soon as that has failed.
func (m *Mapper) race(outer context.Context, g Gateway) (found, error) {
	ctx, cancel := context.WithTimeout(outer, lookTime)
	defer cancel()
	askers := m.open(g)
	leases := make([]lease, len(askers))
	errs := make([]error, len(askers))
	first := make(chan int, len(askers)) // each sends its index if it has a lease; there is room for all
	before := make(chan struct{})
	close(before)
	var wg sync.WaitGroup
	for i, a := range askers {
		wait, failed := before, make(chan struct{})
		before = failed
		wg.Go(func() {
			errs[i] = headStart(ctx, wait, time.Duration(i)*headStartTime)
			if errs[i] == nil {
				leases[i], errs[i] = m.ask(ctx, a)
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", protocolWord[a.protocol()], errs[i])
				close(failed)
				return
			}
			first <- i
			cancel()
		})
	}
	wg.Wait()
	close(first)
	winner, ok := <-first
	var won found
	if ok {
		won = found{g, askers[winner], leases[winner]}
	}
	for i, a := range askers {
		switch {
		case !ok:
			m.tidy(outer, g, a)
		case i != winner:
			m.later(g, a)
		}
	}
	if !ok {
		return found{}, inOneLine(errs)
	}
	return won, nil
}

// protocolWord names protocols in sentences.
var protocolWord = map[string]string{NATPMP: "NAT-PMP", UPnP: "UPnP"}

// headStart waits for failed or until the time is over.
func headStart(ctx context.Context, failed <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-failed:
	case <-t.C:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return errors.New("not asked")
	}
	return nil
}

// ask asks for the mapping that we would like.
func (m *Mapper) ask(ctx context.Context, a asker) (lease, error) {
	l, err := a.add(ctx, m.want, m.cfg.Lifetime)
	if err == nil && l.lifetime > 0 && l.lifetime < m.times.leastLease {
		err = fmt.Errorf("the mapping was granted for %v only", l.lifetime)
	}
	return l, err
}

// maxWords bounds, in bytes, what is said of a fault: a part of it may be the
// gateway's own words.
const maxWords = 300

// inOneLine joins errors, and bounds their words.
func inOneLine(errs []error) error { return lineError{errors.Join(errs...)} }

type lineError struct{ error }

func (e lineError) Unwrap() error { return e.error }

func (e lineError) Error() string {
	text := strings.ReplaceAll(e.error.Error(), "\n", "; ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxWords {
		text = strings.ToValidUTF8(text[:maxWords], "") + "…"
	}
	return text
}
