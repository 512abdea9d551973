package udp

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWriteHops reads the TTL and hop limit of what arrives.
func TestWriteHops(t *testing.T) {
	for _, tt := range []struct {
		name       string
		family     int
		level, opt int
		addr       string
		sockaddr   unix.Sockaddr
	}{
		{"IPv4", unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVTTL, "127.0.0.1", &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}},
		{"IPv6", unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, "::1", &unix.SockaddrInet6{Addr: [16]byte{15: 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd, err := unix.Socket(tt.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Skip(err)
			}
			defer unix.Close(fd)
			if err := unix.Bind(fd, tt.sockaddr); err != nil {
				t.Skip(err)
			}
			if err := unix.SetsockoptInt(fd, tt.level, tt.opt, 1); err != nil {
				t.Fatal(err)
			}
			if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
				t.Fatal(err)
			}
			at, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			port := uint16(0)
			switch at := at.(type) {
			case *unix.SockaddrInet4:
				port = uint16(at.Port)
			case *unix.SockaddrInet6:
				port = uint16(at.Port)
			}
			ip := netip.MustParseAddr(tt.addr)
			c, err := Listen(netip.AddrPortFrom(ip, 0), Offload{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for _, hops := range []int{2, 200} {
				if err := c.WriteHops([]byte("hello"), netip.AddrPortFrom(ip, port), hops); err != nil {
					t.Fatal(err)
				}
				b, oob := make([]byte, 16), make([]byte, 64)
				n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, 0)
				if err != nil || string(b[:n]) != "hello" {
					t.Fatalf("%q, %v", b[:n], err)
				}
				msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
				if err != nil || len(msgs) != 1 || int(msgs[0].Data[0]) != hops {
					t.Errorf("control messages %+v, %v, want one with %d", msgs, err, hops)
				}
			}
		})
	}
}
