package tcp

import (
	"net"
	"time"
)

const (
	// userTimeout ends a connection whose neighbour acknowledges nothing, or takes
	// nothing, so that the kernel does not keep what was sent. By then the path is down.
	userTimeout = 5 * time.Second
	// unsent is how many bytes the kernel takes that it cannot send yet: what waits
	// shall wait in the queue, which drops, and where probes overtake it.
	unsent = 64 << 10
)

// discard closes a connection, and has the kernel forget what it could not send.
func discard(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(seconds int) error }); ok {
		_ = l.SetLinger(0)
	}
	c.Close()
}
