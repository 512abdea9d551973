package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"meshd/internal/frame"
)

// dialDue starts the attempts that are due and returns when the next one is.
func (m *Mesh) dialDue(now time.Time) time.Time {
	if limit := m.set.ConnLimit; limit > 0 && len(m.sessions) >= limit {
		return now.Add(gossipInterval)
	}
	due, next := m.targets.Due(now, m.set.Discovery)
	for _, t := range due {
		ctx, cancel := context.WithCancel(m.ctx)
		t.cancel = cancel
		candidates := m.unpunched(t, m.targets.free(t))
		m.wg.Go(func() {
			defer cancel()
			m.attempt(ctx, t, candidates)
		})
	}
	return next
}

// unpunched leaves out the candidates that are not to be dialled because others look
// for a way there. Whether they do is not known yet at the first attempt.
func (m *Mesh) unpunched(t *target, candidates []Candidate) []Candidate {
	if t.direct || m.cfg.Punched == nil || t.err != nil && !m.cfg.Punched(t.name) {
		return candidates
	}
	return slices.DeleteFunc(candidates, func(c Candidate) bool { return c.Carrier != CarrierTCP })
}

// finished notes how an attempt ended, and logs a configured target's new reason
// for not answering.
func (m *Mesh) finished(t *target, outcomes []outcome) {
	before := t.err
	m.targets.Finished(t, outcomes, time.Now())
	if t.direct && t.err != nil && (before == nil || before.Error() != t.err.Error()) {
		m.log.Warn("target does not answer", "target", t.spec, "err", t.err)
	}
}

// attempt tries all candidates of a target until one becomes a session. It returns
// when all that was begun has ended, which may be later. Of t only what never
// changes is read here.
func (m *Mesh) attempt(ctx context.Context, t *target, candidates []Candidate) {
	tries, err := m.tries(ctx, t, candidates)
	if err != nil {
		m.do(func() { m.finished(t, []outcome{{err: err}}) })
		return
	}
	there := false
	m.do(func() {
		t.resolved = nil
		for _, y := range tries {
			t.resolved = append(t.resolved, y.Candidate)
		}
		if there = m.targets.has(t); there { // its peer had connected to us, or was reached another way
			m.finished(t, []outcome{{tries[0].Candidate, errDuplicate}})
		}
	})
	if there {
		return
	}
	r := m.newRace(ctx, t)
	outcomes := r.run(tries)
	m.do(func() { m.finished(t, outcomes) })
	r.wg.Wait()
}

// tries are the attempts at a target to make now, in their order.
func (m *Mesh) tries(ctx context.Context, t *target, candidates []Candidate) ([]try, error) {
	if t.direct {
		ips, err := m.resolve(ctx, t.host)
		if err != nil {
			return nil, &dialError{err}
		}
		if candidates = t.at(ips, m.targets.ports); len(candidates) == 0 && len(ips) > 0 {
			return nil, &dialError{fmt.Errorf("the carrier %s is switched off here", t.carrier)}
		}
	}
	var allowed []Candidate
	var refused string
	for _, c := range candidates {
		if m.cfg.Refuse != nil {
			if why := m.cfg.Refuse(c.Addr.Addr()); why != "" {
				refused = cmp.Or(refused, fmt.Sprintf("%s is not dialled: %s", c, why))
				continue
			}
		}
		allowed = append(allowed, c)
	}
	tries := dialOrder(allowed)
	if len(tries) == 0 {
		return nil, &dialError{errors.New(cmp.Or(refused, "no address known to dial"))}
	}
	return tries[:min(len(tries), maxCandidates)], nil
}

// at are the candidates of a direct target whose host has the addresses ips.
func (t *target) at(ips []netip.Addr, ports carrierPorts) (out []Candidate) {
	for _, ip := range ips {
		for _, p := range ports {
			if t.takes(p.carrier) {
				out = append(out, Candidate{p.carrier, netip.AddrPortFrom(ip.Unmap(), t.portOver(p.carrier, p.port))})
			}
		}
	}
	return out
}

func (m *Mesh) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ips, err := m.cfg.Resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	return ips, nil
}

// dial opens a stream to a candidate.
func (m *Mesh) dial(ctx context.Context, c Candidate) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	for _, carrier := range m.cfg.Carriers {
		if carrier.Name() != c.Carrier {
			continue
		}
		stream, err := carrier.Dial(ctx, c.Addr)
		if errors.Is(err, context.DeadlineExceeded) {
			err = errNoAnswer
		}
		if err != nil {
			return nil, &dialError{err}
		}
		return stream, nil
	}
	return nil, &dialError{fmt.Errorf("the carrier %s is switched off here", c.Carrier)}
}

// expected is who must be at the other end of a dialled stream; 0: anybody.
func (t *target) expected() frame.PeerName {
	if t.direct {
		return 0
	}
	return t.name
}
