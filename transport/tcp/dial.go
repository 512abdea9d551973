package tcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// Times of connecting and binding.
const (
	dialWithin  = 2 * time.Second        // for a connection that is bound
	bindWithin  = 2 * time.Second        // for the other end's part of binding, and for its hello
	lookEvery   = 500 * time.Millisecond // whether another connection is needed
	aliveWithin = 2 * time.Second        // a bound connection must bring the path up
)

// Attempts to connect are retryFirst apart, then retryGrowth times as long each time:
// at most retrySoon while the path was up, or began, not long ago, else up to
// retryLast: a firewall is not going to open by them.
const (
	retryFirst  = 300 * time.Millisecond
	retryGrowth = 1.5
	retrySoon   = 500 * time.Millisecond
	soonFor     = 2 * time.Minute
	retryLast   = 30 * time.Second
)

// backOff is when who dials may try again.
type backOff struct {
	wait time.Duration // after the next attempt
	at   time.Time     // of the next attempt
}

// tried notes an attempt that ended now. soon: the path was up, or began, not long ago.
func (b *backOff) tried(now time.Time, soon bool) {
	b.wait = max(b.wait, retryFirst)
	b.at = now.Add(b.wait + rand.N(b.wait/8))
	b.wait = min(time.Duration(retryGrowth*float64(b.wait)), retryLast)
	if soon {
		b.wait = min(b.wait, retrySoon)
	}
}

// dial keeps the path of who dialled the session bound to a working connection,
// until ctx is done.
func (p *path) dial(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-p.met:
	}
	var again backOff
	for ctx.Err() == nil {
		now := time.Now()
		wait, worked := p.unneeded(now)
		if worked {
			again = backOff{}
		}
		if wait == 0 {
			wait = again.at.Sub(now)
		}
		if wait <= 0 {
			err := p.connect(ctx)
			now = time.Now()
			again.tried(now, p.recent(now))
			if err != nil && ctx.Err() == nil {
				p.log.Debug("no TCP connection for a path", "err", err)
				p.failed(err)
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.redial:
		case <-time.After(wait):
		}
	}
}

// unneeded is for how long there is no need of another connection, and whether the
// last one was good for long enough to replace it at once.
func (p *path) unneeded(now time.Time) (wait time.Duration, worked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	worked = p.bound != nil && p.upAt.Sub(p.bound.since) >= aliveWithin
	switch {
	case !p.connectedLocked():
		return 0, worked
	case !p.Life.Up && now.Sub(p.bound.since) >= aliveWithin:
		return 0, worked
	}
	return lookEvery, worked
}

// recent reports whether the path was up, or began, not long ago.
func (p *path) recent(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.upAt) < soonFor
}

// failed notes why an attempt to connect failed.
func (p *path) failed(err error) {
	p.mu.Lock()
	p.lastErr = err
	p.mu.Unlock()
	p.Rouse()
}

// target is the neighbour's control port.
func (p *path) target() netip.AddrPort {
	to := p.session.RemoteAddr
	if p.session.ControlPort != 0 {
		to = netip.AddrPortFrom(to.Addr(), p.session.ControlPort)
	}
	return netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
}

// connect opens a connection, and binds it.
func (p *path) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	to := p.target()
	if !to.IsValid() || to.Addr().IsUnspecified() || to.Port() == 0 {
		return errors.New("the neighbour's address is not known")
	}
	c, err := p.t.port.Dial(ctx, to)
	if err != nil {
		return fmt.Errorf("connect to %v: %w", to, err)
	}
	err = withDeadline(ctx, c, func() error {
		key, index := p.bindKey()
		s, err := offer(c, key, index)
		if err != nil {
			return err
		}
		return p.take(c, s)
	})
	if err != nil {
		discard(c)
		return fmt.Errorf("bind a connection to %v: %w", to, err)
	}
	return nil
}

// withDeadline does something with a connection that must not take longer than
// bindWithin, nor longer than ctx.
func withDeadline(ctx context.Context, c net.Conn, f func() error) error {
	if err := tune(c); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(bindWithin)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// takeConn takes a connection by whose header a neighbour offers it to a path.
func (t *Transport) takeConn(ctx context.Context, c net.Conn) {
	if err := withDeadline(ctx, c, func() error { return t.accept(ctx, c) }); err != nil {
		t.log.Debug("TCP connection refused for a path", "addr", c.RemoteAddr(), "err", err)
		discard(c)
	}
}

func (t *Transport) accept(ctx context.Context, c net.Conn) error {
	o, err := readOpening(c)
	if err != nil {
		return err
	}
	p := t.paths.Find(o.index)
	if p == nil || p.session.Dialled {
		return errors.New("an opening for no path of ours")
	}
	select {
	case <-p.met:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(bindWithin):
		return errors.New("the neighbour's hello is missing")
	}
	key, _ := p.bindKey()
	s, err := o.answer(c, key)
	if err != nil {
		return err
	}
	return p.take(c, s)
}
