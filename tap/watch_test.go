package tap

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// TestRepairs does to bridge and port what operators and other programs do, and
// sees frames flow again both ways.
func TestRepairs(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(t *testing.T)
	}{
		{"bridge deleted", func(t *testing.T) { must(t, netlink.LinkDel(link(t, "weave"))) }},
		{"bridge deleted and made by another", func(t *testing.T) {
			must(t, netlink.LinkDel(link(t, "weave")))
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "weave"
			netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}) // the watcher may have been faster
		}},
		{"bridge down", func(t *testing.T) { must(t, netlink.LinkSetDown(link(t, "weave"))) }},
		{"bridge renamed", func(t *testing.T) { renameLink(t, "weave", "elsewhere") }},
		{"port down", func(t *testing.T) { must(t, netlink.LinkSetDown(link(t, "meshd0"))) }},
		{"port renamed", func(t *testing.T) { renameLink(t, "meshd0", "elsewhere") }},
		{"port taken off the bridge", func(t *testing.T) { must(t, netlink.LinkSetNoMaster(link(t, "meshd0"))) }},
		{"port put on another bridge", func(t *testing.T) {
			must(t, netlink.LinkSetMaster(link(t, "meshd0"), addBridge(t, "other")))
		}},
		{"port given another MTU", func(t *testing.T) { must(t, netlink.LinkSetMTU(link(t, "meshd0"), 1000)) }},
		{"port deleted", func(t *testing.T) { must(t, netlink.LinkDel(link(t, "meshd0"))) }},
		{"port moved to another namespace", func(t *testing.T) { expel(t, "meshd0") }},
		{"bridge and port deleted", func(t *testing.T) {
			must(t, netlink.LinkDel(link(t, "weave")))
			must(t, netlink.LinkDel(link(t, "meshd0")))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backends(t, func(t *testing.T, mode string) {
				p := open(t, Config{CreateBridge: true, PeerName: peerName, Offload: mode})
				w := wire(t, "weave", p.MTU())
				frames, _ := run(t, p)
				flows(t, p, w, frames)
				before := p.State().Repairs
				tt.harm(t)
				// A harm may be several events, each with a repair of its own.
				eventually(t, "a repair", func() bool {
					bridge, err1 := netlink.LinkByName("weave")
					port, err2 := netlink.LinkByName("meshd0")
					return p.State().Repairs > before && p.State().Joined && err1 == nil && err2 == nil &&
						port.Attrs().MasterIndex == bridge.Attrs().Index && port.Attrs().MTU == p.MTU() &&
						port.Attrs().Alias == portTag && port.Attrs().Flags&net.FlagUp != 0 && bridge.Attrs().Flags&net.FlagUp != 0
				})
				flows(t, p, w, frames)
			})
		})
	}
}

func renameLink(t *testing.T, from, to string) {
	t.Helper()
	l := link(t, from)
	must(t, netlink.LinkSetDown(l)) // older kernels want it
	must(t, netlink.LinkSetName(l, to))
}

// expel moves a device into a namespace made for it.
func expel(t *testing.T, name string) {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	there, err := netns.New()
	must(t, err)
	t.Cleanup(func() { there.Close() })
	must(t, netns.Set(here))
	must(t, netlink.LinkSetNsFd(link(t, name), int(there)))
}

func TestBridgeKeepsItsMACAndTagWhenRemade(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true, PeerName: peerName, MTU: 1400})
	run(t, p)
	first := link(t, "weave").Attrs().Index
	must(t, netlink.LinkDel(link(t, "weave")))
	eventually(t, "another bridge", func() bool {
		l, err := netlink.LinkByName("weave")
		return err == nil && l.Attrs().Index != first && p.State().Joined
	})
	a := link(t, "weave").Attrs()
	if a.HardwareAddr.String() != peerName.String() || a.Alias != bridgeTag || a.MTU != 1400 {
		t.Errorf("bridge = MAC %s, alias %q, MTU %d; want %s, %q, 1400", a.HardwareAddr, a.Alias, a.MTU, peerName, bridgeTag)
	}
}

// TestForeignBridgeComesBack: without the right to make the bridge, the port
// waits for it and says so.
func TestForeignBridgeComesBack(t *testing.T) {
	namespace(t)
	must(t, netlink.LinkSetUp(addBridge(t, "weave")))
	p := open(t, Config{})
	frames, _ := run(t, p)
	must(t, netlink.LinkDel(link(t, "weave")))
	eventually(t, "the state says that there is no bridge", func() bool {
		s := p.State()
		return !s.Joined && s.Why != ""
	})
	must(t, netlink.LinkSetUp(addBridge(t, "weave")))
	eventually(t, "the port is back", func() bool { return p.State().Joined })
	flows(t, p, wire(t, "weave", p.MTU()), frames)
}

// TestNameTakenMeanwhile: somebody takes the bridge's name for another device.
func TestNameTakenMeanwhile(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true})
	run(t, p)
	renameLink(t, "weave", "aside")
	addTAP := func() bool {
		l, err := netlink.LinkByName("weave")
		if err == nil && l.Type() == kindTAP {
			return true
		}
		if err == nil {
			renameLink(t, "weave", "aside")
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "weave"
		return netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}) == nil
	}
	eventually(t, "the name is taken", addTAP)
	eventually(t, "the state says so", func() bool { return !p.State().Joined })
	must(t, netlink.LinkDel(link(t, "weave")))
	eventually(t, "the port is back", func() bool {
		l, err := netlink.LinkByName("weave")
		return err == nil && isOurBridge(l) && p.State().Joined
	})
}

// TestManyEvents floods the namespace with link events: the subscription may
// lose some, the port must not.
func TestManyEvents(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true})
	w := wire(t, "weave", p.MTU())
	frames, _ := run(t, p)
	l := addBridge(t, "noise")
	for i := range 2000 {
		must(t, netlink.LinkSetMTU(l, 1000+i%2))
	}
	before := p.State().Repairs
	must(t, netlink.LinkSetNoMaster(link(t, "meshd0")))
	eventually(t, "a repair", func() bool { return p.State().Repairs > before && p.State().Joined })
	flows(t, p, w, frames)
}
