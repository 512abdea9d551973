package attach

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/dump"
	"meshd/internal/subnet"
)

// Detach takes addresses from a container, or all if none are named, and removes its
// interface with the last one. It returns the addresses that are left. A container
// that is not attached, or that has gone, is fine; ns is nil if it has gone. An address
// that it does not have is an error that wraps ErrNoAddress, and nothing is changed.
func Detach(ns *Namespace, o Options) (left []netip.Prefix, err error) {
	if o, err = o.checked(); err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, Remove(o.Key)
	}
	p, err := openPair(ns, o.Key, o.Device)
	if err != nil {
		return nil, err
	}
	defer p.close()
	outer, err := findHostSide(p.host, o.Key)
	if err != nil || outer == nil {
		return nil, err
	}
	// Whatever it is called by now.
	inner, err := p.endOf(outer)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return nil, removeLink(p.host, outer)
	}
	p.outer, p.inner, p.device = outer, inner, inner.Attrs().Name
	have, err := p.addresses()
	if err != nil {
		return nil, err
	}
	if left, err = without(have, o.Addresses); err != nil {
		return have, err
	}
	if len(left) == 0 {
		return nil, removeLink(p.host, outer)
	}
	return left, p.removeAddresses(o.Addresses)
}

// without is what is left of addresses; nothing if none are named.
func without(have, named []netip.Prefix) (left []netip.Prefix, err error) {
	if len(named) == 0 {
		return nil, nil
	}
	for _, p := range named {
		if !slices.Contains(have, p) {
			return nil, fmt.Errorf("the container does not have %s, but %s: %w", p, subnet.List(have), ErrNoAddress)
		}
	}
	return slices.DeleteFunc(slices.Clone(have), func(p netip.Prefix) bool { return slices.Contains(named, p) }), nil
}

// removeAddresses removes some addresses. The kernel would remove, with the first
// IPv4 address of a subnet, the further ones of that subnet, if it was not told to
// keep them.
func (p *pair) removeAddresses(gone []netip.Prefix) error {
	if err := p.ns.do(func() error { return promoteSecondaries(p.inner.Attrs().Index) }); err != nil {
		return err
	}
	for _, q := range gone {
		if err := p.removeAddress(q); err != nil {
			return err
		}
	}
	return nil
}

// Inspect looks at the attachment of a container that has a device of this name,
// empty for DefaultDevice. ok is false if there is no such device, or it is not ours.
func Inspect(ns *Namespace, device string) (out Interface, ok bool, err error) {
	if device == "" {
		device = DefaultDevice
	}
	p, err := openPair(ns, "", device)
	if err != nil {
		return Interface{}, false, err
	}
	defer p.close()
	if p.inner, err = byName(p.inside, device); err != nil || p.inner == nil {
		return Interface{}, false, err
	}
	if p.key, p.outer, err = p.owner(p.inner); err != nil || p.key == "" {
		return Interface{}, false, err
	}
	out, err = p.look()
	return out, err == nil, err
}

// Leftover is the host side of an attachment.
type Leftover struct {
	Key    string
	Device string // in the host
	Joined bool   // it is up and on the bridge
}

// Leftovers lists the host sides of all attachments, in the order in which they were
// made: after a crash they are what is left of an earlier daemon's. Joined tells
// whether they are on this bridge, which may not exist.
func Leftovers(bridge string) ([]Leftover, error) {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	links, err := dump.Whole(host.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	index := 0
	for _, l := range links {
		if l.Attrs().Name == bridge && l.Type() == "bridge" {
			index = l.Attrs().Index
		}
	}
	var out []Leftover
	for _, l := range links {
		a := l.Attrs()
		key, ours := strings.CutPrefix(a.Alias, tag)
		if !ours || l.Type() != "veth" || a.Name != hostName(key) {
			continue
		}
		out = append(out, Leftover{Key: key, Device: a.Name,
			Joined: index != 0 && a.MasterIndex == index && a.Flags&net.FlagUp != 0})
	}
	return out, nil
}

// Remove removes the interface of an attachment by its host side, without looking
// into the container. That there is none is fine.
func Remove(key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	outer, err := findHostSide(host, key)
	if err != nil || outer == nil {
		return err
	}
	return removeLink(host, outer)
}
