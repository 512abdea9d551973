package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"meshd/internal/lab"
)

// Ready is nil when the peer answers and its port is on the bridge.
func (p *Peer) Ready(ctx context.Context) error {
	r, err := p.Report(ctx)
	if err != nil {
		return err
	}
	if !r.Port.Joined {
		return fmt.Errorf("%s: port %s has not joined bridge %s", p.NickName, r.Port.Device, r.Port.Bridge)
	}
	return nil
}

// Neighbours is nil when frames pass directly between the peer and each of the
// others, as both ends know.
func (p *Peer) Neighbours(ctx context.Context, others ...*Peer) error {
	r, err := p.Report(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range others {
		if o == p {
			continue
		}
		if _, ok := r.Active(o.Name); !ok {
			errs = append(errs, fmt.Errorf("%s has no direct path to %s", p.NickName, o.NickName))
		} else if via := r.Via(o.Name); via != o.Name {
			errs = append(errs, fmt.Errorf("%s reaches %s via %q, not directly", p.NickName, o.NickName, via))
		}
	}
	return errors.Join(errs...)
}

// Reaches is nil when the peer has a route to each of the others.
func (p *Peer) Reaches(ctx context.Context, others ...*Peer) error {
	r, err := p.Report(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range others {
		if o != p && !r.Reaches(o.Name) {
			errs = append(errs, fmt.Errorf("%s has no route to %s", p.NickName, o.NickName))
		}
	}
	return errors.Join(errs...)
}

// FullMesh is nil when each of the peers is a neighbour of all others.
func FullMesh(ctx context.Context, peers ...*Peer) error {
	var errs []error
	for _, p := range peers {
		errs = append(errs, p.Neighbours(ctx, peers...))
	}
	return errors.Join(errs...)
}

// Attach puts a container of the lab on the peer's bridge once that is there.
func (p *Peer) Attach(container *lab.Namespace, addrs ...netip.Prefix) error {
	return lab.Attach(container, p.Host, DefaultBridge, addrs...)
}
