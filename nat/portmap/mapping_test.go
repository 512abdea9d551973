package portmap

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestUseless(t *testing.T) {
	tests := []struct{ addr, want string }{
		{"8.8.8.8", ""},
		{"203.0.113.5", ""}, // what labs call the internet
		{"100.63.255.255", ""},
		{"100.128.0.0", ""},
		{"172.32.0.1", ""},
		{"10.1.2.3", "private"},
		{"172.16.0.1", "private"},
		{"192.168.1.1", "private"},
		{"100.64.0.1", "100.64.0.0/10"},
		{"100.127.255.254", "100.64.0.0/10"},
		{"127.0.0.1", "loopback"},
		{"224.0.0.1", "multicast"},
		{"239.255.255.250", "multicast"},
		{"169.254.3.4", "link-local"},
		{"0.1.2.3", "no host"},
		{"192.0.0.2", "RFC 7335"},
		{"198.19.0.1", "benchmarks"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.255", "reserved"},
	}
	for _, tt := range tests {
		got := useless(netip.MustParseAddr(tt.addr))
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("useless(%s) = %q, want %q in it", tt.addr, got, tt.want)
		}
	}
}

func TestJudge(t *testing.T) {
	now := time.Now()
	g := Gateway{Addr: netip.MustParseAddr("192.168.7.1")}
	overlay := netip.MustParsePrefix("198.51.100.0/24")
	m := New(Config{Refuse: func(a netip.Addr) string {
		if overlay.Contains(a) {
			return "it lies on the overlay"
		}
		return ""
	}})
	tests := []struct {
		external string
		lifetime time.Duration
		double   bool
		why      string
	}{
		{"203.0.113.5:6785", time.Hour, false, ""},
		{"203.0.113.5:6785", 0, false, ""},
		{"10.0.0.1:6785", time.Hour, true, "double NAT"},
		{"198.51.100.1:6785", time.Hour, true, "it lies on the overlay"},
	}
	for _, tt := range tests {
		l := lease{netip.MustParseAddrPort(tt.external), tt.lifetime}
		got, why := m.judge(g, newUPnP(g, 6785), l, now)
		want := Mapping{External: l.external, Protocol: UPnP, Gateway: g.Addr, DoubleNAT: tt.double}
		if tt.lifetime > 0 {
			want.Expires = now.Add(tt.lifetime)
		}
		if got != want || !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
			t.Errorf("judge(%v) = %+v, %q, want %+v, %q", l, got, why, want, tt.why)
		}
	}
}
