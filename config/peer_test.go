package config

import (
	"strings"
	"testing"
)

func TestParsePeer(t *testing.T) {
	for _, tt := range []struct {
		in, host string
		port     uint16
		ok       bool
	}{
		{"10.142.130.16", "10.142.130.16", 0, true},
		{"10.142.130.16:6783", "10.142.130.16", 6783, true},
		{"weave03.example.net:6783", "weave03.example.net", 6783, true},
		{"weave03.example.net.", "weave03.example.net.", 0, true},
		{"weave_3", "weave_3", 0, true},
		{"fd00::1", "fd00::1", 0, true},
		{"::1", "::1", 0, true},
		{"[fd00::1]", "fd00::1", 0, true},
		{"[fd00::1]:6783", "fd00::1", 6783, true},
		{"[fe80::1%eth0]:1", "fe80::1%eth0", 1, true},
		{"", "", 0, false},
		{":6783", "", 0, false},
		{"a:", "", 0, false},
		{"a:0", "", 0, false},
		{"a:65536", "", 0, false},
		{"a:+1", "", 0, false},
		{"a:-1", "", 0, false},
		{"a:b", "", 0, false},
		{"a b", "", 0, false},
		{"-a", "", 0, false},
		{"a..b", "", 0, false},
		{"1.2.3", "", 0, false},
		{"1.2.3.4.5", "", 0, false},
		{"256.1.1.1", "", 0, false},
		{"[1.2.3.4]:5", "", 0, false},
		{"[fd00::1]6783", "", 0, false},
		{"[fd00::1]:", "", 0, false},
		{"[fd00::1", "", 0, false},
		{"fe80::1%]", "", 0, false},
		{"[]", "", 0, false},
		{"[", "", 0, false},
		{"0.0.0.0:1", "", 0, false},
		{"::", "", 0, false},
		{"224.0.0.1", "", 0, false},
		{"255.255.255.255", "", 0, false},
		{"http://a", "", 0, false},
		{strings.Repeat("a", 64), "", 0, false},
	} {
		host, port, err := ParsePeer(tt.in)
		if host != tt.host || port != tt.port || (err == nil) != tt.ok {
			t.Errorf("ParsePeer(%q) = %q, %d, %v; want %q, %d, ok %v", tt.in, host, port, err, tt.host, tt.port, tt.ok)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "a:1", "[fd00::1]:2", "fd00::1", "[fe80::1%x]", "0::0%]", "]", "a:b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := ParsePeer(s)
		if err != nil {
			return
		}
		if port == 0 {
			port = 6783
		}
		h, p, err := ParsePeer(JoinPeer(host, port))
		if h != host || p != port || err != nil {
			t.Errorf("ParsePeer(%q) = %q, %d, which reads back as %q, %d, %v", s, host, port, h, p, err)
		}
	})
}
