package attach

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/dump"
	"meshd/internal/frame"
	"meshd/internal/subnet"
)

// pair is the veth pair of one attachment, or where it would be.
type pair struct {
	ns          *Namespace
	key, device string

	host, inside *netlink.Handle
	outer, inner netlink.Link // nil: the pair is not there
	stale        netlink.Link // a host side of the key with its end elsewhere
}

// openPair opens netlink on both sides. device may be empty for the default.
func openPair(ns *Namespace, key, device string) (*pair, error) {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	inside, err := ns.netlink()
	if err != nil {
		host.Close()
		return nil, err
	}
	return &pair{ns: ns, key: key, device: device, host: host, inside: inside}, nil
}

func (p *pair) close() {
	p.host.Close()
	p.inside.Close()
}

// find looks for the pair. What else has one of its names is an error.
func (p *pair) find() error {
	outer, err := findHostSide(p.host, p.key)
	if err != nil {
		return err
	}
	inner, err := byName(p.inside, p.device)
	if err != nil {
		return err
	}
	if outer != nil {
		end, err := p.endOf(outer)
		switch {
		case err != nil:
			return err
		case end == nil:
			p.stale = outer
		case end.Attrs().Name == p.device:
			p.outer, p.inner = outer, end
			return nil
		default:
			return fmt.Errorf("the container is attached with the device %s: detach that first", end.Attrs().Name)
		}
	}
	if inner != nil {
		return p.foreign(inner)
	}
	return nil
}

// endOf is the other end of a host side, nil if it is in another namespace.
func (p *pair) endOf(outer netlink.Link) (netlink.Link, error) {
	id, err := p.host.GetNetNsIdByFd(p.ns.net.FD())
	if err != nil {
		return nil, fmt.Errorf("find the id of the container's namespace: %w", err)
	}
	if id < 0 || outer.Attrs().NetNsID != id {
		return nil, nil
	}
	end, err := p.inside.LinkByIndex(outer.Attrs().ParentIndex)
	if notFound(err) {
		return nil, nil
	}
	return end, err
}

// foreign says whose a device is that has the name of ours.
func (p *pair) foreign(inner netlink.Link) error {
	if key, _, err := p.owner(inner); err == nil && key != "" {
		return &SharedError{Device: p.device, Key: key}
	}
	return fmt.Errorf("the container has a device %s: %w", p.device, ErrForeign)
}

// owner is the attachment that a device of the container belongs to, and its host
// side; the key is empty if it is none of ours.
func (p *pair) owner(inner netlink.Link) (key string, outer netlink.Link, err error) {
	if inner.Type() != "veth" {
		return "", nil, nil
	}
	outer, err = p.host.LinkByIndex(inner.Attrs().ParentIndex)
	if notFound(err) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	key, ours := strings.CutPrefix(outer.Attrs().Alias, tag)
	if !ours {
		return "", nil, nil
	}
	end, err := p.endOf(outer)
	if err != nil || end == nil || end.Attrs().Index != inner.Attrs().Index {
		return "", nil, err
	}
	return key, outer, nil
}

// findHostSide finds the host side of a key, nil if there is none.
func findHostSide(host *netlink.Handle, key string) (netlink.Link, error) {
	outer, err := byName(host, hostName(key))
	if err != nil || outer == nil {
		return nil, err
	}
	a := outer.Attrs()
	// Without alias: made by a daemon that was killed before it could give it one.
	half := a.Alias == "" && a.MasterIndex == 0
	if outer.Type() != "veth" || a.Alias != tag+key && !half {
		return nil, fmt.Errorf("the host's device %s is in the way, which belongs to something else: rename or remove it", a.Name)
	}
	return outer, nil
}

// create makes the pair. It is born with its inner end in the container, and down:
// whoever ends in the middle leaves nothing that carries frames, and the rest goes
// with the container.
func (p *pair) create(mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = hostName(p.key), mtu
	mac := randomMAC()
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: p.device, PeerMTU: uint32(mtu), PeerTxQLen: -1,
		PeerHardwareAddr: net.HardwareAddr(mac[:]), PeerNamespace: netlink.NsFd(p.ns.net.FD()),
	}
	// A bridge without a MAC of its own takes its lowest port's: not this one's.
	high := randomMAC()
	high[0] = 0xfe
	veth.HardwareAddr = net.HardwareAddr(high[:])
	err := p.host.LinkAdd(veth)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return errors.New("the kernel has no veth devices: load its module with `modprobe veth`")
	case err != nil:
		return fmt.Errorf("make the devices %s and %s: %w", attrs.Name, p.device, err)
	}
	p.outer, err = p.host.LinkByName(attrs.Name)
	if err == nil {
		p.inner, err = p.inside.LinkByName(p.device)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("find the devices just made: %w", err), removeLink(p.host, veth))
	}
	return nil
}

// addresses lists the addresses of the inner end, without those that the kernel
// made.
func (p *pair) addresses() ([]netip.Prefix, error) {
	list, err := dump.Whole(func() ([]netlink.Addr, error) { return p.inside.AddrList(p.inner, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", p.device, err)
	}
	var out []netip.Prefix
	for _, a := range list {
		q, ok := subnet.PrefixOf(a.IPNet)
		made := q.Addr().IsLinkLocalUnicast() || q.Addr().Is6() && a.Flags&unix.IFA_F_PERMANENT == 0
		if ok && !made {
			out = append(out, q)
		}
	}
	return out, nil
}

// look describes the pair as it is now.
func (p *pair) look() (Interface, error) {
	inner, err := p.inside.LinkByIndex(p.inner.Attrs().Index)
	if err != nil {
		return Interface{}, fmt.Errorf("look at %s: %w", p.device, err)
	}
	addrs, err := p.addresses()
	if err != nil {
		return Interface{}, err
	}
	a := inner.Attrs()
	out := Interface{Key: p.key, Device: a.Name, MTU: a.MTU, Addresses: addrs, HostDevice: p.outer.Attrs().Name}
	copy(out.MAC[:], a.HardwareAddr)
	return out, nil
}

// randomMAC makes a locally administered MAC.
func randomMAC() (mac frame.MAC) {
	rand.Read(mac[:]) // never fails
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// byName finds a link, nil if there is none.
func byName(nl *netlink.Handle, name string) (netlink.Link, error) {
	link, err := nl.LinkByName(name)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", name, err)
	}
	return link, nil
}

// removeLink removes a link; that somebody else did it first is fine.
func removeLink(nl *netlink.Handle, link netlink.Link) error {
	err := nl.LinkDel(link)
	if err != nil && !errors.Is(err, unix.ENODEV) && !notFound(err) {
		return fmt.Errorf("remove %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func notFound(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok || errors.Is(err, os.ErrNotExist)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
