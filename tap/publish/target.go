package publish

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrLoop says that the target is the published port itself.
var ErrLoop = errors.New("the target is the published port itself: give the address of the container, or another port")

// Pauses between tries to reach a target double from the first to the last.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Second
)

// target makes sockets to the service.
type target struct {
	host    HostPort // with the port that is really listened on
	resolve func(context.Context) (netip.AddrPort, error)
	local   func(target netip.Addr) netip.Addr // may be nil
	timeout time.Duration                      // of one try
	retry   time.Duration                      // no try begins later

	connect func(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error)
	isLocal func(netip.Addr) bool
}

// dial connects to the target. It asks anew where that is and tries again for a
// while, as a container that restarts is away for a moment.
func (t *target) dial(ctx context.Context) (net.Conn, netip.AddrPort, error) {
	begun := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		c, addr, err := t.try(ctx)
		switch {
		case err == nil:
			return c, addr, nil
		case ctx.Err() != nil, errors.Is(err, ErrLoop), time.Since(begun)+pause > t.retry:
			return nil, addr, err
		}
		if !sleep(ctx, pause) {
			return nil, addr, err
		}
	}
}

func (t *target) try(ctx context.Context) (net.Conn, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	addr, err := t.find(ctx)
	if err != nil {
		return nil, addr, err
	}
	var from netip.Addr
	if t.local != nil {
		from = t.local(addr.Addr())
	}
	if from.Is4() != addr.Addr().Is4() { // invalid too
		from = netip.Addr{}
	}
	c, err := t.connect(ctx, from, addr)
	if err != nil {
		return nil, addr, dialError(from, addr, err)
	}
	return c, addr, nil
}

// find asks where the target is.
func (t *target) find(ctx context.Context) (netip.AddrPort, error) {
	addr, err := t.resolve(ctx)
	addr = unmap(addr)
	switch {
	case err != nil:
		return addr, fmt.Errorf("look up the target: %w", err)
	case !addr.IsValid() || addr.Port() == 0 || addr.Addr().IsUnspecified():
		return addr, fmt.Errorf("look up the target: %v is not an address and port", addr)
	case t.loops(addr):
		return addr, fmt.Errorf("dial %s: %w", addr, ErrLoop)
	}
	return addr, nil
}

func (t *target) loops(addr netip.AddrPort) bool {
	return addr.Port() == t.host.Port && t.host.covers(addr.Addr()) && t.isLocal(addr.Addr())
}

// dialError says in words why a target cannot be reached.
func dialError(from netip.Addr, to netip.AddrPort, err error) error {
	why := ""
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "nothing listens there: "
	case errors.Is(err, syscall.EHOSTUNREACH):
		why = "nobody on the overlay has that address: is the container running and attached? "
	case errors.Is(err, syscall.ENETUNREACH):
		why = "this host has no route there: does it have an address on the overlay? "
	case errors.Is(err, syscall.EADDRNOTAVAIL) && from.IsValid():
		why = from.String() + " is not an address of this host (anymore): "
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		why = "no answer: "
	}
	return fmt.Errorf("dial %s: %s%w", to, why, cause(err))
}

// cause strips what net puts around the error of a system call: we say it better.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	return err
}

// connectWith returns how sockets of a protocol are made: bound to from, if that
// is valid. Go sets TCP_NODELAY.
func connectWith(protocol string) func(context.Context, netip.Addr, netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
		d := net.Dialer{KeepAliveConfig: keepAlive}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
			if protocol == "udp" {
				d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
			}
			d.Control = portLater
		}
		return d.DialContext(ctx, protocol, to.String())
	}
}

// portLater leaves the choice of the port to connect. It may then be one that is
// in use toward another target; bind would have to find one that nobody uses.
func portLater(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		// Without it there are fewer ports, nothing worse.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
}

// isLocal reports whether what this host sends to a stays on this host.
func isLocal(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	routes, err := netlink.RouteGet(a.WithZone("").AsSlice())
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}

// sleep waits for d. It returns false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
