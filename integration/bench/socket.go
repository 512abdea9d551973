package main

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"meshd/internal/lab"
)

// stopTime is how long a call on one of our sockets may wait before it looks
// whether to go on.
const stopTime = 100 * time.Millisecond

// openSocket opens a blocking IPv4 socket in a namespace, bound to an address
// and a free port. What is measured are the kernel's wake-ups, not those of Go's
// network poller: so the tools call the kernel themselves.
func openSocket(n *lab.Namespace, kind int, addr netip.Addr) (fd int, bound netip.AddrPort, err error) {
	err = n.Do(func() error {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, bound, fmt.Errorf("socket in %s: %w", n.Name, err)
	}
	tv := unix.NsecToTimeval(stopTime.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.As4()}),
	)
	if err == nil {
		bound, err = localAddr(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, bound, fmt.Errorf("bind %s in %s: %w", addr, n.Name, err)
	}
	return fd, bound, nil
}

func localAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	in, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("socket address of type %T", sa)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port)), nil
}

// openUDP is a UDP socket connected with another one, both with large buffers:
// what is lost shall be lost on the way.
func openUDP(from, to *lab.Namespace, a, b netip.Addr) (out, in int, err error) {
	out, outAddr, err := openSocket(from, unix.SOCK_DGRAM, a)
	if err != nil {
		return -1, -1, err
	}
	in, inAddr, err := openSocket(to, unix.SOCK_DGRAM, b)
	if err != nil {
		unix.Close(out)
		return -1, -1, err
	}
	const buffer = 16 << 20
	err = errors.Join(
		unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer),
		unix.SetsockoptInt(out, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, buffer),
		connect(out, inAddr), connect(in, outAddr),
	)
	if err != nil {
		unix.Close(out)
		unix.Close(in)
		return -1, -1, fmt.Errorf("connect UDP sockets: %w", err)
	}
	return out, in, nil
}

func connect(fd int, to netip.AddrPort) error {
	return unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
}

// waited says whether a call ended because nothing came in stopTime, or for no
// reason at all.
func waited(err error) bool { return err == unix.EAGAIN || err == unix.EINTR }
