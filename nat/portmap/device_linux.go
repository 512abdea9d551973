package portmap

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// onInterface makes sockets that send and receive on the gateway's interface
// only, whatever the routes say: not on the overlay's bridge, for one.
func onInterface(g Gateway) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		if g.Interface == "" {
			return nil
		}
		var failure error
		err := c.Control(func(fd uintptr) { failure = unix.BindToDevice(int(fd), g.Interface) })
		if err == nil {
			err = failure
		}
		if err != nil {
			return fmt.Errorf("bind to %s: %w", g.Interface, err)
		}
		return nil
	}
}
