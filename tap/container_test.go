package tap

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// container is a namespace whose eth0 is on a bridge, by a veth pair.
type container struct {
	t     testing.TB
	ns    netns.NsHandle
	index int // of eth0
	mac   []byte
	addrs [2]netip.Addr // IPv4, IPv6
}

// farContainer is the n-th container, which is on another host.
func farContainer(n int) *container {
	return &container{mac: []byte{2, 0, 0, 0, 1, byte(n)}, addrs: [2]netip.Addr{
		netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), netip.AddrFrom16([16]byte{0xfd, 15: byte(n)}),
	}}
}

// addContainer makes the n-th container on the bridge of the test's namespace.
func addContainer(t testing.TB, bridge string, mtu, n int) *container {
	t.Helper()
	c := farContainer(n)
	c.t, c.ns = t, newNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vc", mtu
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(c.ns), PeerHardwareAddr: c.mac})
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no veth")
	}
	must(t, err)
	must(t, setIPv6("vc", portSettings))
	must(t, netlink.LinkSetUp(link(t, "vc")))
	must(t, netlink.LinkSetMaster(link(t, "vc"), link(t, bridge)))
	c.do(func() {
		must(t, setIPv6("eth0", []setting{{"addr_gen_mode", "1"}}))
		eth0 := link(t, "eth0")
		c.index = eth0.Attrs().Index
		must(t, netlink.LinkSetMTU(eth0, mtu))
		must(t, netlink.LinkSetUp(eth0))
		for _, a := range c.addrs {
			addr, err := netlink.ParseAddr(netip.PrefixFrom(a, 24).String())
			must(t, err)
			addr.Flags = unix.IFA_F_NODAD
			must(t, netlink.AddrAdd(eth0, addr))
		}
		awaitCarrier(t, "eth0")
	})
	awaitCarrier(t, "vc")
	return c
}

// awaitCarrier waits until an end of a cable transmits: the kernel notices the
// carrier a moment later and drops what is sent before.
func awaitCarrier(t testing.TB, name string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); link(t, name).Attrs().OperState != netlink.OperUp; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s has no carrier", name)
		}
	}
}

// newNamespace makes a namespace and stays in this one.
func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	must(t, netns.Set(here))
	return ns
}

// do calls f in the container; the caller's thread must be locked.
func (c *container) do(f func()) {
	c.t.Helper()
	inNamespace(c.t, c.ns, f)
}

func inNamespace(t testing.TB, ns netns.NsHandle, f func()) {
	t.Helper()
	here, err := netns.Get()
	must(t, err)
	defer here.Close()
	must(t, netns.Set(ns))
	f()
	must(t, netns.Set(here))
}

// packetSocket opens a packet socket on eth0. What it sends and receives begins
// with a virtio-net header.
func (c *container) packetSocket() *device {
	c.t.Helper()
	d := &device{index: c.index, vnet: true}
	c.do(func() {
		var err error
		d.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		must(c.t, err)
		must(c.t, unix.SetsockoptInt(d.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
		must(c.t, unix.Bind(d.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: c.index}))
	})
	c.t.Cleanup(func() { unix.Close(d.fd) })
	return d
}
