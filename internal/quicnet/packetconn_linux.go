package quicnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// errTooBig is what quic-go takes for a datagram that is larger than the way to
// the neighbour: it lowers what it sends, where it was a test.
var errTooBig = os.NewSyscallError("sendmsg", unix.EMSGSIZE)

// With these methods quic-go sends runs of datagrams, and reads several at once.
var _ quic.OOBCapablePacketConn = (*packetConn)(nil)

// probe is an unbound socket that stands for those of the mux when quic-go asks
// for a descriptor: it finds out there what the kernel can, and sets options that
// the mux's sockets must not get.
type probe struct {
	mu sync.Mutex // guards fd; held while it is used
	fd int
}

func (p *probe) open() (err error) {
	p.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil { // a kernel without IPv6
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	}
	if err != nil {
		return fmt.Errorf("open a socket to learn what the kernel can: %w", err)
	}
	return nil
}

// Control implements syscall.RawConn.
func (p *probe) Control(f func(fd uintptr)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(p.fd))
	return nil
}

// Read implements syscall.RawConn. Nobody reads this socket.
func (p *probe) Read(func(fd uintptr) bool) error { return unix.ENOTSUP }

// Write implements syscall.RawConn. Nobody writes to this socket.
func (p *probe) Write(func(fd uintptr) bool) error { return unix.ENOTSUP }

func (p *probe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	fd := p.fd
	p.fd = -1
	return unix.Close(fd)
}

// SyscallConn gives the socket that stands for the mux's.
func (c *packetConn) SyscallConn() (syscall.RawConn, error) { return &c.probe, nil }

// ReadBatch reads several datagrams into ms, as ipv4.PacketConn does.
func (c *packetConn) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	return c.pop(len(ms), func(i int, s *slot) {
		ms[i].N, ms[i].NN, ms[i].Addr = copy(ms[i].Buffers[0], s.buf), 0, s.addr
	})
}

// ReadMsgUDP reads one datagram. quic-go calls ReadBatch.
func (c *packetConn) ReadMsgUDP(b, _ []byte) (n, oobn, flags int, from *net.UDPAddr, err error) {
	_, err = c.pop(1, func(_ int, s *slot) { n, from = copy(b, s.buf), s.addr })
	return n, 0, 0, from, err
}

// WriteMsgUDP sends a datagram or, where oob has a UDP_SEGMENT message, a run.
// Other control messages are ignored: congestion marks, which the receiver does
// not get either, so that quic-go ceases to set them.
func (c *packetConn) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (n, oobn int, err error) {
	n, err = c.write(b, to, segmentSize(oob))
	return n, len(oob), err
}

// segmentSize finds the length of the datagrams of a run; 0: there is no run.
func segmentSize(oob []byte) int {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(data) >= 2 {
			return int(binary.NativeEndian.Uint16(data))
		}
		oob = rest
	}
	return 0
}
