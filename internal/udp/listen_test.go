package udp

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
)

func TestListenPort(t *testing.T) {
	tests := []struct {
		hostPort string
		want     string // address of the first; "": an error
		both     bool
	}{
		{":0", "0.0.0.0", true},
		{"127.0.0.1:0", "127.0.0.1", false},
		{"[::ffff:127.0.0.1]:0", "127.0.0.1", false},
		{"0.0.0.0:0", "0.0.0.0", false},
		{"", "", false},
		{"127.0.0.1", "", false},
		{":65536", "", false},
		{":-1", "", false},
		{":domain", "", false},
		{"localhost:0", "", false},
		{"203.0.113.1:0", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.hostPort, func(t *testing.T) {
			conns, err := ListenPort(tt.hostPort, Offload{})
			for _, c := range conns {
				defer c.Close()
			}
			if (err != nil) != (tt.want == "") {
				t.Fatalf("ListenPort(%q) = %v, %v", tt.hostPort, conns, err)
			}
			if err != nil {
				return
			}
			if got := conns[0].LocalAddr(); got.Addr().String() != tt.want || got.Port() == 0 {
				t.Errorf("the first is on %v, want %s", got, tt.want)
			}
			if tt.both && len(conns) == 1 {
				t.Skip("this machine has no IPv6")
			}
			if !tt.both && len(conns) != 1 {
				t.Fatalf("%d sockets, want one", len(conns))
			}
			if tt.both && conns[1].LocalAddr() != netip.AddrPortFrom(netip.IPv6Unspecified(), conns[0].LocalAddr().Port()) {
				t.Errorf("the second is on %v, the first on %v", conns[1].LocalAddr(), conns[0].LocalAddr())
			}
		})
	}
}

// TestListenPortInUse: somebody else's socket of one family is noticed, and the
// other family's is not kept.
func TestListenPortInUse(t *testing.T) {
	foreign, err := net.ListenUDP("udp6", &net.UDPAddr{})
	if err != nil {
		t.Skip("this machine has no IPv6:", err)
	}
	defer foreign.Close()
	port := foreign.LocalAddr().(*net.UDPAddr).Port
	if _, err := ListenPort(":"+strconv.Itoa(port), Offload{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("ListenPort = %v, want EADDRINUSE", err)
	}
	c, err := ListenPort("0.0.0.0:"+strconv.Itoa(port), Offload{})
	if err != nil {
		t.Fatalf("the IPv4 port is not free: %v", err)
	}
	c[0].Close()
}
