package tcp

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// userTimeout ends a connection whose neighbour acknowledges nothing, or takes
	// nothing, so that the kernel does not keep what was sent. By then the path is down.
	userTimeout = 5 * time.Second
	// unsent is how many bytes the kernel takes that it cannot send yet: what waits
	// shall wait in the queue, which drops, and where probes overtake it.
	unsent = 64 << 10
)

// tune sets what the kernel does with a connection. Go has switched Nagle's algorithm
// off. Streams in memory have nothing to set.
func tune(c net.Conn) error {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var errs error
	err = raw.Control(func(fd uintptr) {
		errs = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds())),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent),
		)
	})
	return errors.Join(err, errs)
}

// discard closes a connection, and has the kernel forget what it could not send.
func discard(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		_ = l.SetLinger(0)
	}
	c.Close()
}
