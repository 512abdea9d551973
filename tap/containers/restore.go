package containers

import (
	"context"
	"errors"
	"slices"

	"meshd/internal/engine"
	"meshd/tap/attach"
)

// settled reports whether there is nothing to do about a container: it is on the bridge,
// as far as the host side shows, or does not run.
func (k *Keeper) settled(e *entry, joined []attach.Leftover) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return e.stopped && !e.doubted || e.iface != nil && slices.ContainsFunc(joined, func(l attach.Leftover) bool {
		return l.Key == e.want.key() && l.Joined
	})
}

// restore attaches a container again that is known, if it runs.
func (k *Keeper) restore(ctx context.Context, e *entry) {
	if !e.busy.TryLock() {
		return // somebody does it, or takes it back
	}
	defer e.busy.Unlock()
	k.restoreHeld(ctx, e)
}

// restoreHeld is restore for an entry that is held. A few are restored at once.
func (k *Keeper) restoreHeld(ctx context.Context, e *entry) {
	select {
	case k.room <- struct{}{}:
		defer func() { <-k.room }()
	case <-ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	k.mu.Lock()
	want, was, before, doubts := e.want, e.problem, e.iface, k.doubts
	current := k.entries[want.key()] == e && len(want.Addresses) > 0
	k.mu.Unlock()
	if !current {
		return
	}
	c, err := k.Engines.Again(ctx, want.container())
	if errors.Is(err, engine.ErrGone) {
		k.forget(want.key(), e)
		return
	}
	var iface attach.Interface
	if err == nil {
		want.Engine, want.Name = c.Engine, c.Name
		iface, err = k.join(ctx, c, want)
	}
	if errors.Is(err, context.Canceled) {
		return // Run ends: how the container is was not found out
	}
	if err != nil {
		k.note(e, want, nil, err.Error())
		k.mu.Lock()
		e.stopped = errors.Is(err, engine.ErrStopped)
		e.doubted = k.doubts != doubts // since it was asked for
		k.mu.Unlock()
		if err.Error() != was && ctx.Err() == nil {
			k.Log.Info("container is not on the overlay", "container", want.String(), "err", err)
		}
		return
	}
	k.note(e, want, &iface, "")
	if before != nil && slices.Equal(before.Addresses, iface.Addresses) && before.HostDevice == iface.HostDevice && was == "" {
		return // an event told what was known
	}
	k.Log.Info("container is on the overlay", "container", want.String(), "addresses", want.Addresses)
}

// drop forgets a container that its engine has removed.
func (k *Keeper) drop(key string, e *entry) {
	e.busy.Lock()
	defer e.busy.Unlock()
	k.forget(key, e)
}

// forget is drop for an entry that is held.
func (k *Keeper) forget(key string, e *entry) {
	k.mu.Lock()
	current, want := k.entries[key] == e, e.want
	k.mu.Unlock()
	if !current {
		return
	}
	if err := errors.Join(k.attachments.forget(key), attach.Remove(key)); err != nil {
		k.Log.Warn("container was removed, but something of it stays", "container", want.String(), "err", err)
	}
	k.claims.release(addrs(want.Addresses), want.owner())
	k.mu.Lock()
	delete(k.entries, key) // last: until now nobody else does something about it
	k.mu.Unlock()
	k.Log.Info("container was removed, and is forgotten", "container", want.String())
}

// sweep removes interfaces of ours on our bridge that nobody wants any more: a daemon
// died while it detached a container. Those on other bridges are other daemons'.
func (k *Keeper) sweep(joined []attach.Leftover) {
	for _, l := range joined {
		k.mu.Lock()
		e := k.entries[l.Key]
		k.mu.Unlock()
		if e != nil || !l.Joined {
			continue
		}
		if err := attach.Remove(l.Key); err != nil {
			k.Log.Debug("interface of nobody stays", "device", l.Device, "err", err)
		}
	}
}
