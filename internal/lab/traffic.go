package lab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// vxlanPort is VXLAN's UDP port, RFC 7348, section 5.
const vxlanPort = 4789

// AddVXLAN adds the kernel's VXLAN device between two hosts, up, with an MTU that
// is the underlay's less 50 bytes.
func (n *Namespace) AddVXLAN(name, underlay string, local, remote netip.Addr) error {
	err := n.change("add VXLAN over it", underlay, func(u netlink.Link) error {
		return n.nl.LinkAdd(&netlink.Vxlan{
			LinkAttrs: netlink.LinkAttrs{Name: name, MTU: u.Attrs().MTU - 50},
			VxlanId:   42, VtepDevIndex: u.Attrs().Index,
			SrcAddr: local.AsSlice(), Group: remote.AsSlice(), Port: vxlanPort, Learning: true,
		})
	})
	if err != nil {
		return err
	}
	return n.Up(name)
}

// Traffic is what passed an interface. A packet is what the kernel handed over
// in one piece: one that it had not yet cut into segments counts once.
type Traffic struct{ InPackets, InBytes, OutPackets, OutBytes uint64 }

// Sub is the traffic since an earlier reading.
func (t Traffic) Sub(was Traffic) Traffic {
	return Traffic{
		t.InPackets - was.InPackets, t.InBytes - was.InBytes,
		t.OutPackets - was.OutPackets, t.OutBytes - was.OutBytes,
	}
}

// Traffic reads an interface's counters.
func (n *Namespace) Traffic(link string) (t Traffic, err error) {
	err = n.change("read counters", link, func(l netlink.Link) error {
		s := l.Attrs().Statistics
		if s == nil {
			return fmt.Errorf("the kernel tells none")
		}
		t = Traffic{s.RxPackets, s.RxBytes, s.TxPackets, s.TxBytes}
		return nil
	})
	return t, err
}

// PIDs lists the processes in the namespace, this one excepted, whoever started
// them.
func (n *Namespace) PIDs() []int { return processesIn(n.net.ID()) }
