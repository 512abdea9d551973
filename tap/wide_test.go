package tap

import (
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWidePorts(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true, MTU: 1376})
	wire(t, "weave", p.MTU())
	if got, err := p.WidePorts(); err != nil || len(got) != 0 {
		t.Errorf("WidePorts = %v, %v; want none", got, err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vc1", 1500
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}))
	must(t, netlink.LinkSetMTU(link(t, "vc1"), 1500))
	must(t, netlink.LinkSetMaster(link(t, "vc1"), link(t, "weave")))
	if got, err := p.WidePorts(); err != nil || len(got) != 1 || got[0] != (WidePort{"vc1", 1500}) {
		t.Errorf("WidePorts = %v, %v; want vc1 with 1500", got, err)
	}
	if got, err := p.WeavePort(); err != nil || got != "" {
		t.Errorf("WeavePort = %q, %v; want none", got, err)
	}
	// Behind it is no container.
	renameLink(t, "vc1", "vethwe-bridge")
	if got, err := p.WidePorts(); err != nil || len(got) != 0 {
		t.Errorf("WidePorts = %v, %v; want none", got, err)
	}
	if got, err := p.WeavePort(); err != nil || got != "vethwe-bridge" {
		t.Errorf("WeavePort = %q, %v; want vethwe-bridge", got, err)
	}
}
