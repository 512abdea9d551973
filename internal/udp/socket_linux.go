package udp

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is what we ask for as socket buffers, in bytes. A burst of 2 Gb/s
// fills the receive buffer in about 16 ms.
const bufferSize = 4 << 20

func newSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	return fd, os.NewSyscallError("socket", err)
}

// register hands a socket to Go's poller, which owns it from then on.
func register(fd int, name string) (socket, error) {
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err == nil {
		err = file.SetDeadline(time.Time{}) // fails if the poller did not take it
	}
	if err != nil {
		file.Close()
		return socket{}, err
	}
	return socket{file: file, raw: raw}, nil
}

// bindFirst prepares and binds the socket that reads, and sends with DF.
func bindFirst(fd, family int, addr unix.Sockaddr) error {
	if err := prepare(fd, family, unix.IP_PMTUDISC_DO); err != nil {
		return err
	}
	return os.NewSyscallError("bind", unix.Bind(fd, addr))
}

// bindSecond binds the socket that sends without DF to the port of the first,
// so that everything that arrives goes to the first. The kernel lets sockets
// share a port when both have SO_REUSEPORT, and looks at the first one's flag
// only now, so the first could be bound without it.
func bindSecond(first, second, family int, addr unix.Sockaddr) error {
	if err := prepare(second, family, unix.IP_PMTUDISC_DONT); err != nil {
		return err
	}
	// Between its bind and the program that directs everything to the first the
	// second could be given a datagram: it drops it.
	if err := attach(second, unix.SO_ATTACH_FILTER); err != nil {
		return fmt.Errorf("make the second socket deaf: %w", err)
	}
	for _, fd := range []int{first, second} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
		}
	}
	if err := unix.Bind(second, addr); err != nil {
		return os.NewSyscallError("bind second socket", err)
	}
	if err := attach(first, unix.SO_ATTACH_REUSEPORT_CBPF); err != nil {
		return fmt.Errorf("direct datagrams to the first socket: %w", err)
	}
	return nil
}

// attach gives a socket the classic BPF program "return 0". As a filter it
// means: keep 0 bytes, drop. For a group of sockets on one port: the first one.
func attach(fd, option int) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, option,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}))
}

// prepare sets what must be set before bind. IPV6_PMTUDISC_… have the values of
// IP_PMTUDISC_….
func prepare(fd, family, discover int) error {
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, discover); err != nil {
			return os.NewSyscallError("setsockopt IPV6_MTU_DISCOVER", err)
		}
	} else if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover); err != nil {
		return os.NewSyscallError("setsockopt IP_MTU_DISCOVER", err)
	}
	enlarge(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
	enlarge(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	return nil
}

// enlarge sets a buffer's size, past the system's limit if we may. It is no
// error if we get less.
func enlarge(fd, force, ordinary int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, bufferSize) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, ordinary, bufferSize)
	}
}
