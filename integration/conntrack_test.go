package integration

import (
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/lab"
)

// forgetMappings makes a NAT forget its UDP mappings: the next datagram gets a
// new one, with another port.
func (w *world) forgetMappings(nat *lab.Namespace) {
	w.Helper()
	err := nat.Do(func() error {
		nl, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer nl.Close()
		udp := &netlink.ConntrackFilter{}
		if err := udp.AddProtocol(unix.IPPROTO_UDP); err != nil {
			return err
		}
		n, err := nl.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, udp)
		w.Logf("the NAT forgot %d mappings", n)
		return err
	})
	w.must(err)
}
