package tap

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forgetLearnt has a bridge forget at which port it has seen which MAC. What was behind
// another port until now may be behind ours, such as all that the router had learnt which
// was on the bridge before: frames to it would go where nobody is, until one comes from
// there or the entry is too old, after 5 minutes. What somebody entered by hand, static,
// stays. It works in the calling thread's namespace.
func forgetLearnt(bridge netlink.Link) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(bridge.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_FDB_FLUSH, nil)
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("flush the MACs of bridge %s: %w", bridge.Attrs().Name, err)
	}
	return nil
}
