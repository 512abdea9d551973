package containers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"meshd/internal/subnet"
	"meshd/tap/publish"
)

// port is a port of this host that was published.
type port struct {
	want Publication

	// Guarded by Keeper.mu.
	proxy   *publish.Proxy // nil: nobody listens
	problem string         // why
}

// Publish makes a service on the overlay reachable on a port of this host. The host
// gets an address in the service's subnet if it has none. Where that does not work
// nothing is changed.
func (k *Keeper) Publish(ctx context.Context, text string) (PublishedView, error) {
	spec, err := publish.ParseSpec(text)
	if err != nil {
		return PublishedView{}, err
	}
	k.publishing.Lock()
	defer k.publishing.Unlock()
	want := Publication{Spec: spec}
	if _, isIP := spec.TargetIP(); !isIP {
		if want.Container = k.keyNamed(spec.Target); want.Container == "" {
			return PublishedView{}, fmt.Errorf("publish %s: no container of this host is attached by the name %q, or more than one: attach it first, or name it by its address", spec, spec.Target)
		}
	}
	k.mu.Lock()
	old, all := k.ports[want.key()], len(k.ports)
	k.mu.Unlock()
	switch {
	case old != nil && old.want == want && old.proxy != nil:
		return k.viewOf(old), nil
	case old != nil:
		return PublishedView{}, fmt.Errorf("%s is published as %s already: `meshd unpublish %s` first", spec.HostPort, old.want.Spec, spec.HostPort)
	case all >= maxPublished:
		return PublishedView{}, fmt.Errorf("%d ports are published, more are not kept: unpublish some", all)
	}
	p := &port{want: want}
	err = k.overlayAddress(ctx, want)
	if err == nil {
		if err = k.listen(p); err == nil {
			err = k.published.save(want)
		}
	}
	if err != nil {
		return PublishedView{}, fmt.Errorf("publish %s: %w", spec, errors.Join(err, k.close(context.WithoutCancel(ctx), p)))
	}
	k.mu.Lock()
	k.ports[want.key()] = p
	k.mu.Unlock()
	k.Log.Info("port published", "published", spec.String())
	return k.viewOf(p), nil
}

// overlayAddress sees to it that this host has an address in the subnet of a service.
func (k *Keeper) overlayAddress(ctx context.Context, want Publication) error {
	to, subnet, err := k.targetOf(want)
	if err != nil || k.from(to).IsValid() {
		return err
	}
	if !subnet.IsValid() {
		return fmt.Errorf("this host has no address on the overlay, and the subnet of %s is not known here: `meshd expose net:SUBNET` first, such as net:%s", to, guess(to))
	}
	k.exposing.Lock()
	defer k.exposing.Unlock()
	p, err := k.exposedIn(ctx, subnet)
	if err != nil {
		return err
	}
	return k.exposeLocked(ctx, []Exposure{{Address: p, Auto: true}})
}

// guess is a subnet that an address may be of, for an example.
func guess(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(subnet.UsualBits(a))
	return p
}

// viewOf shows one published port.
func (k *Keeper) viewOf(p *port) PublishedView {
	have, _ := addressesOf(k.Bridge)
	return k.portView(p, have)
}

// targetOf is the address of a service, and its subnet where that is known.
func (k *Keeper) targetOf(want Publication) (to netip.Addr, subnet netip.Prefix, err error) {
	if want.Container == "" {
		to, _ = want.Spec.TargetIP()
		for _, s := range k.subnets() {
			if s.Contains(to) {
				return to, s, nil
			}
		}
		return to, subnet, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entries[want.Container]
	if e == nil { // it may have been made anew, by the same name
		e = k.entries[k.keyNamedLocked(want.Spec.Target)]
	}
	if e == nil || len(e.want.Addresses) == 0 {
		return to, subnet, fmt.Errorf("%s is not attached any more: attach it, or publish another", want.Spec.Target)
	}
	return e.want.Addresses[0].Addr(), e.want.Addresses[0].Masked(), nil
}

// from is this host's address on the overlay that is in one subnet with another one; not
// valid: there is none, or it is not known.
func (k *Keeper) from(to netip.Addr) netip.Prefix {
	have, _ := addressesOf(k.Bridge)
	return from(have, to)
}

func from(have []netip.Prefix, to netip.Addr) netip.Prefix {
	i := slices.IndexFunc(have, func(p netip.Prefix) bool { return p.Contains(to) && p.Addr() != to })
	if i < 0 {
		return netip.Prefix{}
	}
	return have[i]
}

// listen opens the port and serves it.
func (k *Keeper) listen(p *port) error {
	resolve := func(context.Context) (netip.AddrPort, error) {
		to, _, err := k.targetOf(p.want)
		return netip.AddrPortFrom(to, p.want.Spec.TargetPort), err
	}
	proxy, err := publish.Open(p.want.Spec, resolve, publish.Options{
		Local: func(to netip.Addr) netip.Addr { return k.from(to).Addr() },
		Log:   k.Log,
	})
	if err != nil {
		return k.portTaken(p, err)
	}
	k.mu.Lock()
	if k.ctx.Err() != nil {
		k.mu.Unlock()
		return errors.Join(errors.New("meshd is ending"), proxy.Close())
	}
	k.wg.Go(func() { _ = proxy.Run(k.ctx) }) // an error says only that it was run before
	p.proxy, p.problem = proxy, ""
	k.mu.Unlock()
	return nil
}

// portTaken names who has the port that p cannot get.
func (k *Keeper) portTaken(p *port, err error) error {
	used, ok := errors.AsType[*publish.InUseError](err)
	if !ok || k.PortOwner == nil || !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	what := fmt.Sprintf("%s port %s is taken", used.HostPort.Protocol(), used.Addr)
	if other := k.inTheWay(p); other != nil {
		return fmt.Errorf("%s, as %s is published: `meshd unpublish %s` first", what, other.want.Spec, other.want.key())
	}
	name, pid := k.PortOwner(used.HostPort.Port, used.HostPort.Protocol())
	switch {
	case name == "":
		return err
	case pid == os.Getpid():
		return fmt.Errorf("%s by meshd itself, for the mesh: publish another port", what)
	}
	return fmt.Errorf("%s by %s (pid %d): end that, or publish another port", what, name, pid)
}

// inTheWay is a published port that has what p would have, under another name.
func (k *Keeper) inTheWay(p *port) *port {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, other := range k.ports {
		if other != p && other.proxy != nil && other.want.Spec.Overlaps(p.want.Spec.HostPort) {
			return other
		}
	}
	return nil
}

// Unpublish takes a port back: by the port alone, or by all that Publish was given. A
// free address that the host took for it is given back with the last port that needs it.
func (k *Keeper) Unpublish(ctx context.Context, text string) error {
	k.publishing.Lock()
	defer k.publishing.Unlock()
	p, err := k.portNamed(text)
	if err != nil {
		return err
	}
	if err := k.published.forget(p.want.key()); err != nil {
		return err
	}
	k.mu.Lock()
	delete(k.ports, p.want.key())
	k.mu.Unlock()
	err = k.close(context.WithoutCancel(ctx), p) // it is not published any more, whoever waits
	k.Log.Info("port not published any more", "published", p.want.Spec.String())
	return err
}

// portNamed is the published port that a user means.
func (k *Keeper) portNamed(text string) (*port, error) {
	spec, specErr := publish.ParseSpec(text)
	at, err := publish.ParseHostPort(text)
	switch {
	case specErr == nil:
		at = spec.HostPort
	case err != nil:
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[at.String()]
	if p == nil && !at.IP.IsValid() {
		if p, err = k.numberedLocked(at); err != nil {
			return nil, err
		}
	}
	if p == nil || specErr == nil && p.want.Spec != spec {
		return nil, fmt.Errorf("%s is not published: `meshd publish` lists what is", text)
	}
	return p, nil
}

// numberedLocked is the port with that number, whatever addresses it is published at;
// nil: there is none. The error is that there are several.
func (k *Keeper) numberedLocked(at publish.HostPort) (found *port, err error) {
	var keys []string
	for key, p := range k.ports {
		if p.want.Spec.Port == at.Port && p.want.Spec.UDP == at.UDP {
			found, keys = p, append(keys, key)
		}
	}
	if len(keys) > 1 {
		slices.Sort(keys)
		return nil, fmt.Errorf("%s is published at several addresses: say which of %s", at, strings.Join(keys, ", "))
	}
	return found, nil
}

// close ends a port, and hides addresses that no other port needs.
func (k *Keeper) close(ctx context.Context, p *port) error {
	k.mu.Lock()
	proxy := p.proxy
	p.proxy = nil
	k.mu.Unlock()
	var err error
	if proxy != nil {
		err = proxy.Close()
	}
	k.exposing.Lock()
	defer k.exposing.Unlock()
	old := k.exposuresNow()
	var unused []netip.Prefix
	for _, e := range old {
		if e.Auto && k.publishedFrom([]netip.Prefix{e.Address}) == "" {
			unused = append(unused, e.Address)
		}
	}
	if len(unused) == 0 {
		return err
	}
	return errors.Join(err, k.hideLocked(ctx, old, unused))
}

// publishedFrom is a port that has no address of this host to connect from without these;
// empty: there is none. It goes by what is kept: the bridge may be away.
func (k *Keeper) publishedFrom(without []netip.Prefix) string {
	k.mu.Lock()
	list := slices.Collect(maps.Values(k.ports))
	k.mu.Unlock()
	exposed := k.exposuresNow()
	for _, p := range list {
		to, _, err := k.targetOf(p.want)
		if err != nil {
			continue
		}
		contains := func(e netip.Prefix) bool { return e.Contains(to) && e.Addr() != to }
		needs := slices.ContainsFunc(without, contains)
		other := slices.ContainsFunc(exposed, func(e Exposure) bool {
			return contains(e.Address) && !slices.Contains(without, e.Address)
		})
		if needs && !other {
			return p.want.Spec.HostPort.String()
		}
	}
	return ""
}

// restorePublished opens the ports that nobody listens on: after a start, or when
// somebody else had one.
func (k *Keeper) restorePublished(ctx context.Context) {
	k.publishing.Lock()
	defer k.publishing.Unlock()
	k.mu.Lock()
	var closed []*port
	for _, p := range k.ports {
		if p.proxy == nil {
			closed = append(closed, p)
		}
	}
	k.mu.Unlock()
	for _, p := range closed {
		err := k.listen(p)
		if err == nil {
			continue
		}
		k.mu.Lock()
		known := p.problem == err.Error()
		p.problem = err.Error()
		k.mu.Unlock()
		if !known && ctx.Err() == nil {
			k.Log.Warn("port is not published", "published", p.want.Spec.String(), "err", err)
		}
	}
}
