package tcp

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTune(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := tune(c); err != nil {
		t.Fatal(err)
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for option, want := range map[int]int{
			unix.TCP_NODELAY: 1, unix.TCP_USER_TIMEOUT: int(userTimeout.Milliseconds()), unix.TCP_NOTSENT_LOWAT: unsent,
		} {
			if got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); got != want || err != nil {
				t.Errorf("TCP option %d = %d, %v; want %d", option, got, err, want)
			}
		}
	})
	a, _ := net.Pipe()
	if err := tune(a); err != nil {
		t.Errorf("a stream in memory: %v", err)
	}
}
