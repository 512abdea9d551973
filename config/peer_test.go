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
		got, err := ParsePeer(tt.in)
		if want := (PeerAddress{Host: tt.host, Port: tt.port}); got != want || (err == nil) != tt.ok {
			t.Errorf("ParsePeer(%q) = %+v, %v; want %+v, ok %v", tt.in, got, err, want, tt.ok)
		}
	}
}

func TestParsePeerWithCarrier(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want PeerAddress
		err  string
	}{
		{"tcp://10.0.0.1", PeerAddress{CarrierTCP, "10.0.0.1", 0}, ""},
		{"tcp://a:7000", PeerAddress{CarrierTCP, "a", 7000}, ""},
		{"quic://a", PeerAddress{CarrierQUIC, "a", 0}, ""},
		{"QUIC://a:443", PeerAddress{CarrierQUIC, "a", 443}, ""},
		{"quic://fd00::1", PeerAddress{CarrierQUIC, "fd00::1", 0}, ""},
		{"quic://[fd00::1]:443", PeerAddress{CarrierQUIC, "fd00::1", 443}, ""},
		{"http://a", PeerAddress{}, `names no carrier: there is tcp:// and quic://, not "http://"`},
		{"://a", PeerAddress{}, `names no carrier: there is tcp:// and quic://, not "://"`},
		{"quic://", PeerAddress{}, "is not host[:port]"},
		{"quic://a/", PeerAddress{}, "has more than a host and a port after quic://"},
		{"quic://user@a", PeerAddress{}, "has more than a host and a port after quic://"},
		{"quic://tcp://a", PeerAddress{}, "has more than a host and a port after quic://"},
		{"quic://a:0", PeerAddress{}, `has a bad port "0"`},
		{"quic:a", PeerAddress{}, `has a bad port "a"`},
		{"quic:/a", PeerAddress{}, `has a bad port "/a"`},
	} {
		got, err := ParsePeer(tt.in)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != tt.want || text != tt.err {
			t.Errorf("ParsePeer(%q) = %+v, %q; want %+v, %q", tt.in, got, text, tt.want, tt.err)
		}
	}
}

// What is refused comes with the way to write it.
func TestCheckPeerSaysHowToWriteIt(t *testing.T) {
	for _, s := range []string{"http://a", "quic:a", "a b", "fd00::1:"} {
		err := checkPeer(s)
		if err == nil || !strings.Contains(err.Error(), "quic://host[:port]") || !strings.Contains(err.Error(), s) {
			t.Errorf("checkPeer(%q) = %v, want the value and quic://host[:port] in it", s, err)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "a:1", "[fd00::1]:2", "fd00::1", "[fe80::1%x]", "0::0%]", "]", "a:b:c", "quic://a:1", "TCP://fd00::1", "a://b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePeer(s)
		if err != nil {
			return
		}
		if q, err := ParsePeer(p.String()); q != p || err != nil {
			t.Errorf("ParsePeer(%q) = %+v, which reads back as %+v, %v", s, p, q, err)
		}
	})
}
