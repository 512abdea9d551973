package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	vlanTagAt  = 12 // where an 802.1Q tag stands in a frame, in bytes
	vlanTagLen = 4
	// captureBuffer is the socket buffer of a capture in bytes: a busy machine
	// must not make it lose frames.
	captureBuffer = 8 << 20
)

// SendFrame sends one Ethernet frame out of an interface as it is.
func (n *Namespace) SendFrame(link string, frame []byte) error {
	err := n.Do(func() error {
		fd, addr, err := packetSocket(link, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, addr)
	})
	if err != nil {
		return fmt.Errorf("send a frame out of %s in %s: %w", link, n.Name, err)
	}
	return nil
}

// packetSocket opens a socket for all frames of an interface of the thread's
// namespace; protocol 0 receives none.
func packetSocket(link string, protocol uint16) (int, *unix.SockaddrLinklayer, error) {
	ifi, err := net.InterfaceByName(link)
	if err != nil {
		return -1, nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("packet socket: %w", err)
	}
	addr := &unix.SockaddrLinklayer{Ifindex: ifi.Index, Protocol: bigEndian(protocol)}
	if protocol != 0 {
		// Bound only now, so that frames of other interfaces never queue.
		if err := unix.Bind(fd, addr); err != nil {
			unix.Close(fd)
			return -1, nil, fmt.Errorf("bind packet socket to %s: %w", link, err)
		}
	}
	return fd, addr, nil
}

// bigEndian is htons.
func bigEndian(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// Capture collects the frames that come in on an interface. Its methods may be
// called concurrently.
type Capture struct {
	file  *os.File
	match func(frame []byte) bool
	done  sync.WaitGroup

	mu     sync.Mutex // guards frames
	frames [][]byte
}

// Capture collects from now on the frames that come in on an interface and that
// match; frames that leave it do not count. VLAN tags are in their place. It
// ends with Close or with the namespace.
func (n *Namespace) Capture(link string, match func(frame []byte) bool) (*Capture, error) {
	var fd int
	err := n.Do(func() (err error) {
		fd, _, err = packetSocket(link, unix.ETH_P_ALL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture on %s in %s: %w", link, n.Name, err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
	)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("capture on %s in %s: %w", link, n.Name, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "capture"), match: match}
	n.adopt(c)
	c.done.Go(c.read)
	return c, nil
}

// Close ends the capture; what it has stays.
func (c *Capture) Close() error {
	err := c.file.Close()
	c.done.Wait()
	return err
}

// Frames returns the frames so far.
func (c *Capture) Frames() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([][]byte(nil), c.frames...)
}

// Count returns how many of the frames so far match.
func (c *Capture) Count(match func(frame []byte) bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, f := range c.frames {
		if match(f) {
			n++
		}
	}
	return n
}

func (c *Capture) read() {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 1<<16)
	oob := make([]byte, 128)
	for {
		var n, oobn int
		var from unix.Sockaddr
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, from, recvErr = unix.Recvmsg(int(fd), buf, oob, 0)
			return recvErr != unix.EAGAIN && recvErr != unix.EINTR
		})
		if err != nil {
			return // closed
		}
		if recvErr != nil {
			continue // the interface went down; it may come up again
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		c.keep(withTag(buf[:n], oob[:oobn]))
	}
}

func (c *Capture) keep(frame []byte) {
	if c.match != nil && !c.match(frame) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, frame)
}

// withTag copies a frame and puts the VLAN tag back that the kernel moved from
// the frame to struct tpacket_auxdata.
func withTag(frame, oob []byte) []byte {
	tpid, tci, ok := vlanTag(oob)
	if !ok || len(frame) < vlanTagAt {
		return append([]byte(nil), frame...)
	}
	out := make([]byte, 0, len(frame)+vlanTagLen)
	out = append(out, frame[:vlanTagAt]...)
	out = binary.BigEndian.AppendUint16(out, tpid)
	out = binary.BigEndian.AppendUint16(out, tci)
	return append(out, frame[vlanTagAt:]...)
}

// struct tpacket_auxdata, linux/if_packet.h, in native byte order:
//
//	0        4     8         12    14    16         18
//	status   len   snaplen   mac   net   vlan tci   vlan tpid
const (
	auxTCI  = 16
	auxTPID = 18
	auxLen  = 20
)

func vlanTag(oob []byte) (tpid, tci uint16, ok bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0, false
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < auxLen {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			return 0, 0, false
		}
		tpid, tci = unix.ETH_P_8021Q, binary.NativeEndian.Uint16(m.Data[auxTCI:])
		if status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			tpid = binary.NativeEndian.Uint16(m.Data[auxTPID:])
		}
		return tpid, tci, true
	}
	return 0, 0, false
}
