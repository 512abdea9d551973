package tap

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// The aliases by which meshd knows what it made.
const (
	bridgeTag = "meshd bridge"
	portTag   = "meshd"
)

// bridgeMissing is said of a repair that made the bridge anew.
const bridgeMissing = "bridge was missing"

// kindTAP is what netlink calls the kernel's "tun" kind.
const kindTAP = "tuntap"

// maxMTU is the highest MTU in bytes of the kernel's TAP devices.
const maxMTU = 65535 - frame.HeaderLen

// RemoveBridge removes a bridge that meshd made, whatever is attached to it, and
// reports whether there was one; for one that meshd did not make it returns
// ErrForeign. It works in the calling thread's namespace.
func RemoveBridge(name string) (removed bool, err error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	link, err := nl.LinkByName(name)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find bridge %s: %w", name, err)
	}
	if !isOurBridge(link) {
		return false, fmt.Errorf("remove bridge %s: %w", name, ErrForeign)
	}
	err = removeLink(nl, link)
	return err == nil, err
}

// BridgeMAC is the MAC of a bridge in the calling thread's namespace, from which
// older routers have their name. ok is false where there is no such bridge.
func BridgeMAC(name string) (mac frame.MAC, ok bool) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return frame.MAC{}, false
	}
	defer nl.Close()
	link, err := nl.LinkByName(name)
	if err != nil || link.Type() != "bridge" || len(link.Attrs().HardwareAddr) != len(mac) {
		return frame.MAC{}, false
	}
	return frame.MAC(link.Attrs().HardwareAddr), true
}

// bridgeMAC is the MAC for a bridge that we make.
func bridgeMAC(name frame.PeerName) (mac frame.MAC) {
	if name.Valid() {
		name.Put(mac[:])
	}
	if mac[0]&0x02 == 0 || mac.Multicast() {
		rand.Read(mac[:]) // never fails
		mac[0] = mac[0]&^0x01 | 0x02
	}
	return mac
}

// chooseMTU decides the port's MTU, once. A live bridge keeps its own.
func (p *Port) chooseMTU(want int) error {
	link, err := p.nl.LinkByName(p.bridge)
	if notFound(err) {
		p.mtu = min(want, maxMTU)
		if want == 0 {
			p.mtu = DefaultMTU
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", p.bridge, err)
	}
	if link.Type() != "bridge" {
		return p.notBridge(link)
	}
	p.mtu = min(link.Attrs().MTU, maxMTU)
	if want == 0 || want == link.Attrs().MTU {
		return nil
	}
	return p.changeMTU(link, want)
}

// changeMTU gives a bridge the MTU that is asked for, if it is ours and nothing
// is attached to it.
func (p *Port) changeMTU(link netlink.Link, want int) error {
	used, err := p.used(link)
	if err != nil {
		return err
	}
	if !isOurBridge(link) || used != "" {
		p.log.Warn("bridge keeps its MTU", "bridge", p.bridge, "mtu", p.mtu, "wanted", want)
		return nil
	}
	if err := p.nl.LinkSetMTU(link, want); err != nil {
		return fmt.Errorf("set MTU of bridge %s to %d: %w", p.bridge, want, err)
	}
	p.mtu = min(want, maxMTU)
	return nil
}

// refuseSecond makes sure that no other meshd has a port on the bridge: two would
// be a loop.
func (p *Port) refuseSecond() error {
	bridge, err := p.nl.LinkByName(p.bridge)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", p.bridge, err)
	}
	links, err := p.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		if a.MasterIndex == bridge.Attrs().Index && isOurPort(l) && a.Name != p.device {
			return fmt.Errorf("bridge %s has the port %s already: %w", p.bridge, a.Name, ErrRunning)
		}
	}
	return nil
}

// ensureBridge returns the bridge, up, and what had to be done for that.
func (p *Port) ensureBridge() (link netlink.Link, done []string, err error) {
	link, err = p.nl.LinkByName(p.bridge)
	if notFound(err) {
		link, done, err = p.replaceBridge()
	}
	if err != nil {
		return nil, done, fmt.Errorf("find or make bridge %s: %w", p.bridge, err)
	}
	if link.Type() != "bridge" {
		return nil, done, p.notBridge(link)
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := p.nl.LinkSetUp(link); err != nil {
			return nil, done, fmt.Errorf("set bridge %s up: %w", p.bridge, err)
		}
		done = append(done, "bridge was down")
	}
	p.bridgeIndex = link.Attrs().Index
	return link, done, nil
}

// replaceBridge makes the bridge, or gives it its name back if it was renamed.
func (p *Port) replaceBridge() (netlink.Link, []string, error) {
	if p.bridgeIndex != 0 {
		link, err := p.nl.LinkByIndex(p.bridgeIndex)
		if err == nil && isOurBridge(link) {
			if err := p.rename(link, p.bridge); err != nil {
				return nil, nil, err
			}
			return link, []string{"bridge was renamed"}, nil
		}
	}
	if !p.create {
		return nil, nil, ErrNoBridge
	}
	link, err := p.makeBridge()
	return link, []string{bridgeMissing}, err
}

// makeBridge makes the bridge, down. Spanning tree is off in a new bridge.
func (p *Port) makeBridge() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.bridge
	attrs.HardwareAddr = net.HardwareAddr(p.mac[:])
	// Without a querier, snooping would keep multicast from hosts whose reports
	// this bridge has not seen: the mesh delivers it to all.
	snooping := false
	if err := p.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return nil, err
	}
	link, err := p.nl.LinkByName(p.bridge)
	if err != nil {
		return nil, err
	}
	if err := p.equipBridge(link); err != nil {
		return nil, errors.Join(err, removeLink(p.nl, link))
	}
	p.bridgeMade = true
	return link, nil
}

func (p *Port) equipBridge(link netlink.Link) error {
	if err := p.nl.LinkSetAlias(link, bridgeTag); err != nil {
		return err
	}
	// A bridge whose MTU was never changed follows the lowest of its ports, so it
	// is changed, even if that takes two steps.
	for _, mtu := range []int{p.mtu - 1, p.mtu} {
		if err := p.nl.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU to %d: %w", mtu, err)
		}
	}
	if err := setIPv6(p.bridge, bridgeSettings); err != nil {
		p.log.Warn("bridge may configure itself from the overlay", "bridge", p.bridge, "err", err)
	}
	return nil
}

// removeUnused removes the bridge if it is ours and not used.
func (p *Port) removeUnused() error {
	link, err := p.nl.LinkByName(p.bridge)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", p.bridge, err)
	}
	if !isOurBridge(link) {
		return nil
	}
	used, err := p.used(link)
	if err != nil {
		return err
	}
	if used != "" {
		p.log.Info("bridge stays", "bridge", p.bridge, "because", used)
		return nil
	}
	return removeLink(p.nl, link)
}

// used says by what the bridge is used apart from our port; "" if by nothing.
func (p *Port) used(bridge netlink.Link) (string, error) {
	links, err := p.nl.LinkList()
	if err != nil {
		return "", fmt.Errorf("list links: %w", err)
	}
	index := bridge.Attrs().Index
	for _, l := range links {
		a := l.Attrs()
		switch {
		case a.MasterIndex == index && a.Name != p.device:
			return "it has the port " + a.Name, nil
		case a.ParentIndex == index && l.Type() != "veth": // a veth's is its peer
			return "it carries " + a.Name, nil
		}
	}
	addrs, err := p.nl.AddrList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("list addresses of %s: %w", p.bridge, err)
	}
	for _, a := range addrs {
		if a.IP.To4() != nil || !a.IP.IsLinkLocalUnicast() { // the kernel makes those of IPv6
			return "it has the address " + a.IPNet.String(), nil
		}
	}
	return "", nil
}

// rename gives a link a name; older kernels want it down for that.
func (p *Port) rename(link netlink.Link, name string) error {
	err := p.nl.LinkSetName(link, name)
	if errors.Is(err, unix.EBUSY) {
		err = errors.Join(p.nl.LinkSetDown(link), p.nl.LinkSetName(link, name), p.nl.LinkSetUp(link))
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", link.Attrs().Name, name, err)
	}
	return nil
}

func (p *Port) notBridge(link netlink.Link) error {
	if link.Type() == "openvswitch" {
		return fmt.Errorf("device %s is an Open vSwitch datapath, such as Weave Net makes where it is to have no bridge, and removes with `weave reset`: %w", p.bridge, ErrNotBridge)
	}
	return fmt.Errorf("device %s is of the kind %s: %w", p.bridge, link.Type(), ErrNotBridge)
}

// removeLink removes a link; that somebody else did it first is fine.
func removeLink(nl *netlink.Handle, link netlink.Link) error {
	err := nl.LinkDel(link)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func isOurBridge(l netlink.Link) bool { return l.Type() == "bridge" && l.Attrs().Alias == bridgeTag }

func isOurPort(l netlink.Link) bool { return l.Type() == "tuntap" && l.Attrs().Alias == portTag }

func notFound(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok
}
