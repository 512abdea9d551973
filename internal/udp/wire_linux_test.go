package udp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// wire is a network of one host, seen from its cable:
//
//	Conn ── link "host" (10.9.0.1, fd00::1, fe80::1; MTU 1500) ═ veth ═ "far" ── packet socket
//
// Every other address is behind farMAC. All lies in a namespace of the test's
// own thread, and ends with it.
type wire struct {
	t       *testing.T
	fd      int // packet socket on far
	hostMAC frame.MAC
}

var farMAC = frame.MAC{0x02, 0, 0, 0, 0, 0x0f}

const linkMTU = 1500

var (
	host4, host6 = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd00::1")
	far4, far6   = netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00::2")
)

// onWire runs f for both families, with the host's and two far addresses.
func onWire(t *testing.T, f func(t *testing.T, w *wire, host, far, other netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, newWire(t), host4, far4, netip.MustParseAddr("10.9.0.3")) })
	t.Run("IPv6", func(t *testing.T) { f(t, newWire(t), host6, far6, netip.MustParseAddr("fd00::3")) })
}

func newWire(t *testing.T) *wire {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		runtime.UnlockOSThread()
		t.Skip("making a network namespace needs CAP_SYS_ADMIN")
	} else if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t}
	veth := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "far"}
	veth.Name, veth.MTU = "host", linkMTU
	w.check(netlink.LinkAdd(veth))
	host, far := w.up("host"), w.up("far")
	w.up("lo")
	w.hostMAC = frame.MAC(host.Attrs().HardwareAddr)
	for _, prefix := range []string{"10.9.0.1/24", "fd00::1/64", "fe80::1/64"} {
		addr, err := netlink.ParseAddr(prefix)
		w.check(err)
		addr.Flags = unix.IFA_F_NODAD
		w.check(netlink.AddrReplace(host, addr))
	}
	for _, ip := range []string{"10.9.0.2", "10.9.0.3", "fd00::2", "fd00::3", "fe80::2"} {
		w.check(netlink.NeighSet(&netlink.Neigh{
			LinkIndex: host.Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: netip.MustParseAddr(ip).AsSlice(), HardwareAddr: farMAC[:],
		}))
	}
	w.openPacketSocket(far.Attrs().Index)
	w.waitUp("host")
	w.waitUp("far")
	return w
}

// waitUp waits until a link transmits: on a busy machine the kernel takes its time
// to notice the carrier, and drops what is sent before.
func (w *wire) waitUp(name string) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		l, err := netlink.LinkByName(name)
		w.check(err)
		if l.Attrs().OperState == netlink.OperUp {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("link %s is %v", name, l.Attrs().OperState)
		}
	}
}

func (w *wire) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) up(name string) netlink.Link {
	w.t.Helper()
	l, err := netlink.LinkByName(name)
	w.check(err)
	w.check(netlink.LinkSetUp(l))
	return l
}

func (w *wire) openPacketSocket(index int) {
	w.t.Helper()
	protocol := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	w.check(err)
	w.t.Cleanup(func() { unix.Close(fd) })
	w.check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20))
	w.check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	w.check(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index}))
	w.fd = fd
}

// packet is an IP packet with UDP on the wire.
type packet struct {
	frame   []byte
	df      bool
	port    uint16 // source port; 0 for fragments other than the first
	size    int    // of the IP packet
	payload int    // bytes of UDP header and payload
	more    bool   // more fragments follow
}

// next waits for the next packet from the host to dst.
func (w *wire) next(dst netip.Addr) packet {
	w.t.Helper()
	for {
		b := make([]byte, 70000)
		n, _, err := unix.Recvfrom(w.fd, b, 0)
		w.check(err)
		if p, ok := parse(b[:n], dst); ok {
			return p
		}
	}
}

func parse(b []byte, dst netip.Addr) (packet, bool) {
	c := frame.Classify(b)
	p := packet{frame: b, df: c.Kind == frame.IPv4DF, size: c.Len}
	ip, udp, offset := b[c.L3:], 0, 0
	switch c.Kind {
	case frame.IPv4, frame.IPv4DF:
		flags := int(binary.BigEndian.Uint16(ip[6:]))
		udp, offset, p.more = 20, flags&0x1fff, flags&0x2000 != 0
		if ip[9] != unix.IPPROTO_UDP || !bytes.Equal(ip[16:20], dst.AsSlice()) {
			return p, false
		}
	case frame.IPv6:
		udp = 40
		if !bytes.Equal(ip[24:40], dst.AsSlice()) {
			return p, false
		}
		if ip[6] == unix.IPPROTO_FRAGMENT {
			flags := int(binary.BigEndian.Uint16(ip[42:]))
			udp, offset, p.more = 48, flags>>3, flags&1 != 0
		} else if ip[6] != unix.IPPROTO_UDP {
			return p, false
		}
	default:
		return p, false
	}
	if p.payload = c.Len - udp; offset == 0 {
		p.port = binary.BigEndian.Uint16(ip[udp:])
	}
	return p, true
}

// header is the length of IP and UDP header.
func header(ip netip.Addr) int {
	if ip.Is4() {
		return 28
	}
	return 48
}

func TestDFOnWire(t *testing.T) {
	onWire(t, func(t *testing.T, w *wire, host, far, _ netip.Addr) {
		c := listenOn(t, host)
		to := netip.AddrPortFrom(far, 6783)
		fits := linkMTU - header(far)
		for _, df := range []bool{true, false} {
			if n, err := c.WriteBatch([]Message{message(1, fits, to)}, df); n != 1 || err != nil {
				t.Fatalf("WriteBatch(df %v) = %d, %v", df, n, err)
			}
			p := w.next(far)
			if p.port != c.LocalAddr().Port() || p.size != linkMTU || p.more {
				t.Errorf("df %v: packet %+v, want %d bytes from port %d", df, p, linkMTU, c.LocalAddr().Port())
			}
			if far.Is4() && p.df != df {
				t.Errorf("the packet has DF %v, want %v", p.df, df)
			}
		}
		// The second of three is too big, and the third goes when asked for.
		ms := []Message{message(1, fits, to), message(2, fits+1, to), message(3, 10, to)}
		if n, err := c.WriteBatch(ms, true); n != 1 || err != ErrTooBig {
			t.Errorf("WriteBatch = %d, %v; want 1, %v", n, err, ErrTooBig)
		}
		if n, err := c.WriteBatch(ms[2:], true); n != 1 || err != nil {
			t.Errorf("WriteBatch of the rest = %d, %v", n, err)
		}
		for _, want := range []int{fits + 8, 18} {
			if p := w.next(far); p.payload != want {
				t.Errorf("payload of %d bytes, want %d", p.payload, want)
			}
		}
	})
}

// TestFragmentsOnWire sends the datagram of weave's fragmentation test.
func TestFragmentsOnWire(t *testing.T) {
	onWire(t, func(t *testing.T, w *wire, host, far, _ netip.Addr) {
		c := listenOn(t, host)
		const size = 60021
		if n, err := c.WriteBatch([]Message{message(1, size, netip.AddrPortFrom(far, 6783))}, false); n != 1 || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		w.wantFragments(c, far, size, linkMTU)
		if n, err := c.WriteBatch([]Message{message(1, size, netip.AddrPortFrom(far, 6783))}, true); n != 0 || err != ErrTooBig {
			t.Errorf("WriteBatch with DF = %d, %v; want 0, %v", n, err, ErrTooBig)
		}
	})
}

// wantFragments receives one datagram of size bytes in fragments of at most mtu.
func (w *wire) wantFragments(c *Conn, far netip.Addr, size, mtu int) {
	w.t.Helper()
	total, count := 0, 0
	for more := true; more; count++ {
		p := w.next(far)
		if count == 0 && p.port != c.LocalAddr().Port() {
			w.t.Errorf("source port %d, want %d", p.port, c.LocalAddr().Port())
		}
		if p.df || p.size > mtu {
			w.t.Errorf("fragment %d: DF %v, %d bytes", count, p.df, p.size)
		}
		total, more = total+p.payload, p.more
	}
	if want := size + 8; total != want || count < 2 {
		w.t.Errorf("%d bytes in %d fragments, want %d", total, count, want)
	}
}

// TestPathMTULearnt: an ICMP error lowers what one destination is sent, and
// fails no send, neither to it nor to another.
func TestPathMTULearnt(t *testing.T) {
	const mtu = 1372
	onWire(t, func(t *testing.T, w *wire, host, far, other netip.Addr) {
		c := listenOn(t, host)
		to, toOther := netip.AddrPortFrom(far, 6783), netip.AddrPortFrom(other, 6783)
		if got, err := c.PathMTU(to); got != linkMTU || err != nil {
			t.Fatalf("PathMTU = %d, %v; want %d", got, err, linkMTU)
		}
		fits := linkMTU - header(far)
		if _, err := c.WriteBatch([]Message{message(1, fits, to)}, true); err != nil {
			t.Fatal(err)
		}
		w.answerTooBig(w.next(far).frame, mtu)
		w.waitMTU(c, to, mtu)

		if n, err := c.WriteBatch([]Message{message(1, mtu-header(far), to), message(2, mtu-header(far)+1, to)}, true); n != 1 || err != ErrTooBig {
			t.Errorf("WriteBatch = %d, %v; want 1, %v", n, err, ErrTooBig)
		}
		if p := w.next(far); p.size != mtu {
			t.Errorf("a packet of %d bytes, want %d", p.size, mtu)
		}
		if n, err := c.WriteBatch([]Message{message(3, fits, to), message(4, 9000, to)}, false); n != 2 || err != nil {
			t.Errorf("WriteBatch without DF = %d, %v", n, err)
		}
		w.wantFragments(c, far, fits, mtu)
		w.wantFragments(c, far, 9000, mtu)

		if got, err := c.PathMTU(toOther); got != linkMTU || err != nil {
			t.Errorf("PathMTU of another = %d, %v; want %d", got, err, linkMTU)
		}
		if n, err := c.WriteBatch([]Message{message(5, fits, toOther)}, true); n != 1 || err != nil {
			t.Errorf("WriteBatch to another = %d, %v", n, err)
		}
	})
}

func (w *wire) answerTooBig(orig []byte, mtu int) {
	w.t.Helper()
	reply, ok := frame.AppendFragNeeded(nil, orig, mtu)
	if !ok {
		reply, ok = frame.AppendPacketTooBig(nil, orig, mtu)
	}
	if !ok {
		w.t.Fatalf("no answer to %x", orig[:64])
	}
	_, err := unix.Write(w.fd, reply)
	w.check(err)
}

// waitMTU waits until the kernel has taken in an ICMP error: it passes the veth
// pair in a softirq, usually before write returns.
func (w *wire) waitMTU(c *Conn, to netip.AddrPort, want int) {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		got, err := c.PathMTU(to)
		w.check(err)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("PathMTU = %d, want %d", got, want)
		}
	}
}

// TestErrFull fills a small send buffer with datagrams that wait for a
// neighbour nobody answers for.
func TestErrFull(t *testing.T) {
	w := newWire(t)
	c := listenOn(t, host4)
	nobody := netip.MustParseAddrPort("10.9.0.99:6783")
	for _, fd := range []int{c.df, c.plain} {
		w.check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1))
	}
	var ms []Message
	for range MaxBatch {
		ms = append(ms, message(1, 1000, nobody))
	}
	for _, df := range []bool{true, false} {
		n, err := c.WriteBatch(ms, df)
		if err != ErrFull || n == 0 || n == len(ms) {
			t.Errorf("WriteBatch = %d, %v; want some, %v", n, err, ErrFull)
		}
	}
}

// TestNoRoute: what the kernel says of a destination comes through as it is.
func TestNoRoute(t *testing.T) {
	newWire(t)
	c := listenOn(t, netip.IPv4Unspecified())
	ms := []Message{message(1, 10, netip.AddrPortFrom(far4, 9)), message(2, 10, netip.MustParseAddrPort("203.0.113.1:9"))}
	for _, df := range []bool{true, false} {
		if n, err := c.WriteBatch(ms, df); n != 1 || !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("WriteBatch = %d, %v; want 1, %v", n, err, unix.ENETUNREACH)
		}
	}
	if _, err := c.PathMTU(ms[1].Addr); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("PathMTU = %v, want %v", err, unix.ENETUNREACH)
	}
}

// TestLinkLocal: the zone of an address goes both ways.
func TestLinkLocal(t *testing.T) {
	w := newWire(t)
	c := listenOn(t, netip.IPv6Unspecified())
	far := netip.MustParseAddrPort("[fe80::2%host]:6783")
	if n, err := c.WriteBatch([]Message{message(1, 100, far)}, true); n != 1 || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	p := w.next(far.Addr().WithZone(""))
	_, err := unix.Write(w.fd, turnUDP6(p.frame))
	w.check(err)
	got := readAll(t, c, 1)[0]
	if got.Addr != far || got.N != 100 {
		t.Errorf("%d bytes from %v, want 100 from %v", got.N, got.Addr, far)
	}
	if mtu, err := c.PathMTU(far); mtu != linkMTU || err != nil {
		t.Errorf("PathMTU = %d, %v; want %d", mtu, err, linkMTU)
	}
}

// turnUDP6 makes of a UDP packet the same one in the other direction.
func turnUDP6(b []byte) []byte {
	const ip, udp = frame.HeaderLen, frame.HeaderLen + 40
	turned := bytes.Clone(b)
	copy(turned, b[6:12])
	copy(turned[6:], b[:6])
	copy(turned[ip+8:], b[ip+24:ip+40])
	copy(turned[ip+24:], b[ip+8:ip+24])
	copy(turned[udp:], b[udp+2:udp+4])
	copy(turned[udp+2:], b[udp:udp+2])
	// The kernel had left the checksum to the device.
	binary.BigEndian.PutUint16(turned[udp+6:], 0)
	sum := frame.PseudoSum(turned[ip+8:ip+40], unix.IPPROTO_UDP, len(turned)-udp)
	binary.BigEndian.PutUint16(turned[udp+6:], ^frame.Sum(sum, turned[udp:]))
	return turned
}
