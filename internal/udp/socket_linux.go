package udp

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bufferSize is what we ask for as socket buffers, in bytes. A burst of 2 Gb/s
// fills the receive buffer in about 16 ms.
const bufferSize = 4 << 20

func newSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	return fd, os.NewSyscallError("socket", err)
}

// bindPlain binds the socket that only sends, without DF. It binds alone, which
// fails if anybody else has the port, and drops what would come to it.
func bindPlain(fd, family int, addr unix.Sockaddr) error {
	if err := prepare(fd, family, unix.IP_PMTUDISC_DONT); err != nil {
		return err
	}
	if err := deafen(fd); err != nil {
		return fmt.Errorf("make the second socket deaf: %w", err)
	}
	return os.NewSyscallError("bind", unix.Bind(fd, addr))
}

// bindDF binds the socket that reads, and sends with DF, to the port of the
// other. Of sockets that share a port by SO_REUSEADDR the one that came last is
// given everything that arrives, and every ICMP error: with SO_REUSEPORT a hash
// would decide whose the errors are. Afterwards neither lets anybody else join.
func bindDF(fd, plain, family int, addr unix.Sockaddr) error {
	if err := prepare(fd, family, unix.IP_PMTUDISC_DO); err != nil {
		return err
	}
	if err := share(1, fd, plain); err != nil {
		return err
	}
	if err := unix.Bind(fd, addr); err != nil {
		return os.NewSyscallError("bind second socket", err)
	}
	return share(0, fd, plain)
}

func share(on int, fds ...int) error {
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, on); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
	}
	return nil
}

// deafen gives a socket the classic BPF filter "return 0": keep 0 bytes, drop.
func deafen(fd int) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	return os.NewSyscallError("setsockopt", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
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

// offload turns on what is asked for on both sockets and returns what it got.
func offload(df, plain int, o Offload) Offload {
	if o.GSO {
		for _, fd := range []int{df, plain} { // 0: no run but those a message asks for
			if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 0); err != nil {
				o = o.without(true, false, fmt.Sprintf("no UDP_SEGMENT in this kernel: %v", err))
				break
			}
		}
	}
	if o.GRO {
		if err := setGRO(df, true); err != nil {
			o = o.without(false, true, fmt.Sprintf("no UDP_GRO in this kernel: %v", err))
		}
	}
	return o
}

func setGRO(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, value)
}
