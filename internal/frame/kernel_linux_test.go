package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernelMTU lets every segment size pass.
const kernelMTU = 65000

// typeMarker is the EtherType of the frames that say that all before them came.
const typeMarker = 0x88b5

// kernel is the kernel as a cutter of super-frames, in a namespace of its own:
//
//	we write ── TAP (vnet_hdr) ═ bridge ═ veth "host" ═ veth "mesh" ── packet socket: we read
//	                                      └ no offloads: segments and sums are made here
type kernel struct {
	tap   *os.File
	wire  int
	marks byte
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	enterNamespace(t)
	oneCPU(t)
	quietIPv6(t)
	host, mesh := vethPair(t)
	tap, link := newTap(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "bridge"
	if err := netlink.LinkAdd(bridge); errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip("this kernel has no bridges")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, l := range []netlink.Link{host, mesh, link} {
		check(t, netlink.LinkSetMTU(l, kernelMTU))
	}
	for _, feature := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_STXCSUM} {
		offloadOff(t, "host", feature)
	}
	check(t, netlink.LinkSetMaster(host, bridge))
	check(t, netlink.LinkSetMaster(link, bridge))
	check(t, netlink.LinkSetUp(link))
	check(t, netlink.LinkSetUp(bridge))
	awaitRunning(t, bridge)
	k := &kernel{tap: tap, wire: packetSocket(t, mesh)}
	check(t, unix.SetsockoptInt(k.wire, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	return k
}

// oneCPU keeps the thread on one CPU: what it sends stays in order then.
func oneCPU(t *testing.T) {
	t.Helper()
	var all, one unix.CPUSet
	check(t, unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	check(t, unix.SchedSetaffinity(0, &one))
}

// quietIPv6 keeps the kernel from sending frames of its own.
func quietIPv6(t *testing.T) {
	t.Helper()
	// What /proc/sys/net shows is the namespace of the thread that looks.
	check(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
}

// newTap makes a TAP device that takes a virtio-net header before each frame.
func newTap(t *testing.T) (*os.File, netlink.Link) {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("there is no /dev/net/tun")
	}
	check(t, err)
	f := os.NewFile(uintptr(fd), "tap")
	t.Cleanup(func() { f.Close() })
	req, err := unix.NewIfreq("tap")
	check(t, err)
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	check(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	link, err := netlink.LinkByName("tap")
	check(t, err)
	return f, link
}

// offloadOff switches a feature of an interface off.
func offloadOff(t *testing.T, name string, feature uint32) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	value := [2]uint32{feature, 0} // struct ethtool_value
	req := struct {                // struct ifreq
		name [unix.IFNAMSIZ]byte
		data *[2]uint32
		_    [16]byte
	}{data: &value}
	copy(req.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		t.Fatal(errno)
	}
}

// vnetHdr is struct virtio_net_hdr.
func vnetHdr(o Offload) []byte {
	b := []byte{o.Flags, o.GSOType}
	for _, x := range []uint16{o.HdrLen, o.GSOSize, o.CsumStart, o.CsumOffset} {
		b = binary.NativeEndian.AppendUint16(b, x)
	}
	return b
}

// pass writes a frame in pieces to the TAP and returns what arrives. refused
// says that the kernel did not take the frame.
func (k *kernel) pass(t *testing.T, o Offload, pieces ...[]byte) (frames [][]byte, refused bool) {
	t.Helper()
	_, err := k.tap.Write(append(vnetHdr(o), bytes.Join(pieces, nil)...))
	if errors.Is(err, unix.EINVAL) {
		return nil, true
	}
	check(t, err)
	k.marks++
	mark := ethernet(typeMarker, append(make([]byte, 45), k.marks))
	_, err = k.tap.Write(append(vnetHdr(Offload{}), mark...))
	check(t, err)
	b, aux := make([]byte, 1<<17), make([]byte, 100)
	for {
		n, aux, err := receiveOne(k.wire, b, aux)
		check(t, err)
		f := withTag(bytes.Clone(b[:n]), aux)
		switch {
		case bytes.Equal(f, mark):
			return frames, false
		case Src(f) == macA:
			frames = append(frames, f)
		}
	}
}

// wantSame compares what we made of a frame with what the kernel made.
func wantSame(t *testing.T, what string, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d frames, the kernel makes %d", what, len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			at := 0
			for at < len(got[i]) && at < len(want[i]) && got[i][at] == want[i][at] {
				at++
			}
			n := min(160, len(got[i]))
			t.Fatalf("%s: frame %d of %d differs at %d of %d (the kernel's has %d bytes)\n%x\n%x",
				what, i, len(want), at, len(got[i]), len(want[i]), got[i][:n], want[i][:min(160, len(want[i]))])
		}
	}
}

// TestCutAsKernel: for random frames the segments are the kernel's, byte for
// byte.
func TestCutAsKernel(t *testing.T) {
	k := newKernel(t)
	rng := rand.New(rand.NewPCG(5, 6))
	var c Cutter
	cut, lost := 0, 0
	for i := range 1500 {
		r := randomRecipe(rng, []int{100, 5000, 60000}[i%3])
		size := max(1, len(r.payload)/(1+rng.IntN(50)))
		f := r.super(size)
		switch rng.IntN(8) {
		case 0: // an ordinary frame
			f = r.partial()
		case 1: // no pseudo header; for UDP that is a checksum switched off
			l, _ := findLayers(f.Data)
			if r.udp {
				continue
			}
			f.Offload.Flags, f.Offload.CsumStart, f.Offload.CsumOffset = 0, 0, 0
			copy(f.Data[l.l4+l.checksumOffset():], count(2))
		case 2: // a wrong sum stays as wrong as it is
			l, _ := findLayers(f.Data)
			copy(f.Data[l.l4+l.checksumOffset():], []byte{byte(rng.Uint32()), byte(rng.Uint32())})
		}
		want, refused := k.pass(t, f.Offload, f.Data)
		if refused {
			t.Fatalf("%s: the kernel refuses it", recipeString(r, f))
		}
		got := cutAll(t, &c, f)
		if len(want) == 0 && len(got) == 1 && f.Offload.GSOType != GSONone {
			lost++ // the kernel counts some headers when it asks whether there is something to cut
			continue
		}
		if len(got) > 1 {
			cut++
		}
		wantSame(t, recipeString(r, f), got, want)
	}
	if cut < 1000 || lost > 100 {
		t.Errorf("%d super-frames were cut, and %d got lost", cut, lost)
	}
}

// TestJoinForKernel: joined frames that are written to a TAP go on as the
// segments that they were made of.
func TestJoinForKernel(t *testing.T) {
	k := newKernel(t)
	rng := rand.New(rand.NewPCG(16, 16))
	j := NewJoiner(joinAll)
	joined := 0
	for range 500 {
		var flows [][]Frame
		for i := range 1 + rng.IntN(4) {
			r := randomRecipe(rng, 20000)
			r.ports = uint32(i)
			r.flags &^= tcpCWR
			segs := segments(t, r.super(max(1, len(r.payload)/(1+rng.IntN(40)))))
			if rng.IntN(4) == 0 {
				harm(rng, segs)
			}
			flows = append(flows, segs)
		}
		for _, o := range j.Join(shuffle(rng, flows)) {
			if o.Frames == 1 {
				continue // not the kernel's business
			}
			joined += o.Frames
			got, refused := k.pass(t, o.Offload, append([][]byte{o.Head}, o.Pieces...)...)
			if refused {
				t.Fatalf("the kernel refuses %+v with %d frames", o.Offload, o.Frames)
			}
			var c Cutter
			wantSame(t, "joined", cutAll(t, &c, whole(o)), got)
		}
	}
	if joined < 5000 {
		t.Errorf("only %d frames were joined", joined)
	}
}
