package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/dump"
	"meshd/internal/frame"
	"meshd/tap/claim"
)

// multicast is where containers send what is for groups, as Weave Net had it.
var multicast = netip.MustParsePrefix("224.0.0.0/4")

// carrierTime is how long Attach waits until both ends transmit: the kernel notices
// the carrier a moment later, and drops what is sent before.
const carrierTime = 2 * time.Second

// attachment is one call of Attach.
type attachment struct {
	*pair
	o       Options
	bridge  netlink.Link
	weaves  bool // the pair is Weave's, to be taken over
	fresh   bool // the pair is a new one for us, to be set up
	changed bool // something was
	undo    []func() error
}

// Attach puts a container on the bridge with the addresses that are asked for,
// besides those that it has there. It may be called again: what is as it should be
// stays as it is, what is not is put right. An interface that Weave Net has made on this
// bridge is taken over with what it has. If it does not work out, whatever the
// call made is removed, and the addresses that were there before stay.
func Attach(ns *Namespace, o Options) (Interface, error) {
	o, err := o.checked()
	if err != nil {
		return Interface{}, err
	}
	if len(o.Addresses) == 0 {
		return Interface{}, errors.New("there is no address to attach the container with: name one with its subnet's length, such as 10.32.0.1/24")
	}
	p, err := openPair(ns, o.Key, o.Device)
	if err != nil {
		return Interface{}, err
	}
	defer p.close()
	a := &attachment{pair: p, o: o}
	fresh, err := a.plan()
	if err != nil {
		return Interface{}, err
	}
	out, err := a.apply(fresh)
	if err != nil {
		return Interface{}, errors.Join(err, a.takeBack())
	}
	return out, nil
}

// plan looks at what is there, and changes nothing. It returns the addresses that
// are missing.
func (a *attachment) plan() ([]netip.Prefix, error) {
	if err := a.findBridge(); err != nil {
		return nil, err
	}
	if err := a.findPair(); err != nil {
		return nil, err
	}
	var have []netip.Prefix
	if a.inner != nil {
		var err error
		if have, err = a.addresses(); err != nil {
			return nil, err
		}
	}
	var fresh []netip.Prefix
	for _, p := range a.o.Addresses {
		if !slices.Contains(have, p) && !slices.Contains(fresh, p) {
			fresh = append(fresh, p)
		}
	}
	return fresh, a.checkOverlaps(fresh, have)
}

// findPair looks for our pair, or else for one that Weave has made.
func (a *attachment) findPair() error {
	err := a.find()
	if !errors.Is(err, ErrForeign) {
		return err
	}
	ok, weaveErr := a.findWeave(a.bridge)
	if weaveErr != nil {
		return weaveErr
	}
	if !ok {
		return err
	}
	a.weaves = true
	return nil
}

// findBridge makes sure that the bridge can carry what is asked for.
func (a *attachment) findBridge() error {
	bridge, err := byName(a.host, a.o.Bridge)
	switch {
	case err != nil:
		return err
	case bridge == nil:
		return fmt.Errorf("bridge %s: %w", a.o.Bridge, ErrNoBridge)
	case bridge.Type() != "bridge":
		return fmt.Errorf("device %s is of the kind %s, not a bridge", a.o.Bridge, bridge.Type())
	}
	for _, p := range a.o.Addresses {
		if mtu := bridge.Attrs().MTU; p.Addr().Is6() && mtu < frame.MinMTUIPv6 {
			return fmt.Errorf("address %s: %w: bridge %s has an MTU of %d, IPv6 needs at least %d (bridge.mtu)", p, ErrNoIPv6, a.o.Bridge, mtu, frame.MinMTUIPv6)
		}
	}
	a.bridge = bridge
	return nil
}

// apply brings everything to where it belongs.
func (a *attachment) apply(fresh []netip.Prefix) (Interface, error) {
	for _, step := range []func() error{
		a.ensurePair, a.ensureHostSide, a.ensureInside,
		func() error { return a.addAddresses(fresh) },
		a.ensureRoute, a.awaitCarrier,
	} {
		if err := step(); err != nil {
			return Interface{}, a.orEnded(err)
		}
	}
	out, err := a.look()
	// Last, as nothing in here fails when the container ends: we hold its namespace.
	if err = a.orEnded(err); err == nil {
		a.announce(out.Addresses)
	}
	return out, err
}

// orEnded is err, but that the container has ended where it has.
func (a *attachment) orEnded(err error) error {
	if gone := a.ns.gone(); errors.Is(gone, ErrEnded) {
		return errEndedMeanwhile
	}
	return err
}

// takeBack undoes what was done, the last thing first.
func (a *attachment) takeBack() error {
	var errs []error
	for _, undo := range slices.Backward(a.undo) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

func (a *attachment) ensurePair() error {
	if a.stale != nil {
		if err := removeLink(a.host, a.stale); err != nil {
			return err
		}
	}
	if a.weaves {
		return a.takeOver()
	}
	if a.inner != nil {
		a.fresh = a.outer.Attrs().Alias == "" // left half made
		return nil
	}
	if err := a.create(a.bridge.Attrs().MTU); err != nil {
		return err
	}
	a.fresh, a.changed = true, true
	a.undo = append(a.undo, func() error { return removeLink(a.host, a.outer) })
	return nil
}

// ensureHostSide tags the host side and has it on the bridge, up.
func (a *attachment) ensureHostSide() error {
	name, now := a.outer.Attrs().Name, a.outer.Attrs()
	if a.fresh {
		if err := a.host.LinkSetAlias(a.outer, tag+a.key); err != nil {
			return fmt.Errorf("tag %s: %w", name, err)
		}
		a.keepIPv6Off(name)
	}
	if err := a.ensureMTU(a.host, a.outer); err != nil {
		return err
	}
	if now.MasterIndex != a.bridge.Attrs().Index {
		a.changed = true
		if err := a.host.LinkSetMaster(a.outer, a.bridge); err != nil {
			return fmt.Errorf("attach %s to bridge %s: %w", name, a.o.Bridge, err)
		}
	}
	return a.ensureUp(a.host, a.outer)
}

// keepIPv6Off keeps the host's IPv6 off the host side: it is a port of the bridge
// only.
func (a *attachment) keepIPv6Off(name string) {
	err := errors.Join(a.host.LinkSetIP6AddrGenMode(a.outer, addrGenNone), setIPv6(name, "disable_ipv6", "1"))
	if err != nil {
		a.o.Log.Debug("the host may have an IPv6 address on a port of its bridge", "device", name, "err", err)
	}
}

// ensureInside has the inner end set and up.
func (a *attachment) ensureInside() error {
	if err := a.ensureMTU(a.inside, a.inner); err != nil {
		return err
	}
	if a.fresh {
		if err := a.ns.do(a.settle); err != nil {
			a.o.Log.Debug("settings of a container's device are not all made", "device", a.device, "err", err)
		}
	}
	return a.ensureUp(a.inside, a.inner)
}

// ensureMTU gives an end the MTU of the bridge.
func (a *attachment) ensureMTU(nl *netlink.Handle, link netlink.Link) error {
	was, mtu := link.Attrs().MTU, a.bridge.Attrs().MTU
	if was == mtu {
		return nil
	}
	set := func(mtu int) error {
		if err := nl.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", link.Attrs().Name, mtu, err)
		}
		return nil
	}
	if err := set(mtu); err != nil {
		return err
	}
	a.undo = append(a.undo, func() error { return set(was) })
	return nil
}

func (a *attachment) ensureUp(nl *netlink.Handle, link netlink.Link) error {
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	a.changed = true
	if err := nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

func (a *attachment) addAddresses(fresh []netip.Prefix) error {
	if slices.ContainsFunc(fresh, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := a.ns.do(a.allowIPv6); err != nil {
			a.o.Log.Debug("IPv6 not switched on", "device", a.device, "err", err)
		}
	}
	for _, p := range fresh {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // whoever attaches has asked for it
		}
		err := a.inside.AddrAdd(a.inner, addr)
		if p.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP)) {
			return fmt.Errorf("address %s: %w: it is switched off in the container: start it with --sysctl net.ipv6.conf.all.disable_ipv6=0", p, ErrNoIPv6)
		}
		if err != nil {
			return fmt.Errorf("add address %s to %s: %w", p, a.device, err)
		}
		a.changed = true
		a.undo = append(a.undo, func() error { return a.removeAddress(p) })
	}
	return nil
}

// removeAddress removes an address; that it has gone is fine.
func (p *pair) removeAddress(addr netip.Prefix) error {
	err := p.inside.AddrDel(p.inner, &netlink.Addr{IPNet: ipNet(addr)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove address %s from %s: %w", addr, p.device, err)
	}
	return nil
}

// ensureRoute has multicast go to the overlay, unless it goes elsewhere.
func (a *attachment) ensureRoute() error {
	addrs, err := a.addresses()
	if err != nil || a.o.NoMulticastRoute || !slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		return err
	}
	dst := ipNet(multicast)
	have, err := dump.Whole(func() ([]netlink.Route, error) {
		return a.inside.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
	})
	if err != nil {
		return fmt.Errorf("list routes of the container: %w", err)
	}
	if len(have) > 0 {
		return nil
	}
	route := &netlink.Route{LinkIndex: a.inner.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
	if err := a.inside.RouteAdd(route); err != nil {
		return fmt.Errorf("add route %s by %s: %w", multicast, a.device, err)
	}
	a.changed = true
	a.undo = append(a.undo, func() error {
		if err := a.inside.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s by %s: %w", multicast, a.device, err)
		}
		return nil
	})
	return nil
}

// awaitCarrier waits until both ends transmit. That they do not in time is no error:
// they may do it later.
func (a *attachment) awaitCarrier() error {
	if !a.changed {
		return nil
	}
	end := time.Now().Add(carrierTime)
	for _, side := range []struct {
		nl   *netlink.Handle
		link netlink.Link
	}{{a.host, a.outer}, {a.inside, a.inner}} {
		for {
			link, err := side.nl.LinkByIndex(side.link.Attrs().Index)
			if err != nil {
				return fmt.Errorf("look at %s: %w", side.link.Attrs().Name, err)
			}
			if link.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(end) {
				a.o.Log.Debug("device has no carrier yet", "device", link.Attrs().Name)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// announce tells the overlay of all addresses: the MAC may be another than before,
// or behind another peer.
func (a *attachment) announce(addresses []netip.Prefix) {
	if !a.changed {
		return
	}
	var addrs []netip.Addr
	for _, p := range addresses {
		addrs = append(addrs, p.Addr())
	}
	if err := a.ns.do(func() error { return claim.Announce(a.device, addrs) }); err != nil {
		a.o.Log.Debug("addresses not announced", "device", a.device, "err", err)
	}
}
