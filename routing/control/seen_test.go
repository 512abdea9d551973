package control

import (
	"net/netip"
	"strings"
	"testing"

	"meshd/routing"
)

// TestSeen reads what a neighbour tells of us in its topology entry, which it may
// have invented.
func TestSeen(t *testing.T) {
	for addr, want := range map[string]string{
		"203.0.113.7:51682":                   "203.0.113.7",
		"[2001:db8::7]:51682":                 "2001:db8::7",
		"[::ffff:203.0.113.7]:1":              "203.0.113.7",
		"quic!203.0.113.7!6785":               "203.0.113.7",
		"":                                    "invalid IP",
		"nonsense":                            "invalid IP",
		"weave01:6783":                        "invalid IP",
		"quic!":                               "invalid IP",
		strings.Repeat("1", 99) + ".0.0.1:23": "invalid IP",
	} {
		p := routing.Peer{Name: 7, Connections: []routing.Connection{{Peer: 3, RemoteAddr: "192.0.2.1:1"}, {Peer: 5, RemoteAddr: addr}}}
		if got := seen(p, 5); got.String() != want {
			t.Errorf("seen at %q: %v, want %s", addr, got, want)
		}
	}
	if got := seen(routing.Peer{Name: 7}, 5); got != (netip.Addr{}) {
		t.Errorf("seen by who has no connection: %v", got)
	}
}
