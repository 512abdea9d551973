package tap

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

const peerName = frame.PeerName(0x02_00_00_00_00_01)

func TestOpenMakesBridgeAndPort(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true, PeerName: peerName})
	bridge, port := link(t, "weave"), link(t, "meshd0")
	if got := bridge.Type(); got != "bridge" {
		t.Errorf("weave is a %s", got)
	}
	if got := bridge.Attrs().HardwareAddr.String(); got != peerName.String() {
		t.Errorf("bridge MAC = %s, want the peer name %s", got, peerName)
	}
	if got := port.Attrs().MasterIndex; got != bridge.Attrs().Index {
		t.Errorf("port's master = %d, want %d", got, bridge.Attrs().Index)
	}
	for _, l := range []netlink.Link{bridge, port} {
		if l.Attrs().MTU != DefaultMTU || !isUp(l) {
			t.Errorf("%s: MTU %d, up %v; want %d, up", l.Attrs().Name, l.Attrs().MTU, isUp(l), DefaultMTU)
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		must(t, err)
		if len(addrs) > 0 {
			t.Errorf("%s has addresses: %v", l.Attrs().Name, addrs)
		}
	}
	if p.Name() != "meshd0" || p.BridgeName() != "weave" || p.MTU() != DefaultMTU || !p.State().Joined {
		t.Errorf("Name, BridgeName, MTU, State = %q, %q, %d, %+v", p.Name(), p.BridgeName(), p.MTU(), p.State())
	}
	if mac, ok := BridgeMAC("weave"); !ok || mac.String() != peerName.String() {
		t.Errorf("BridgeMAC = %v, %v; want %v, true", mac, ok, peerName)
	}
}

func TestOpenSettings(t *testing.T) {
	namespace(t)
	mountSys(t)
	open(t, Config{CreateBridge: true})
	for path, want := range map[string]string{
		"/proc/sys/net/ipv6/conf/weave/accept_ra":        "0",
		"/proc/sys/net/ipv6/conf/weave/accept_redirects": "0",
		"/proc/sys/net/ipv6/conf/meshd0/disable_ipv6":    "1",
		"/proc/sys/net/ipv6/conf/meshd0/accept_ra":       "0",
		"/sys/class/net/weave/bridge/stp_state":          "0",
		"/sys/class/net/weave/bridge/multicast_snooping": "0",
		"/sys/class/net/meshd0/brport/state":             "3", // forwarding
		"/sys/class/net/weave/ifalias":                   bridgeTag,
		"/sys/class/net/meshd0/ifalias":                  portTag,
	} {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v", err)
		} else if strings.TrimSpace(string(got)) != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
}

// mountSys shows the namespace's devices in /sys, to this thread alone.
func mountSys(t *testing.T) {
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
}

func TestBridgeMAC(t *testing.T) {
	for _, tt := range []struct {
		name frame.PeerName
		keep bool
	}{
		{0x02_11_22_33_44_55, true},
		{0x7a_11_22_33_44_55, true},
		{0x00_11_22_33_44_55, false}, // not locally administered
		{0x03_11_22_33_44_55, false}, // multicast
		{0, false},
		{1 << 48, false},
	} {
		got := bridgeMAC(tt.name)
		if same := frame.PeerNameOf(got[:]) == tt.name; same != tt.keep {
			t.Errorf("bridgeMAC(%x) = %v: kept %v, want %v", uint64(tt.name), got, same, tt.keep)
		}
		if got[0]&3 != 2 {
			t.Errorf("bridgeMAC(%x) = %v is not locally administered unicast", uint64(tt.name), got)
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) { backends(t, closeLeavesNothing) }

func closeLeavesNothing(t *testing.T, mode string) {
	cfg := Config{CreateBridge: true, Offload: mode}
	before := links(t)
	for range 3 { // and it can be done again
		p, err := Open(cfg)
		must(t, err)
		_, stop := run(t, p)
		stop()
		must(t, p.Close())
		must(t, p.Close())
		if after := links(t); !slices.Equal(before, after) {
			t.Fatalf("links after Close = %v, want %v", after, before)
		}
	}
	files := countFiles(t)
	p, err := Open(cfg)
	must(t, err)
	_, stop := run(t, p)
	must(t, netlink.LinkDel(link(t, "meshd0")))
	eventually(t, "the port is back", func() bool { return p.State().Repairs > 0 && p.State().Joined })
	stop()
	must(t, p.Close())
	eventually(t, "all descriptors are closed", func() bool { return countFiles(t) <= files })
	if s := p.State(); s.Joined || s.Why == "" {
		t.Errorf("State() after Close = %+v", s)
	}
	if n, err := p.Write([]frame.Frame{{Data: make([]byte, 60)}}); n != 0 || err == nil {
		t.Errorf("Write() after Close = %d, %v; want an error", n, err)
	}
}

func countFiles(t *testing.T) int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	return len(names)
}

func TestCloseKeepsWhatIsUsed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		use    func(t *testing.T)
		unused bool
	}{
		{"other port", func(t *testing.T) {
			must(t, netlink.LinkSetMaster(addTAP(t, "c1"), link(t, "weave")))
		}, false},
		{"IPv4 address", func(t *testing.T) { addAddress(t, "weave", "10.0.0.1/24") }, false},
		{"IPv6 address", func(t *testing.T) { addAddress(t, "weave", "fd00::1/64") }, false},
		{"link-local address of the kernel", func(t *testing.T) { addAddress(t, "weave", "fe80::1/64") }, true},
		{"tag was removed", func(t *testing.T) { must(t, netlink.LinkSetAlias(link(t, "weave"), "mine now")) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			namespace(t)
			p, err := Open(Config{CreateBridge: true})
			must(t, err)
			tt.use(t)
			must(t, p.Close())
			if got := slices.Contains(links(t), "weave bridge"); got == tt.unused {
				t.Errorf("bridge is there: %v, want %v", got, !tt.unused)
			}
			if slices.Contains(links(t), "meshd0 tuntap") {
				t.Error("port is still there")
			}
		})
	}
}

func addAddress(t *testing.T, device, cidr string) {
	t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	must(t, err)
	addr.Flags = unix.IFA_F_NODAD
	must(t, netlink.AddrAdd(link(t, device), addr))
}

func TestForeignBridgeIsLeftAsItIs(t *testing.T) {
	namespace(t)
	l := addBridge(t, "weave")
	must(t, netlink.LinkSetMTU(l, 1450))
	must(t, netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 9, 9, 9, 9, 9}))
	addAddress(t, "weave", "10.0.0.1/24")
	must(t, netlink.LinkSetUp(l))
	p, err := Open(Config{CreateBridge: true, MTU: 1300, PeerName: peerName})
	must(t, err)
	if p.MTU() != 1450 || link(t, "meshd0").Attrs().MTU != 1450 {
		t.Errorf("port's MTU = %d, want that of the bridge, 1450", p.MTU())
	}
	check := func(when string) {
		t.Helper()
		a := link(t, "weave").Attrs()
		if a.MTU != 1450 || a.HardwareAddr.String() != "02:09:09:09:09:09" || a.Alias != "" || a.Index != l.Attrs().Index {
			t.Errorf("%s: bridge = MTU %d, MAC %s, alias %q, index %d", when, a.MTU, a.HardwareAddr, a.Alias, a.Index)
		}
	}
	check("joined")
	must(t, p.Close())
	check("closed")
	if _, err := RemoveBridge("weave"); !errors.Is(err, ErrForeign) {
		t.Errorf("RemoveBridge(foreign) = %v, want %v", err, ErrForeign)
	}
	check("not removed")
}

// What the bridge has learnt at other ports may be behind ours from now on: frames to it
// are not to go there any more.
func TestForgetsWhereMACsWere(t *testing.T) {
	namespace(t)
	addBridge(t, "weave")
	must(t, netlink.LinkSetUp(link(t, "weave")))
	w := wire(t, "weave", 1500)
	there, byHand := frame.MAC{2, 0, 0, 0, 0, 9}, frame.MAC{2, 0, 0, 0, 0, 8}
	knows := func(mac frame.MAC) bool {
		entries, err := netlink.NeighList(w.index, unix.AF_BRIDGE)
		must(t, err)
		return slices.ContainsFunc(entries, func(n netlink.Neigh) bool { return bytes.Equal(n.HardwareAddr, mac[:]) })
	}
	learnt := func() bool { return knows(there) }
	must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: w.index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: byHand[:]}))
	eventually(t, "the bridge learns a MAC", func() bool {
		return inject(w, ethernet(broadcast, there, append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)) == nil && learnt()
	})
	p := open(t, Config{})
	if learnt() {
		t.Error("the bridge knows the MAC at another port still")
	}
	if !knows(byHand) {
		t.Error("the bridge forgot what it was told by hand")
	}
	// Neither is it forgotten again and again.
	eventually(t, "the bridge learns a MAC", func() bool {
		return inject(w, ethernet(broadcast, there, append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)) == nil && learnt()
	})
	p.repair()
	if !learnt() {
		t.Error("the bridge forgot a MAC though the port was joined")
	}
}

func TestMTU(t *testing.T) {
	for _, tt := range []struct {
		name                string
		prepare             func(t *testing.T)
		want, port, bridged int
	}{
		{"default", func(*testing.T) {}, 0, DefaultMTU, DefaultMTU},
		{"given", func(*testing.T) {}, 9000, 9000, 9000},
		{"the kernel's default", func(*testing.T) {}, 1500, 1500, 1500},
		{"our unused bridge takes another", leaveBridge, 1400, 1400, 1400},
		{"our used bridge keeps its own", func(t *testing.T) {
			leaveBridge(t)
			must(t, netlink.LinkSetMaster(addTAP(t, "c1"), link(t, "weave")))
		}, 1400, DefaultMTU, DefaultMTU},
		{"stock bridge with the highest", func(t *testing.T) {
			must(t, netlink.LinkSetMTU(addBridge(t, "weave"), 65535))
		}, 0, 65521, 65535},
	} {
		t.Run(tt.name, func(t *testing.T) {
			namespace(t)
			tt.prepare(t)
			p := open(t, Config{CreateBridge: true, MTU: tt.want})
			if got := p.MTU(); got != tt.port || link(t, "meshd0").Attrs().MTU != tt.port {
				t.Errorf("MTU() = %d, device has %d, want %d", got, link(t, "meshd0").Attrs().MTU, tt.port)
			}
			// A port with a lower MTU does not lower the bridge's.
			low := addTAP(t, "low0")
			must(t, netlink.LinkSetMTU(low, 1000))
			must(t, netlink.LinkSetMaster(low, link(t, "weave")))
			if got := link(t, "weave").Attrs().MTU; got != tt.bridged {
				t.Errorf("bridge's MTU = %d, want %d", got, tt.bridged)
			}
		})
	}
}

// leaveBridge makes what a killed daemon leaves: the bridge.
func leaveBridge(t *testing.T) {
	t.Helper()
	p, err := Open(Config{CreateBridge: true})
	must(t, err)
	must(t, p.closeDevice())
}

func TestTakesOverWhatAKilledDaemonLeft(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave func(t *testing.T)
	}{
		{"bridge", leaveBridge},
		{"bridge and persistent TAP", func(t *testing.T) {
			leaveBridge(t)
			l := addTAP(t, "meshd0")
			must(t, netlink.LinkSetAlias(l, portTag))
			must(t, netlink.LinkSetMaster(l, link(t, "weave")))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			backends(t, func(t *testing.T, mode string) {
				before := links(t)
				tt.leave(t)
				p, err := Open(Config{CreateBridge: true, Offload: mode})
				must(t, err)
				if link(t, "meshd0").Attrs().MasterIndex != link(t, "weave").Attrs().Index {
					t.Error("port is not on the bridge")
				}
				must(t, p.Close())
				if after := links(t); !slices.Equal(before, after) {
					t.Errorf("links after Close = %v, want %v", after, before)
				}
			})
		})
	}
}

// A kernel with Open vSwitch cannot be counted on.
func TestDatapathIsNoBridge(t *testing.T) {
	err := (&Port{bridge: "weave"}).notBridge(&netlink.GenericLink{LinkType: "openvswitch"})
	if !errors.Is(err, ErrNotBridge) || !strings.Contains(err.Error(), "`weave reset`") {
		t.Errorf("notBridge(openvswitch) = %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cfg     Config
		prepare func(t *testing.T)
		want    error
		text    string // in the message
	}{
		{"no bridge and not to make one", Config{}, nothing, ErrNoBridge, "weave"},
		{"bridge name is a TAP", Config{CreateBridge: true}, func(t *testing.T) { addTAP(t, "weave") }, ErrNotBridge, "kind tuntap"},
		{"bridge name is the loopback", Config{Bridge: "lo", CreateBridge: true}, nothing, ErrNotBridge, "lo"},
		{"TAP name is a bridge", Config{CreateBridge: true}, func(t *testing.T) { addBridge(t, "meshd0") }, ErrDeviceTaken, "kind bridge"},
		{"TAP name is a TAP of another", Config{CreateBridge: true}, func(t *testing.T) { addTAP(t, "meshd0") }, ErrDeviceTaken, "meshd0"},
		{"second daemon", Config{CreateBridge: true}, func(t *testing.T) { open(t, Config{CreateBridge: true}) }, ErrRunning, "meshd0"},
		{"second daemon with a TAP of another name", Config{CreateBridge: true, Device: "meshd1"},
			func(t *testing.T) { open(t, Config{CreateBridge: true}) }, ErrRunning, "meshd0"},
		{"no right", Config{CreateBridge: true}, dropNetAdmin, ErrPrivilege, "root"},
		{"no /dev/net/tun", Config{CreateBridge: true}, hideTun, ErrNoTun, tunPath},
		{"bad bridge name", Config{Bridge: "a/b"}, nothing, nil, "not a name"},
		{"bad device name", Config{Device: "a-name-too-long-by-far"}, nothing, nil, "not a name"},
		{"unknown offload mode", Config{Offload: "maybe", CreateBridge: true}, nothing, nil, "tap.offload"},
		{"one name for both", Config{Device: "x", Bridge: "x"}, nothing, nil, "both"},
		{"MTU that the kernel refuses", Config{MTU: 10, CreateBridge: true}, nothing, nil, "MTU"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			namespace(t)
			tt.prepare(t)
			before := links(t)
			p, err := Open(tt.cfg)
			if err == nil {
				p.Close()
				t.Fatal("Open() = nil error")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Open() = %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Open() = %v, want %q in it", err, tt.text)
			}
			if after := links(t); !slices.Equal(before, after) {
				t.Errorf("links after the refusal = %v, want %v", after, before)
			}
		})
	}
}

func nothing(*testing.T) {}

// dropNetAdmin takes the capability from this thread alone.
func dropNetAdmin(t *testing.T) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&hdr, &data[0]))
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	must(t, unix.Capset(&hdr, &data[0]))
}

// hideTun hides /dev/net from this thread alone.
func hideTun(t *testing.T) {
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("none", "/dev/net", "tmpfs", 0, ""))
}

func TestRemoveBridge(t *testing.T) {
	namespace(t)
	before := links(t)
	wantRemoved(t, false)
	leaveBridge(t)
	addAddress(t, "weave", "10.0.0.1/24")
	wantRemoved(t, true)
	if after := links(t); !slices.Equal(before, after) {
		t.Errorf("links = %v, want %v", after, before)
	}
	addTAP(t, "weave")
	if _, err := RemoveBridge("weave"); !errors.Is(err, ErrForeign) {
		t.Errorf("RemoveBridge(TAP) = %v, want %v", err, ErrForeign)
	}
}

func wantRemoved(t *testing.T, want bool) {
	t.Helper()
	if removed, err := RemoveBridge("weave"); removed != want || err != nil {
		t.Errorf("RemoveBridge() = %v, %v, want %v", removed, err, want)
	}
}

func TestRunTwice(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		w := wire(t, "weave", p.MTU())
		for range 3 {
			frames, stop := run(t, p)
			flows(t, p, w, frames)
			stop()
		}
	})
}

func TestRunWithDoneContext(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx, func([]frame.Frame) { t.Error("frames after the end") }); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}
