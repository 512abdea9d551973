package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Conn is a UDP socket of one address family. WriteBatch, PathMTU, LocalAddr
// and Close may be called concurrently with everything; ReadBatch by one
// goroutine at a time.
type Conn struct {
	local   netip.AddrPort
	df      socket // reads, and sends with DF
	plain   socket // only sends, without DF
	reader  reader
	writers sync.Pool // of *writer
	zones   zones
}

// socket is a non-blocking socket in Go's poller.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

// Listen opens a socket on addr; port 0 lets the kernel choose. An IPv6 socket
// takes IPv6 only. An address in use gives an error that is unix.EADDRINUSE.
func Listen(addr netip.AddrPort) (*Conn, error) {
	c, err := listen(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	return c, nil
}

// listen binds both sockets. The first binds alone, which fails if anybody else
// has the port; only then it lets the second join it.
func listen(addr netip.AddrPort) (_ *Conn, err error) {
	if !addr.IsValid() || addr.Addr().Is4In6() {
		return nil, unix.EAFNOSUPPORT
	}
	c := &Conn{}
	c.writers.New = func() any { return newWriter() }
	c.reader.init()
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	want, err := c.zones.sockaddr(addr)
	if err != nil {
		return nil, err
	}
	df, err := newSocket(family)
	if err != nil {
		return nil, err
	}
	if c.df, err = register(df, "udp-df"); err != nil {
		return nil, err
	}
	if err := bindFirst(df, family, want); err != nil {
		return nil, err
	}
	bound, err := unix.Getsockname(df)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	c.local = c.zones.addrPort(bound)
	plain, err := newSocket(family)
	if err != nil {
		return nil, err
	}
	if c.plain, err = register(plain, "udp-plain"); err != nil {
		return nil, err
	}
	if err := bindSecond(df, plain, family, bound); err != nil {
		return nil, err
	}
	return c, nil
}

// LocalAddr returns the address and port that both sockets are bound to.
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// Close closes both sockets and makes ReadBatch return. The second time it
// returns net.ErrClosed.
func (c *Conn) Close() error {
	var errs []error
	for _, s := range []socket{c.df, c.plain} {
		if s.file != nil {
			errs = append(errs, s.file.Close())
		}
	}
	err := errors.Join(errs...)
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}
