package expose

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/subnet"
)

// protocolTag is the protocol, IFA_PROTO, of addresses that we set: who set them
// (Linux 5.18; older kernels keep no such thing and ignore it). The kernel uses 1
// to 3.
const protocolTag = 'm'

// ifaProto is IFA_PROTO, linux/if_addr.h, which x/sys does not have.
const ifaProto = 11

// ipAddress is one address of a device.
type ipAddress struct {
	prefix netip.Prefix
	tagged bool
	flags  uint32 // IFA_F_…
	raw    []byte // the kernel's message, to set it again as it was
}

// addresses are those of one device, asked for and changed through rtnetlink.
// vishvananda/netlink does not know IFA_PROTO.
type addresses struct {
	c     *netlink.Conn
	index int
}

// openAddresses works in the calling thread's namespace.
func openAddresses(index int) (*addresses, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &addresses{c, index}, nil
}

func (a *addresses) close() { a.c.Close() }

// list lists the device's addresses, in the kernel's order.
func (a *addresses) list() ([]ipAddress, error) {
	msgs, err := a.c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETADDR, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfAddrmsg),
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var list []ipAddress
	for _, m := range msgs {
		if x, index, ok := parseAddress(m.Data); ok && index == a.index {
			list = append(list, x)
		}
	}
	return list, nil
}

// parseAddress reads a message about an address, rtnetlink(7):
//
//	0        1            2      3      4      8
//	family   prefix len   flags  scope  index  attributes …
func parseAddress(b []byte) (x ipAddress, index int, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return x, 0, false
	}
	d, err := netlink.NewAttributeDecoder(b[unix.SizeofIfAddrmsg:])
	if err != nil {
		return x, 0, false
	}
	x.flags, x.raw = uint32(b[2]), slices.Clone(b)
	index = int(d.ByteOrder.Uint32(b[4:]))
	var peer, local netip.Addr
	for d.Next() {
		switch d.Type() {
		case unix.IFA_ADDRESS:
			peer, _ = netip.AddrFromSlice(d.Bytes())
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(d.Bytes())
		case unix.IFA_FLAGS:
			x.flags = d.Uint32()
		case ifaProto:
			x.tagged = d.Uint8() == protocolTag
		}
	}
	if !local.IsValid() {
		local = peer
	}
	x.prefix = netip.PrefixFrom(local, int(b[1]))
	return x, index, d.Err() == nil && x.prefix.IsValid()
}

// add sets an address of ours; one that is there is fine.
func (a *addresses) add(p netip.Prefix) error {
	body, err := a.message(p)
	if err != nil {
		return err
	}
	err = a.set(body)
	if errors.Is(err, unix.EACCES) && p.Addr().Is6() {
		err = fmt.Errorf("IPv6 is off on the bridge (net.ipv6.conf.BRIDGE.disable_ipv6): %w", err)
	}
	if err != nil {
		return fmt.Errorf("set address %s: %w", p, err)
	}
	return nil
}

// again sets an address that was lost, as it was.
func (a *addresses) again(x ipAddress) error {
	if err := a.set(x.raw); err != nil {
		return fmt.Errorf("set address %s again: %w", x.prefix, err)
	}
	return nil
}

func (a *addresses) set(body []byte) error {
	_, err := a.c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWADDR,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl},
		Data: body,
	})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// remove takes an address away; one that is not there is fine.
func (a *addresses) remove(p netip.Prefix) error {
	body, err := a.message(p)
	if err != nil {
		return err
	}
	_, err = a.c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_DELADDR, Flags: netlink.Request | netlink.Acknowledge},
		Data:   body,
	})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove address %s: %w", p, err)
	}
	return nil
}

func (a *addresses) message(p netip.Prefix) ([]byte, error) {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = unix.AF_INET, byte(p.Bits())
	if p.Addr().Is6() {
		b[0] = unix.AF_INET6
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder.PutUint32(b[4:], uint32(a.index))
	e.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	e.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
	if last := subnet.Last(p); p.Addr().Is4() && p.Bits() < 31 {
		e.Bytes(unix.IFA_BROADCAST, last.AsSlice())
	}
	e.Uint8(ifaProto, protocolTag)
	attrs, err := e.Encode()
	return append(b, attrs...), err
}
