package tap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// How often the watcher looks. Events make it look at once, but not more often
// than repairPause, which bounds a fight with another program; what failed is
// tried again after retryPause, and without any event it looks every lookPause.
const (
	repairPause = 100 * time.Millisecond
	retryPause  = 500 * time.Millisecond
	lookPause   = 5 * time.Second
)

// watch keeps the port joined until ctx is done.
func (p *Port) watch(ctx context.Context) error {
	// A TAP and a subscription belong to the namespace of the thread that makes them.
	err := p.ns.Do(func() error {
		for ctx.Err() == nil {
			if err := p.follow(ctx); err != nil {
				p.log.Debug("subscription to links ended", "err", err)
				pause(ctx, repairPause)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch the port: %w", err)
	}
	return nil
}

// follow repairs on events of one subscription until it or ctx ends. Events may
// have been lost before it, so it looks first.
func (p *Port) follow(ctx context.Context) error {
	events := make(chan netlink.LinkUpdate, 64) // netlink sends and closes; full: it waits
	done := make(chan struct{})
	failure := errors.New("no reason given") // written before events is closed
	err := netlink.LinkSubscribeWithOptions(events, done, netlink.LinkSubscribeOptions{
		ErrorCallback: func(err error) { failure = err },
	})
	if err != nil {
		return err
	}
	defer func() {
		close(done)
		for range events { // let its goroutine end
		}
	}()
	look := time.NewTimer(p.repair())
	defer look.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				return failure
			}
			if p.concerns(e) {
				look.Reset(max(0, repairPause-time.Since(last)))
			}
		case <-p.kick:
			look.Reset(max(0, repairPause-time.Since(last)))
		case <-look.C:
			look.Reset(p.repair())
			last = time.Now()
		}
	}
}

// concerns reports whether an event is about our bridge or port.
func (p *Port) concerns(e netlink.LinkUpdate) bool {
	a := e.Link.Attrs()
	if a.Name == p.bridge || a.Name == p.device {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dev.Load()
	return a.Index == p.bridgeIndex || d != nil && a.Index == d.index
}

// repair looks once and puts right what is wrong. It returns how long to wait
// until the next look, if no event comes before.
func (p *Port) repair() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return lookPause
	}
	done, err := p.joinLocked()
	if err != nil {
		p.note(false, err.Error())
		return retryPause
	}
	if len(done) > 0 {
		p.state.Repairs++
		p.log.Info("port re-joined its bridge", "device", p.device, "bridge", p.bridge,
			"because", strings.Join(done, ", "))
		if slices.Contains(done, bridgeMissing) {
			p.log.Warn("the bridge is a new one: what others than meshd put on it must be attached again", "bridge", p.bridge)
		}
	}
	p.note(true, "")
	return lookPause
}

// note records the state, and logs a new reason for not being joined once.
func (p *Port) note(joined bool, why string) {
	if joined != p.state.Joined {
		p.state.Since = time.Now()
	}
	if why != "" && why != p.state.Why {
		p.log.Warn("port is not on its bridge", "device", p.device, "bridge", p.bridge, "err", why)
	}
	p.state.Joined, p.state.Why = joined, why
}

// joinLocked brings bridge and port to where they belong and says what it had to
// do. Where nothing is wrong it only looks.
func (p *Port) joinLocked() (done []string, err error) {
	bridge, done, err := p.ensureBridge()
	if err != nil {
		return done, err
	}
	port, more, err := p.ensureDevice()
	done = append(done, more...)
	if err != nil {
		return done, err
	}
	if port.Attrs().MasterIndex == bridge.Attrs().Index {
		return done, nil
	}
	if err := p.nl.LinkSetMaster(port, bridge); err != nil {
		return done, fmt.Errorf("attach %s to bridge %s: %w", p.device, p.bridge, err)
	}
	if err := forgetLearnt(bridge); err != nil {
		p.log.Warn("bridge may look for peers' MACs at other ports for some minutes", "bridge", p.bridge, "err", err)
	}
	return append(done, "port was not on the bridge"), nil
}

// pause waits, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
