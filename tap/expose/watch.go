package expose

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// How often Run looks. Events make it look at once, but not more often than
// repairPause, which bounds a fight with another program: each repair that
// follows another doubles it, up to fightPause. Without any event it looks every
// lookPause.
const (
	repairPause = 100 * time.Millisecond
	fightPause  = time.Second
	lookPause   = 5 * time.Second
)

// Run restores addresses and rules that others flush or delete, until ctx is
// done; then it returns nil. What Set was told last is what it keeps up.
func (e *Exposer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range []subscription{
		{unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}},
		{unix.NETLINK_ROUTE, []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}},
	} {
		c, err := e.subscribe(s)
		if err != nil {
			cancel()
			return err
		}
		wg.Go(func() { e.listen(ctx, c) })
	}
	e.repairAsTold(ctx)
	cancel()
	return nil
}

// repairAsTold looks when it is told to, and now and then.
func (e *Exposer) repairAsTold(ctx context.Context) {
	look := time.NewTimer(0)
	defer look.Stop()
	last, gap := time.Time{}, repairPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.kick:
			look.Reset(max(0, gap-time.Since(last)))
		case <-look.C:
			if e.repair() {
				gap = min(2*gap, fightPause)
			} else {
				gap = repairPause
			}
			last = time.Now()
			look.Reset(lookPause)
		}
	}
}

// repair looks once and puts right what is wrong; it reports whether something
// was.
func (e *Exposer) repair() bool {
	repaired := false
	err := e.inside(func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.want.up {
			return nil
		}
		done, err := e.reachLocked(e.want)
		if repaired = len(done) > 0; repaired {
			e.log.Info("addresses and rules restored", "bridge", e.cfg.Bridge, "because", strings.Join(done, ", "))
		}
		e.findProblemsLocked(err)
		return nil
	})
	if err != nil {
		e.log.Debug("addresses and rules not looked at", "err", err)
	}
	return repaired
}

// subscription names events of the kernel's.
type subscription struct {
	protocol int
	groups   []uint32
}

func (e *Exposer) subscribe(s subscription) (c *netlink.Conn, err error) {
	err = e.inside(func() error {
		if c, err = netlink.Dial(s.protocol, nil); err != nil {
			return err
		}
		for _, g := range s.groups {
			if err := c.JoinGroup(g); err != nil {
				return errors.Join(err, c.Close())
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to the kernel's events: %w", err)
	}
	return c, nil
}

// listen kicks for every event until ctx is done. What it says does not matter,
// so that lost ones are none.
func (e *Exposer) listen(ctx context.Context, c *netlink.Conn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for ctx.Err() == nil {
		if _, err := c.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() == nil {
				e.log.Debug("subscription ended", "err", err) // the look every lookPause goes on
			}
			return
		}
		select {
		case e.kick <- struct{}{}:
		default:
		}
	}
}
