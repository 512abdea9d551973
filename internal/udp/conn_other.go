//go:build !linux

package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// writeWait is how long WriteBatch waits for room in the send buffer.
const writeWait = 10 * time.Millisecond

// bufferSize is what we ask for as socket buffers, in bytes.
const bufferSize = 4 << 20

// Conn is a UDP socket of one address family. All methods may be called
// concurrently, ReadBatch by one goroutine at a time. On this system it moves
// one message per call, and the system decides about the don't-fragment flag.
type Conn struct {
	udp   *net.UDPConn
	local netip.AddrPort
}

// Listen opens a socket on addr; port 0 lets the system choose. An IPv6 socket
// takes IPv6 only. An address in use gives an error that is
// syscall.EADDRINUSE. There is no offload on this system.
func Listen(addr netip.AddrPort, _ Offload) (*Conn, error) {
	network := "udp6"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	u, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	_ = u.SetReadBuffer(bufferSize) // it is no error to get less
	_ = u.SetWriteBuffer(bufferSize)
	local := u.LocalAddr().(*net.UDPAddr).AddrPort()
	return &Conn{udp: u, local: netip.AddrPortFrom(local.Addr().Unmap(), local.Port())}, nil
}

// Offload returns none, and why.
func (c *Conn) Offload() Offload { return Probe() }

// LocalAddr returns the address and port that the socket is bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Close closes the socket and makes ReadBatch return.
func (c *Conn) Close() error { return c.udp.Close() }

// ReadBatch waits for a datagram and sets N and Addr of the first message. What
// is longer than Buf is cut to it. After Close the error is net.ErrClosed.
func (c *Conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	n, addr, err := c.udp.ReadFromUDPAddrPort(ms[0].Buf)
	if err != nil {
		return 0, err
	}
	ms[0].N, ms[0].Segment = n, 0
	ms[0].Addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return 1, nil
}

// WriteBatch sends Buf[:N] of each message to its Addr. It returns how many were
// sent; an error concerns the message after these, ms[n]: ErrTooBig, ErrFull,
// net.ErrClosed, or what the system said. df has no effect on this system.
func (c *Conn) WriteBatch(ms []Message, df bool) (int, error) {
	if err := c.udp.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return 0, err
	}
	for i, m := range ms {
		if _, err := c.udp.WriteToUDPAddrPort(m.Buf[:m.N], m.Addr); err != nil {
			return i, sendError(err)
		}
	}
	return len(ms), nil
}

func sendError(err error) error {
	switch {
	case errors.Is(err, errTooBig):
		return ErrTooBig
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ENOBUFS):
		return ErrFull
	}
	return err
}

// PathMTU is not to be had on this system: the error is errors.ErrUnsupported.
func (c *Conn) PathMTU(netip.AddrPort) (int, error) {
	return 0, fmt.Errorf("ask for the path MTU: %w", errors.ErrUnsupported)
}

// Probe returns none: this system has no offload.
func Probe() Offload { return Offload{Why: "there is none on this system"} }

// OnOffload does nothing on this system: there is no offload.
func (c *Conn) OnOffload(func(Offload)) {}

// OnTooBig does nothing on this system: its errors are not to be had.
func (c *Conn) OnTooBig(func(dst netip.AddrPort, mtu int)) {}

// Judge does nothing on this system: there are no runs.
func (c *Conn) Judge(time.Time, Verdict) {}

// WriteHops sends one datagram. On this system the number of hops is not limited.
func (c *Conn) WriteHops(b []byte, to netip.AddrPort, _ int) error {
	_, err := c.udp.WriteToUDPAddrPort(b, to)
	return err
}
