package containers

import (
	"context"
	"errors"
	"slices"

	"meshd/internal/engine"
	"meshd/tap/attach"
)

// fine reports whether a container is on the bridge, as far as the host side shows.
func (k *Keeper) fine(e *entry, joined []attach.Leftover) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return e.iface != nil && slices.ContainsFunc(joined, func(l attach.Leftover) bool {
		return l.Key == e.want.key() && l.Joined
	})
}

// restore attaches a container again that is known, if it runs.
func (k *Keeper) restore(ctx context.Context, e *entry) {
	if !e.busy.TryLock() {
		return // somebody does it, or takes it back
	}
	defer e.busy.Unlock()
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	k.mu.Lock()
	want, was := e.want, e.problem
	current := k.entries[want.key()] == e && len(want.Addresses) > 0
	k.mu.Unlock()
	if !current {
		return
	}
	c, err := k.Engines.Find(ctx, want.reference())
	if errors.Is(err, engine.ErrGone) {
		k.forget(want.key(), e)
		return
	}
	var iface attach.Interface
	if err == nil {
		want.Name = c.Name
		iface, err = k.join(ctx, c, want)
	}
	if err != nil {
		k.note(e, want, nil, err.Error())
		if err.Error() != was && ctx.Err() == nil {
			k.Log.Info("container is not on the overlay", "container", want.String(), "err", err)
		}
		return
	}
	k.note(e, want, &iface, "")
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
	if current {
		delete(k.entries, key)
	}
	k.mu.Unlock()
	if !current {
		return
	}
	k.claims.release(addrs(want.Addresses), want.owner())
	err := errors.Join(k.attachments.forget(key), attach.Remove(key))
	k.Log.Info("container was removed, and is forgotten", "container", want.String(), "err", err)
}

// sweep removes interfaces of ours that nobody wants any more: a daemon died while it
// detached a container.
func (k *Keeper) sweep(joined []attach.Leftover) {
	for _, l := range joined {
		k.mu.Lock()
		e := k.entries[l.Key]
		k.mu.Unlock()
		if e != nil {
			continue
		}
		if err := attach.Remove(l.Key); err != nil {
			k.Log.Debug("interface of nobody stays", "device", l.Device, "err", err)
		}
	}
}

// reference is how the engines find the container of an attachment.
func (a Attachment) reference() string {
	if a.ID != "" {
		return a.Engine + ":" + a.ID
	}
	return a.NetNS
}
