package claim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"meshd/internal/dump"
	"meshd/internal/frame"
)

// maxMessage is the longest message in bytes that is read; those that matter have
// fewer than 100.
const maxMessage = 2048

// ErrNoDevice says that there is no such device in the namespace.
var ErrNoDevice = errors.New("there is no such device")

// ErrDown says that the device is down, so that nobody would hear us.
var ErrDown = errors.New("the device is down")

// wire sends and receives frames of one device.
type wire struct {
	device string
	mac    frame.MAC
	file   *os.File
	locals []local
}

// local is an address of this host.
type local struct {
	addr   netip.Addr
	device string
	mac    frame.MAC
}

// dial opens a device of the thread's namespace for sending. listening: to receive
// too, and to know the host's addresses.
func dial(device string, listening bool) (*wire, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	link, err := nl.LinkByName(device)
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil, fmt.Errorf("device %s: %w", device, ErrNoDevice)
	}
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", device, err)
	}
	a := link.Attrs()
	w := &wire{device: device}
	if len(a.HardwareAddr) != len(w.mac) {
		return nil, fmt.Errorf("device %s is not an Ethernet device", device)
	}
	w.mac = frame.MAC(a.HardwareAddr)
	if a.Flags&net.FlagUp == 0 {
		return nil, fmt.Errorf("device %s: %w", device, ErrDown)
	}
	if listening {
		if w.locals, err = localAddresses(nl); err != nil {
			return nil, err
		}
	}
	fd, err := packetSocket(a.Index, listening)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", device, err)
	}
	w.file = os.NewFile(uintptr(fd), device)
	return w, nil
}

// localAddresses lists the addresses of all devices of the host: it answers for any
// of them on every device.
func localAddresses(nl *netlink.Handle) ([]local, error) {
	links, err := dump.Whole(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	addrs, err := dump.Whole(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	devices := map[int]*netlink.LinkAttrs{}
	for _, link := range links {
		devices[link.Attrs().Index] = link.Attrs()
	}
	var out []local
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		d := devices[a.LinkIndex]
		if !ok || d == nil {
			continue
		}
		l := local{addr: addr.Unmap(), device: d.Name}
		copy(l.mac[:], d.HardwareAddr)
		out = append(out, l)
	}
	return out, nil
}

// packetSocket opens a socket on a device; without listening it receives nothing.
func packetSocket(index int, listening bool) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	addr := &unix.SockaddrLinklayer{Ifindex: index}
	if listening {
		if err := prepare(fd, index); err != nil {
			return -1, err
		}
		// All types: a socket for ARP only would be given frames of VLANs without
		// their tags, and could not tell them from ours.
		addr.Protocol = bigEndian(unix.ETH_P_ALL)
	}
	// Bound last, so that nothing that the filter keeps away is queued before.
	return fd, os.NewSyscallError("bind", unix.Bind(fd, addr))
}

// prepare keeps from a socket what does not matter, and lets in what does.
func prepare(fd, index int) error {
	program, err := filter()
	if err != nil {
		return err
	}
	fprog := &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog); err != nil {
		return os.NewSyscallError("attach filter", err)
	}
	// Advertisements to all nodes, and others' probes to groups that we are not in.
	all := &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_ALLMULTI}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, all); err != nil {
		return os.NewSyscallError("receive all multicast", err)
	}
	// Since Linux 4.20; before, our own frames are told by their source.
	_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	return nil
}

// filter lets untagged ARP and ICMPv6 through. The kernel has taken the tag out of
// the frame before it asks.
func filter() ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 6},
		bpf.LoadAbsolute{Off: frame.HeaderLen - 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: frame.EtherTypeARP, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: frame.EtherTypeIPv6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ipv6Next, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoICMPv6, SkipTrue: 1},
		bpf.RetConstant{Val: maxMessage},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	out := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		out[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return out, nil
}

// send sends frames.
func (w *wire) send(frames [][]byte) error {
	for _, f := range frames {
		if _, err := w.file.Write(f); err != nil {
			return fmt.Errorf("send on %s: %w", w.device, w.why(err))
		}
	}
	return nil
}

// receive calls use with what frames say about addresses until it returns true, the
// end has come, or ctx is done.
func (w *wire) receive(ctx context.Context, end time.Time, use func(sign) bool) error {
	if err := w.file.SetReadDeadline(end); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxMessage)
	for ctx.Err() == nil {
		n, err := w.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w", w.device, w.why(err))
		}
		if s, ok := parse(buf[:n]); ok && use(s) {
			break
		}
	}
	return ctx.Err()
}

// why says in words that the device went away.
func (w *wire) why(err error) error {
	switch {
	case errors.Is(err, unix.ENETDOWN):
		return ErrDown
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return ErrNoDevice
	}
	return err
}

func (w *wire) close() error { return w.file.Close() }

// bigEndian is htons.
func bigEndian(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
