package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Conn is a UDP socket of one address family. WriteBatch, PathMTU, LocalAddr,
// Offload and Close may be called concurrently with everything; ReadBatch by one
// goroutine at a time. It must be closed.
type Conn struct {
	local   netip.AddrPort
	offload atomic.Pointer[Offload]
	reader  reader
	writers sync.Pool // of *writer
	zones   zones

	refusals  refusals
	troubled  atomic.Bool                       // there may be something in the error queue
	onTooBig  func(dst netip.AddrPort, mtu int) // set before reading
	onOffload func(Offload)                     // set before reading

	judging sync.Mutex // guards judge; held while the socket's option is set
	judge   judge
	opened  Offload // what Listen got; not changed

	closed atomic.Bool
	mu     sync.RWMutex // read-locked while a descriptor is used, locked to close them
	df     int          // descriptor of the socket that reads, and sends with DF
	plain  int          // of the one that only sends, without DF
	wake   int          // of the eventfd that Close signals to a reader in poll
}

// Listen opens a socket on addr with as much of the offload as the kernel has;
// port 0 lets the kernel choose. An IPv6 socket takes IPv6 only. An address in
// use gives an error that is unix.EADDRINUSE.
func Listen(addr netip.AddrPort, o Offload) (*Conn, error) {
	c, err := listen(addr, o)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	return c, nil
}

func listen(addr netip.AddrPort, o Offload) (_ *Conn, err error) {
	if !addr.IsValid() || addr.Addr().Is4In6() {
		return nil, unix.EAFNOSUPPORT
	}
	c := &Conn{df: -1, plain: -1, wake: -1}
	c.writers.New = func() any { return newWriter() }
	c.reader.init()
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err := c.bind(addr); err != nil {
		return nil, err
	}
	c.opened = offload(c.df, c.plain, o)
	c.offload.Store(&c.opened)
	return c, nil
}

// bind opens both sockets on one port.
func (c *Conn) bind(addr netip.AddrPort) error {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	want, err := c.zones.sockaddr(addr)
	if err != nil {
		return err
	}
	if c.plain, err = newSocket(family); err != nil {
		return err
	}
	if err := bindPlain(c.plain, family, want); err != nil {
		return err
	}
	bound, err := unix.Getsockname(c.plain)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	c.local = c.zones.addrPort(bound)
	if c.df, err = newSocket(family); err != nil {
		return err
	}
	return bindDF(c.df, c.plain, family, bound)
}

// LocalAddr returns the address and port that both sockets are bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Offload returns what is on now.
func (c *Conn) Offload() Offload { return *c.offload.Load() }

// Close closes both sockets and makes ReadBatch return. The second time it
// returns net.ErrClosed.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if c.wake >= 0 {
		var one = [8]byte{1} // counts, so the order of its bytes is the same
		if _, err := unix.Write(c.wake, one[:]); err != nil {
			return os.NewSyscallError("write eventfd", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, fd := range []int{c.df, c.plain, c.wake} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
