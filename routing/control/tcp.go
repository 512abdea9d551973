package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// dialTimeout bounds one TCP connection attempt; the system's own would be
// minutes.
const dialTimeout = 5 * time.Second

// TCP is the carrier that stock routers use: weave protocol section 1.1. Its port is
// shared with whoever takes connections that do not begin as weave's, see Handle.
type TCP struct {
	listener *net.TCPListener
	others   map[[HeaderLen]byte]TakeConn
}

// TakeConn takes over an accepted connection whose first HeaderLen bytes were read,
// while weave's header was sent on it as on all others. It blocks until it knows what
// to do with it, not longer than a few seconds or until ctx is done: meanwhile the
// connection counts as an unfinished handshake. Deadlines are set on it.
type TakeConn = func(ctx context.Context, c net.Conn)

var _ Carrier = (*TCP)(nil)

// ListenTCP opens the control port. Without a host it listens on all IPv4 and
// IPv6 addresses. The error of a taken port satisfies errors.Is(err,
// unix.EADDRINUSE).
func ListenTCP(ctx context.Context, addr string) (*TCP, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on control port %s: %w", addr, err)
	}
	return &TCP{listener: l.(*net.TCPListener), others: map[[HeaderLen]byte]TakeConn{}}, nil
}

// Handle has take take the connections that begin with header. It must be called
// before Accept.
func (t *TCP) Handle(header [HeaderLen]byte, take TakeConn) { t.others[header] = take }

// Name is CarrierTCP.
func (t *TCP) Name() string { return CarrierTCP }

// Port is the port that the carrier listens on.
func (t *TCP) Port() uint16 { return uint16(t.listener.Addr().(*net.TCPAddr).Port) }

// Close stops listening; connections made go on.
func (t *TCP) Close() error { return t.listener.Close() }

// Dial connects to addr within dialTimeout.
func (t *TCP) Dial(ctx context.Context, addr netip.AddrPort) (Stream, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // the address is said beside it
		}
		return nil, err
	}
	return &tcpStream{TCPConn: c.(*net.TCPConn)}, nil
}

// Accept waits for a connection. ctx ends it by closing the listener.
func (t *TCP) Accept(ctx context.Context) (Stream, error) {
	defer context.AfterFunc(ctx, func() { t.listener.Close() })()
	c, err := t.listener.AcceptTCP()
	if err != nil {
		return nil, err
	}
	return &tcpStream{c, t.others}, nil
}

// tcpStream is a TCP connection with what the kernel knows of it.
type tcpStream struct {
	*net.TCPConn
	others map[[HeaderLen]byte]TakeConn // of an accepted one
}

// Other is who takes the stream over if it begins with header; nil: it is a session's.
func (s *tcpStream) Other(header [HeaderLen]byte) TakeConn { return s.others[header] }

// RTT is the kernel's smoothed round-trip time, TCP_INFO; 0: unknown.
func (s *tcpStream) RTT() (rtt time.Duration) {
	s.raw(func(fd int) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return rtt
}

// SetUserTimeout makes the kernel end the connection when data stays
// unacknowledged for d (RFC 5482, TCP_USER_TIMEOUT).
func (s *tcpStream) SetUserTimeout(d time.Duration) (err error) {
	s.raw(func(fd int) {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	return err
}

func (s *tcpStream) raw(f func(fd int)) {
	if c, err := s.SyscallConn(); err == nil {
		_ = c.Control(func(fd uintptr) { f(int(fd)) })
	}
}
