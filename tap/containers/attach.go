package containers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"meshd/internal/engine"
	"meshd/internal/frame"
	"meshd/internal/subnet"
	"meshd/tap/attach"
)

// AttachOptions is how a container is attached.
type AttachOptions struct {
	NoMulticastRoute bool // no route for 224.0.0.0/4
}

// Attach puts a running container on the overlay with these addresses, besides those
// that it has. Where that does not work nothing is changed, and the error says why and
// what to do.
func (k *Keeper) Attach(ctx context.Context, what string, addresses []netip.Prefix, o AttachOptions) (ContainerView, error) {
	if len(addresses) == 0 {
		return ContainerView{}, errors.New("which address is the container to have? Name one with its subnet's length, such as 10.32.0.1/24")
	}
	if err := subnet.CheckAll(addresses); err != nil {
		return ContainerView{}, err
	}
	c, err := k.Engines.Find(ctx, what)
	if err != nil {
		return ContainerView{}, err
	}
	a := attachmentOf(c)
	e, err := k.hold(a)
	if err != nil {
		return ContainerView{}, err
	}
	defer e.busy.Unlock()
	err = k.attach(ctx, e, c, addresses, o)
	if err != nil {
		k.letGo(a.key(), e)
		return ContainerView{}, fmt.Errorf("attach %s: %w", a, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return e.view(), nil
}

// hold finds the entry of a container, or makes one, and locks it.
func (k *Keeper) hold(a Attachment) (*entry, error) {
	for {
		k.mu.Lock()
		e := k.entries[a.key()]
		if e == nil {
			if len(k.entries) >= maxAttachments {
				k.mu.Unlock()
				return nil, fmt.Errorf("%d containers are attached, more are not kept: detach some", maxAttachments)
			}
			e = &entry{want: a}
			k.entries[a.key()] = e
		}
		k.mu.Unlock()
		if k.lock(a.key(), e) {
			return e, nil
		}
	}
}

// lock locks an entry, unless it was dropped meanwhile.
func (k *Keeper) lock(key string, e *entry) bool {
	e.busy.Lock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries[key] != e {
		e.busy.Unlock()
		return false
	}
	return true
}

// letGo drops an entry that nothing is kept for. Needs busy.
func (k *Keeper) letGo(key string, e *entry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(e.want.Addresses) == 0 && k.entries[key] == e {
		delete(k.entries, key)
	}
}

// attach is Attach for an entry that is held.
func (k *Keeper) attach(ctx context.Context, e *entry, c engine.Container, addresses []netip.Prefix, o AttachOptions) error {
	k.mu.Lock()
	old := e.want
	k.mu.Unlock()
	next := old.with(addresses)
	next.Engine, next.Name, next.NoMulticastRoute = c.Engine, c.Name, o.NoMulticastRoute
	if len(next.Addresses) > maxAddresses {
		return fmt.Errorf("it would have %d addresses, of at most %d: detach some", len(next.Addresses), maxAddresses)
	}
	if err := subnet.CheckAll(next.Addresses); err != nil {
		return err
	}
	fresh := gone(next, old)
	if err := checkHost(k.Bridge, fresh); err != nil {
		return err
	}
	if err := k.take(ctx, addrs(next.Addresses), next.owner()); err != nil {
		return err
	}
	err := k.attachments.save(next)
	if err == nil {
		var iface attach.Interface
		if iface, err = k.join(ctx, c, next); err == nil {
			k.note(e, next, &iface, "")
			k.Log.Info("container attached", "container", next.String(), "addresses", next.Addresses, "mac", iface.MAC)
			if more := gone(Attachment{Addresses: iface.Addresses}, next); len(more) > 0 {
				k.Log.Warn("container has more addresses, which do not come back after a restart", "container", next.String(), "addresses", more)
			}
			return nil
		}
	}
	if back := k.revert(old, next); back != nil && back.Error() != err.Error() {
		err = errors.Join(err, back)
	}
	return err
}

// take claims addresses for a container. Another one that has them may have been removed a
// moment ago, or without a word: it is looked at first.
func (k *Keeper) take(ctx context.Context, addrs []netip.Addr, who owner) error {
	err := k.claims.take(addrs, who)
	for taken, ok := errors.AsType[*takenError](err); ok; taken, ok = errors.AsType[*takenError](err) {
		k.mu.Lock()
		e := k.entries[taken.by.key]
		k.mu.Unlock()
		if e == nil {
			return err // this host
		}
		k.restore(ctx, e)
		k.mu.Lock()
		stays := k.entries[taken.by.key] == e
		k.mu.Unlock()
		if stays {
			return err
		}
		err = k.claims.take(addrs, who)
	}
	return err
}

// revert takes back what was kept of an attachment that did not work.
func (k *Keeper) revert(old, next Attachment) error {
	var fresh []netip.Addr
	for _, p := range next.Addresses {
		if !slices.Contains(old.Addresses, p) {
			fresh = append(fresh, p.Addr())
		}
	}
	defer k.claims.release(fresh, next.owner())
	if len(old.Addresses) > 0 {
		return k.attachments.save(old)
	}
	return k.attachments.forget(next.key())
}

// join brings a container to the overlay as it is wanted there.
func (k *Keeper) join(ctx context.Context, c engine.Container, a Attachment) (attach.Interface, error) {
	ns, err := k.open(c)
	if err != nil {
		return attach.Interface{}, err
	}
	defer ns.Close()
	have, ok, err := attach.Inspect(ns, "")
	if err == nil && !ok {
		// One of an earlier run of the container answers for its addresses as long as
		// something holds that namespace.
		if err = attach.Remove(a.key()); err == nil {
			have, _, err = attach.OfWeave(ns, k.Bridge)
		}
	}
	if err != nil {
		return have, err
	}
	fresh := slices.DeleteFunc(addrs(a.Addresses), func(addr netip.Addr) bool {
		return slices.ContainsFunc(have.Addresses, func(p netip.Prefix) bool { return p.Addr() == addr })
	})
	if err := k.probe(ctx, fresh, func(m frame.MAC) bool { return m == have.MAC }); err != nil {
		return have, err
	}
	iface, err := attach.Attach(ns, attach.Options{Bridge: k.Bridge, Key: a.key(), Addresses: a.Addresses, NoMulticastRoute: a.NoMulticastRoute, Log: k.Log})
	if shared, ok := errors.AsType[*attach.SharedError](err); ok {
		err = k.inWords(shared)
	}
	return iface, err
}

// inWords calls a container as people do, if it is known here.
func (k *Keeper) inWords(shared *attach.SharedError) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.entries[shared.Key]; e != nil {
		return errors.New(shared.Words(e.want.String()))
	}
	return shared
}

// open opens a container's network namespace.
func (k *Keeper) open(c engine.Container) (*attach.Namespace, error) {
	if c.NetNS != "" {
		return attach.OpenPath(c.NetNS)
	}
	return attach.OpenPID(k.Proc, c.PID)
}

// note notes how a container is now.
func (k *Keeper) note(e *entry, want Attachment, iface *attach.Interface, problem string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e.want, e.iface, e.problem, e.stopped, e.doubted = want, iface, problem, false, false
}

// Detach takes addresses from a container, or all where none are named, and its
// interface with the last one. It returns the addresses that it still has. A container
// that has gone or does not run is forgotten all the same. Where it does not work
// nothing is changed.
func (k *Keeper) Detach(ctx context.Context, what string, addresses []netip.Prefix) (left []netip.Prefix, err error) {
	c, findErr := k.Engines.Find(ctx, what)
	key := attachmentOf(c).key()
	if c.ID == "" && c.NetNS == "" {
		key = k.keyNamed(what)
	}
	k.mu.Lock()
	e := k.entries[key]
	k.mu.Unlock()
	if e == nil || !k.lock(key, e) {
		return nil, cmp.Or(findErr, fmt.Errorf("%s is not on the overlay: `meshd ps` lists what is", attachmentOf(c)))
	}
	defer e.busy.Unlock()
	defer k.letGo(key, e)
	k.mu.Lock()
	old := e.want
	k.mu.Unlock()
	next, err := without(old, addresses)
	if err == nil && len(next.Addresses) > 0 && findErr != nil && !errors.Is(findErr, engine.ErrStopped) {
		err = findErr // it may run, and would keep the addresses
	}
	if err == nil {
		err = k.detach(e, c, old, next, findErr == nil)
	}
	if err != nil {
		return nil, fmt.Errorf("detach %s: %w", old, err)
	}
	k.Log.Info("container detached", "container", old.String(), "left", next.Addresses)
	return next.Addresses, nil
}

// detach is Detach for an entry that is held.
func (k *Keeper) detach(e *entry, c engine.Container, old, next Attachment, found bool) error {
	var err error
	if len(next.Addresses) > 0 {
		err = k.attachments.save(next)
	} else {
		err = k.attachments.forget(old.key())
	}
	if err != nil {
		return err
	}
	if err := k.leave(c, old, next, found); err != nil {
		return errors.Join(err, k.attachments.save(old))
	}
	k.claims.release(addrs(gone(old, next)), old.owner())
	k.mu.Lock()
	defer k.mu.Unlock()
	e.want = next
	switch {
	case len(next.Addresses) == 0:
		e.iface, e.problem = nil, ""
	case e.iface != nil:
		iface := *e.iface
		iface.Addresses = next.Addresses
		e.iface = &iface
	}
	return nil
}

// leave takes a container, or some of its addresses, off the overlay. found: c is it.
func (k *Keeper) leave(c engine.Container, old, next Attachment, found bool) error {
	if len(next.Addresses) == 0 {
		return attach.Remove(old.key()) // the engine need not answer for that
	}
	if !found {
		return nil // it does not run
	}
	ns, err := k.open(c)
	if errors.Is(err, attach.ErrEnded) {
		return nil // and its interface with it
	}
	if err != nil {
		return err
	}
	defer ns.Close()
	have, ok, err := attach.Inspect(ns, "")
	if err != nil || !ok {
		return err
	}
	o := attach.Options{Bridge: k.Bridge, Key: old.key(), Log: k.Log}
	for _, p := range gone(old, next) {
		if slices.Contains(have.Addresses, p) { // somebody may have removed it by hand
			o.Addresses = append(o.Addresses, p)
		}
	}
	if len(o.Addresses) > 0 {
		_, err = attach.Detach(ns, o)
	}
	return err
}

// without is an attachment without some addresses, or without any where none are named.
func without(a Attachment, addresses []netip.Prefix) (Attachment, error) {
	left := slices.Clone(a.Addresses)
	for _, p := range addresses {
		i := slices.Index(left, p)
		if i < 0 {
			return a, fmt.Errorf("it does not have %s, but %s", p, subnet.List(a.Addresses))
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(addresses) == 0 {
		left = nil
	}
	a.Addresses = left
	return a, nil
}

// gone are the addresses of old that next does not have.
func gone(old, next Attachment) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(old.Addresses), func(p netip.Prefix) bool { return slices.Contains(next.Addresses, p) })
}

// keyNamed is the key of the attachment that a user calls so; empty: there is none, or
// more than one.
func (k *Keeper) keyNamed(what string) (key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keyNamedLocked(what)
}

func (k *Keeper) keyNamedLocked(what string) (key string) {
	for candidate, e := range k.entries {
		if len(e.want.Addresses) == 0 || !e.want.called(what) {
			continue
		}
		if key != "" {
			return ""
		}
		key = candidate
	}
	return key
}
