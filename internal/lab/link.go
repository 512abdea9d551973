package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Connect lays a cable: a veth pair with one end in each namespace, both up.
func Connect(a *Namespace, aName string, b *Namespace, bName string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: aName},
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(b.net.FD()),
	}
	if err := a.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s in %s with %s in %s: %w", aName, a.Name, bName, b.Name, err)
	}
	if err := errors.Join(b.Up(bName), a.Up(aName)); err != nil {
		return err
	}
	return errors.Join(a.awaitCarrier(aName), b.awaitCarrier(bName))
}

// awaitCarrier waits until an interface transmits: the kernel notices a cable's
// other end a moment later and drops what is sent before.
func (n *Namespace) awaitCarrier(link string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l, err := n.nl.LinkByName(link)
		if err != nil {
			return err
		}
		state := l.Attrs().OperState
		if state == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s in %s is %s, not up", link, n.Name, state)
		}
	}
}

// AddBridge adds a bridge without STP, up, with no address.
func (n *Namespace) AddBridge(name string) error {
	off := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}, MulticastSnooping: &off}
	if err := n.nl.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge %s to %s: %w", name, n.Name, err)
	}
	return n.Up(name)
}

// AddTap adds a TAP device that nobody has open, as a killed program with a
// persistent device leaves it. The alias is text for people and programs.
func (n *Namespace) AddTap(name, alias string) error {
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP}
	err := n.Do(func() error { return netlink.LinkAdd(tap) })
	if err != nil {
		return fmt.Errorf("add TAP %s to %s: %w", name, n.Name, err)
	}
	return n.change("set alias "+alias, name, func(l netlink.Link) error {
		return n.nl.LinkSetAlias(l, alias)
	})
}

// Join puts an interface on a bridge.
func (n *Namespace) Join(link, bridge string) error {
	return n.change("join "+bridge, link, func(l netlink.Link) error {
		b, err := n.nl.LinkByName(bridge)
		if err != nil {
			return err
		}
		return n.nl.LinkSetMaster(l, b)
	})
}

// Leave takes an interface off its bridge. Both ends of its cable stay up: who
// is behind it sees silence, not a lost carrier.
func (n *Namespace) Leave(link string) error {
	return n.change("leave its bridge", link, n.nl.LinkSetNoMaster)
}

// Up sets an interface up.
func (n *Namespace) Up(link string) error { return n.change("set up", link, n.nl.LinkSetUp) }

// Down sets an interface down; the other end of a cable loses its carrier.
func (n *Namespace) Down(link string) error { return n.change("set down", link, n.nl.LinkSetDown) }

// Delete removes an interface, for a cable both ends.
func (n *Namespace) Delete(link string) error { return n.change("delete", link, n.nl.LinkDel) }

// SetMTU sets an interface's MTU in bytes.
func (n *Namespace) SetMTU(link string, mtu int) error {
	return n.change(fmt.Sprintf("set MTU %d", mtu), link, func(l netlink.Link) error {
		return n.nl.LinkSetMTU(l, mtu)
	})
}

// AddAddress gives an interface an address with its prefix length, IPv4 or IPv6.
func (n *Namespace) AddAddress(link string, addr netip.Prefix) error {
	return n.change("add address "+addr.String(), link, func(l netlink.Link) error {
		return n.nl.AddrAdd(l, address(addr))
	})
}

// DelAddress takes an address away.
func (n *Namespace) DelAddress(link string, addr netip.Prefix) error {
	return n.change("delete address "+addr.String(), link, func(l netlink.Link) error {
		return n.nl.AddrDel(l, address(addr))
	})
}

// AddRoute routes dst over an interface, by way of a gateway if via is valid.
func (n *Namespace) AddRoute(dst netip.Prefix, via netip.Addr, link string) error {
	return n.change("add route "+dst.String(), link, func(l netlink.Link) error {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(dst)}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		} else {
			r.Scope = unix.RT_SCOPE_LINK
		}
		return n.nl.RouteReplace(r)
	})
}

// Blackhole drops, without a word, what the namespace sends or forwards to dst,
// until Unblackhole.
func (n *Namespace) Blackhole(dst netip.Prefix) error {
	if err := n.nl.RouteReplace(blackhole(dst)); err != nil {
		return fmt.Errorf("blackhole %s in %s: %w", dst, n.Name, err)
	}
	return nil
}

// Unblackhole ends a Blackhole.
func (n *Namespace) Unblackhole(dst netip.Prefix) error {
	if err := n.nl.RouteDel(blackhole(dst)); err != nil {
		return fmt.Errorf("unblackhole %s in %s: %w", dst, n.Name, err)
	}
	return nil
}

func blackhole(dst netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(dst), Type: unix.RTN_BLACKHOLE}
}

// Link is what Look sees of an interface.
type Link struct {
	Kind   string // "veth", "bridge", "tuntap", …
	MTU    int    // bytes
	MAC    net.HardwareAddr
	Master string // the bridge it is on; "" for none
	Up     bool   // set up, whatever the carrier is
	Index  int
}

// Look describes an interface, or returns netlink.LinkNotFoundError.
func (n *Namespace) Look(link string) (Link, error) {
	l, err := n.nl.LinkByName(link)
	if err != nil {
		return Link{}, err
	}
	a := l.Attrs()
	out := Link{
		Kind: l.Type(), MTU: a.MTU, MAC: a.HardwareAddr,
		Up: a.Flags&net.FlagUp != 0, Index: a.Index,
	}
	if a.MasterIndex != 0 {
		if m, err := n.nl.LinkByIndex(a.MasterIndex); err == nil {
			out.Master = m.Attrs().Name
		}
	}
	return out, nil
}

// Links lists the names of the namespace's interfaces.
func (n *Namespace) Links() ([]string, error) {
	links, err := n.nl.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces of %s: %w", n.Name, err)
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	return names, nil
}

func (n *Namespace) change(what, link string, f func(netlink.Link) error) error {
	l, err := n.nl.LinkByName(link)
	if err == nil {
		err = f(l)
	}
	if err != nil {
		return fmt.Errorf("%s: %s in %s: %w", what, link, n.Name, err)
	}
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	ones := p.Bits()
	return &netlink.Addr{IPNet: &net.IPNet{
		IP: p.Addr().AsSlice(), Mask: net.CIDRMask(ones, p.Addr().BitLen()),
	}}
}

func ipNet(p netip.Prefix) *net.IPNet { return address(p.Masked()).IPNet }
