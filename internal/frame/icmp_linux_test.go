package frame

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestKernelBelievesICMP lets a kernel send packets that are too big, answers
// them, and asks what MTU it has learnt. All happens in one namespace:
//
//	UDP socket ── host (10.32.0.1, fd00::1) ═ veth ═ mesh ── packet socket: us
func TestKernelBelievesICMP(t *testing.T) {
	enterNamespace(t)
	host, mesh := vethPair(t)
	address(t, host, "10.32.0.1/24", "10.32.0.2")
	address(t, host, "fd00::1/64", "fd00::2")
	believes(t, mesh, "10.32.0.2:9", AppendFragNeeded, 1376)
	believes(t, mesh, "[fd00::2]:9", AppendPacketTooBig, 1376)
}

// TestKernelBelievesICMPInVLAN is the same with the host's address on VLAN 7.
func TestKernelBelievesICMPInVLAN(t *testing.T) {
	enterNamespace(t)
	host, mesh := vethPair(t)
	vlan := &netlink.Vlan{LinkAttrs: netlink.NewLinkAttrs(), VlanId: 7}
	vlan.Name, vlan.ParentIndex = "host.7", host.Attrs().Index
	err := netlink.LinkAdd(vlan)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no VLAN devices")
	}
	check(t, err)
	check(t, netlink.LinkSetUp(vlan))
	address(t, vlan, "10.33.0.1/24", "10.33.0.2")
	believes(t, mesh, "10.33.0.2:9", AppendFragNeeded, 1372)
}

// believes sends a packet of 1500 bytes or little less to dst, answers it for an
// MTU of 1376 and wants the route's MTU to become want.
func believes(t *testing.T, mesh netlink.Link, to string, answer func(dst, orig []byte, mtu int) ([]byte, bool), want int) {
	t.Helper()
	const payload = 1440
	dst := netip.MustParseAddrPort(to)
	wire, udp := packetSocket(t, mesh), udpSocket(t, dst)
	if got := routeMTU(t, udp, dst); got != 1500 {
		t.Fatalf("%s: the MTU is %d before, want 1500", dst, got)
	}
	_, err := unix.Write(udp, make([]byte, payload))
	check(t, err)
	reply, ok := answer(nil, receive(t, wire, payload), 1376)
	if !ok {
		t.Fatalf("%s: there is no answer", dst)
	}
	_, err = unix.Write(wire, reply)
	check(t, err)
	// The frame passes the veth pair in a softirq, usually before write returns.
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		got := routeMTU(t, udp, dst)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the kernel has learnt MTU %d, want %d", dst, got, want)
		}
	}
}

// enterNamespace moves the test's thread to a new network namespace. The thread
// stays locked, so it ends with the test, and the namespace with it.
func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		runtime.UnlockOSThread()
		t.Skip("making a network namespace needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func vethPair(t *testing.T) (host, mesh netlink.Link) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "mesh"}
	veth.Name = "host"
	check(t, netlink.LinkAdd(veth))
	links := [2]netlink.Link{}
	for i, name := range []string{"host", "mesh"} {
		l, err := netlink.LinkByName(name)
		check(t, err)
		check(t, netlink.LinkSetUp(l))
		links[i] = l
	}
	awaitRunning(t, links[:]...)
	return links[0], links[1]
}

// awaitRunning waits until links pass frames, which is a moment after they are
// set up: the first one might be lost else.
func awaitRunning(t *testing.T, links ...netlink.Link) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for _, link := range links {
		for {
			l, err := netlink.LinkByIndex(link.Attrs().Index)
			check(t, err)
			if l.Attrs().OperState == netlink.OperUp {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("link %s is %v", l.Attrs().Name, l.Attrs().OperState)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// address gives link an address and a neighbour that is macB.
func address(t *testing.T, link netlink.Link, prefix, neighbour string) {
	t.Helper()
	addr, err := netlink.ParseAddr(prefix)
	check(t, err)
	addr.Flags = unix.IFA_F_NODAD
	check(t, netlink.AddrAdd(link, addr))
	check(t, netlink.NeighAdd(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: netip.MustParseAddr(neighbour).AsSlice(), HardwareAddr: macB[:],
	}))
}

// packetSocket sends and receives whole frames on link.
func packetSocket(t *testing.T, link netlink.Link) int {
	t.Helper()
	protocol := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	check(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	check(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	check(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: link.Attrs().Index}))
	return fd
}

// receive waits for a frame with a UDP payload of n bytes.
func receive(t *testing.T, fd, n int) []byte {
	t.Helper()
	for {
		b, aux := make([]byte, 2000), make([]byte, 100)
		got, aux, err := receiveOne(fd, b, aux)
		check(t, err)
		b = withTag(b[:got], aux)
		if c := Classify(b); c.Kind == IPv4DF && c.Len == 28+n || c.Kind == IPv6 && c.Len == 48+n {
			return b
		}
	}
}

func receiveOne(fd int, b, aux []byte) (int, []byte, error) {
	n, auxLen, _, _, err := unix.Recvmsg(fd, b, aux, 0)
	return n, aux[:max(auxLen, 0)], err
}

// withTag puts back the VLAN tag that the kernel took out of a frame into the
// auxiliary data.
func withTag(b, aux []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(aux)
	if err != nil || len(messages) == 0 {
		return b
	}
	// struct tpacket_auxdata: status at 0, tag at 16, its type at 18
	data := messages[0].Data
	if binary.NativeEndian.Uint32(data)&unix.TP_STATUS_VLAN_VALID == 0 {
		return b
	}
	out := append([]byte{}, b[:12]...)
	out = append(out, tag(binary.NativeEndian.Uint16(data[18:]), binary.NativeEndian.Uint16(data[16:]))...)
	return append(out, b[12:]...)
}

// udpSocket is connected to dst and sets DF.
func udpSocket(t *testing.T, dst netip.AddrPort) int {
	t.Helper()
	family, level, option := unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: dst.Addr().As16(), Port: int(dst.Port())}
	if dst.Addr().Is4() {
		family, level, option = unix.AF_INET, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
		sa = &unix.SockaddrInet4{Addr: dst.Addr().As4(), Port: int(dst.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	check(t, unix.SetsockoptInt(fd, level, option, unix.IP_PMTUDISC_DO))
	check(t, unix.Connect(fd, sa))
	return fd
}

func routeMTU(t *testing.T, fd int, dst netip.AddrPort) int {
	t.Helper()
	level, option := unix.IPPROTO_IPV6, unix.IPV6_MTU
	if dst.Addr().Is4() {
		level, option = unix.IPPROTO_IP, unix.IP_MTU
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	check(t, err)
	return mtu
}
