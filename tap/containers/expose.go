package containers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"meshd/internal/subnet"
	"meshd/tap/claim"
	"meshd/tap/expose"
)

// Expose gives this host addresses on the overlay, and one free address of each
// subnet. Where neither is named it is one of each subnet that this host's containers
// are in. It returns the addresses. Where that does not work nothing is changed.
func (k *Keeper) Expose(ctx context.Context, addresses, subnets []netip.Prefix, masquerade bool) ([]netip.Prefix, error) {
	if err := subnet.CheckAll(addresses); err != nil {
		return nil, err
	}
	k.exposing.Lock()
	defer k.exposing.Unlock()
	if len(addresses)+len(subnets) == 0 {
		if subnets = k.subnets(); len(subnets) == 0 {
			return nil, errors.New("no container of this host is attached yet, so its subnet is not known: name an address, or the subnet as net:192.168.99.0/24")
		}
	}
	for _, s := range subnets {
		p, err := k.exposedIn(ctx, s)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, p)
	}
	var more []Exposure
	for _, p := range addresses {
		more = append(more, Exposure{Address: p, Masquerade: masquerade})
	}
	if err := k.exposeLocked(ctx, more); err != nil {
		return nil, err
	}
	return addresses, nil
}

// subnets are those that this host's containers and the host itself are in.
func (k *Keeper) subnets() (out []netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	add := func(p netip.Prefix) {
		if !slices.Contains(out, p.Masked()) {
			out = append(out, p.Masked())
		}
	}
	for _, e := range k.entries {
		for _, p := range e.want.Addresses {
			add(p)
		}
	}
	for _, e := range k.exposed {
		add(e.Address)
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// exposedIn is the address that the host has in a subnet, or a free one for it.
func (k *Keeper) exposedIn(ctx context.Context, subnet netip.Prefix) (netip.Prefix, error) {
	k.mu.Lock()
	for _, e := range k.exposed {
		if e.Address.Masked() == subnet {
			k.mu.Unlock()
			return e.Address, nil
		}
	}
	k.mu.Unlock()
	a, err := claim.Pick(ctx, k.Bridge, subnet, k.claims.taken)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("find a free address in %s: %w", subnet, err)
	}
	return netip.PrefixFrom(a, subnet.Bits()), nil
}

// exposeLocked exposes more addresses, all or none. Needs exposing.
func (k *Keeper) exposeLocked(ctx context.Context, more []Exposure) error {
	old := k.exposuresNow()
	next := slices.Clone(old)
	var fresh []netip.Addr
	for _, e := range more {
		i := slices.IndexFunc(next, func(o Exposure) bool { return o.Address.Addr() == e.Address.Addr() })
		switch {
		case i < 0:
			next = append(next, e)
			fresh = append(fresh, e.Address.Addr())
		case next[i].Address != e.Address:
			return fmt.Errorf("%s is exposed as %s already: hide that first", e.Address.Addr(), next[i].Address)
		default:
			next[i].Masquerade = e.Masquerade
			next[i].Auto = next[i].Auto && e.Auto
		}
	}
	if len(next) > maxExposures {
		return fmt.Errorf("this host would have %d addresses on the overlay, of at most %d: hide some", len(next), maxExposures)
	}
	if err := k.claims.take(fresh, host); err != nil {
		return err
	}
	missing, err := k.notOnBridge(fresh)
	if err == nil {
		err = k.probe(ctx, missing, nil)
	}
	if err == nil {
		err = k.changeExposures(ctx, old, next)
	}
	if err != nil {
		k.claims.release(fresh, host)
		return err
	}
	k.Log.Info("addresses exposed", "exposed", more)
	return nil
}

// notOnBridge are the addresses that this host does not have yet.
func (k *Keeper) notOnBridge(list []netip.Addr) ([]netip.Addr, error) {
	have, err := addressesOf(k.Bridge)
	return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool {
		return slices.ContainsFunc(have, func(p netip.Prefix) bool { return p.Addr() == a })
	}), err
}

// changeExposures goes from old to next, on disk and on the host, or not at all.
func (k *Keeper) changeExposures(ctx context.Context, old, next []Exposure) error {
	err := k.saveExposures(old, next)
	if err == nil {
		err = k.Exposer.Set(ctx, wanted(next))
	}
	if err != nil {
		if back := k.saveExposures(next, old); back != nil && back.Error() != err.Error() {
			err = errors.Join(err, back)
		}
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.exposed, k.trouble = next, ""
	return nil
}

// saveExposures makes the records those of next, where they were those of old.
func (k *Keeper) saveExposures(old, next []Exposure) error {
	for _, e := range next {
		if slices.Contains(old, e) {
			continue
		}
		if err := k.exposures.save(e); err != nil {
			return err
		}
	}
	for _, e := range old {
		if slices.ContainsFunc(next, func(n Exposure) bool { return n.key() == e.key() }) {
			continue
		}
		if err := k.exposures.forget(e.key()); err != nil {
			return err
		}
	}
	return nil
}

func wanted(list []Exposure) []expose.Exposed {
	out := make([]expose.Exposed, len(list))
	for i, e := range list {
		out[i] = expose.Exposed{Address: e.Address, Masquerade: e.Masquerade}
	}
	return out
}

func (k *Keeper) exposuresNow() []Exposure {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.exposed)
}

// Hide takes addresses of this host off the overlay, or all where none are named, and
// returns them.
func (k *Keeper) Hide(ctx context.Context, addresses []netip.Prefix) ([]netip.Prefix, error) {
	k.publishing.Lock()
	defer k.publishing.Unlock()
	k.exposing.Lock()
	defer k.exposing.Unlock()
	old := k.exposuresNow()
	var hidden []netip.Prefix
	for _, e := range old {
		if len(addresses) == 0 && !e.Auto || slices.Contains(addresses, e.Address) {
			hidden = append(hidden, e.Address)
		}
	}
	for _, p := range addresses {
		if !slices.Contains(hidden, p) {
			return nil, fmt.Errorf("%s is not exposed: `meshd ps` shows what is", p)
		}
	}
	if spec := k.publishedFrom(hidden); spec != "" {
		return nil, fmt.Errorf("%s is where the published port %s connects from: `meshd unpublish %s` first", subnet.List(hidden), spec, spec)
	}
	if err := k.hideLocked(ctx, old, hidden); err != nil {
		return nil, err
	}
	return hidden, nil
}

// hideLocked hides addresses. Needs exposing.
func (k *Keeper) hideLocked(ctx context.Context, old []Exposure, hidden []netip.Prefix) error {
	next := slices.DeleteFunc(slices.Clone(old), func(e Exposure) bool { return slices.Contains(hidden, e.Address) })
	if err := k.changeExposures(ctx, old, next); err != nil {
		return err
	}
	k.claims.release(addrs(hidden), host)
	k.Log.Info("addresses hidden", "addresses", hidden)
	return nil
}

// restoreExposed has the host have its addresses and rules, after a start or when the
// bridge was away. What is in the way of one address keeps no other from coming, nor the
// rules that are needed without any. The Exposer itself sees to the rest.
func (k *Keeper) restoreExposed(ctx context.Context) {
	k.exposing.Lock()
	defer k.exposing.Unlock()
	var faults []error
	var good []expose.Exposed
	free, err := k.free(ctx, k.exposuresNow())
	faults = append(faults, err)
	for _, e := range wanted(free) {
		if err := k.Exposer.Check(append(slices.Clone(good), e)); err != nil {
			faults = append(faults, err)
			continue
		}
		good = append(good, e)
	}
	if !k.Exposer.Keeps(good) {
		faults = append(faults, k.Exposer.Set(ctx, good))
	}
	text := ""
	if err := errors.Join(faults...); err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if text != k.trouble && text != "" && ctx.Err() == nil {
		k.Log.Warn("addresses of this host are not on the overlay", "err", text)
	}
	k.trouble = text
}

// free are the exposures whose addresses this host has, or can have: nobody else on the
// overlay does. The error says who has the others.
func (k *Keeper) free(ctx context.Context, list []Exposure) ([]Exposure, error) {
	missing, err := k.notOnBridge(exposedAddrs(list))
	if err != nil {
		return list, nil // what is there stays
	}
	holders, err := k.holders(ctx, missing, nil)
	if err != nil { // not all could be asked for
		return slices.DeleteFunc(list, func(e Exposure) bool { return slices.Contains(missing, e.Address.Addr()) }), err
	}
	var taken []netip.Addr
	var faults []error
	for _, h := range holders {
		taken = append(taken, h.Addr)
		faults = append(faults, k.explain(h))
	}
	return slices.DeleteFunc(list, func(e Exposure) bool { return slices.Contains(taken, e.Address.Addr()) }), errors.Join(faults...)
}

func exposedAddrs(list []Exposure) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, e := range list {
		out[i] = e.Address.Addr()
	}
	return out
}
