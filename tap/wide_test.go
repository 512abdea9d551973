package tap

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestOtherPorts(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true, MTU: 1376})
	want := func(wide []WidePort, weave string) {
		t.Helper()
		if gotWide, gotWeave, err := p.OtherPorts(); err != nil || !slices.Equal(gotWide, wide) || gotWeave != weave {
			t.Errorf("OtherPorts() = %v, %q, %v, want %v, %q", gotWide, gotWeave, err, wide, weave)
		}
	}
	wire(t, "weave", p.MTU())
	want(nil, "")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vc1", 1500
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}))
	must(t, netlink.LinkSetMTU(link(t, "vc1"), 1500))
	must(t, netlink.LinkSetMaster(link(t, "vc1"), link(t, "weave")))
	want([]WidePort{{"vc1", 1500}}, "")
	renameLink(t, "vc1", "vethwe-bridge") // no container is behind that
	want(nil, "vethwe-bridge")
}
