package expose

import (
	"strings"
	"testing"
)

// here is a host with something on everything.
var here = host{
	bridge: "weave", mtu: 1376,
	own:    prefixes("192.168.50.1/24"),
	used:   []neighbor{{prefix("10.142.130.0/26"), "eth0"}, {prefix("172.17.0.0/16"), "docker0"}, {prefix("fd00:1::/64"), "eth0"}},
	routes: []neighbor{{prefix("10.0.0.0/8"), "eth0"}},
}

func TestCheck(t *testing.T) {
	narrow := here
	narrow.mtu = 1000
	for _, tt := range []struct {
		name string
		on   host
		give string // prefixes
		want string // a part of the error; empty: none
	}{
		{"good", here, "192.168.99.1/24 192.168.99.2/24 fd00:99::1/64", ""},
		{"two hosts", here, "192.168.99.0/31 fd00:99::/127", ""},
		{"there already", here, "192.168.50.1/24", ""},
		{"network", here, "192.168.99.0/24", "192.168.99.0/24 is the subnet's own address, not a host's: give another, such as 192.168.99.1/24"},
		{"network of IPv6", here, "fd00:99::/64", "such as fd00:99::1/64"},
		{"broadcast", here, "192.168.99.255/24", "broadcast address of its subnet: give another, such as 192.168.99.254/24"},
		{"single", here, "192.168.99.1/32", "192.168.99.1/32 has no subnet: give the prefix length of the overlay's, such as 192.168.99.1/24"},
		{"single of IPv6", here, "fd00:99::1/128", "such as fd00:99::1/64"},
		{"everything", here, "192.168.99.1/0", "all addresses"},
		{"link-local", here, "fe80::1/64", "link-local"},
		{"link-local of IPv4", here, "169.254.1.1/16", "link-local"},
		{"loopback", here, "127.0.0.2/8", "not an address for a host"},
		{"multicast", here, "224.0.0.5/24", "not an address for a host"},
		{"mapped", here, "::ffff:192.168.99.1/120", "not an address with a prefix length"},
		{"host's network", here, "10.142.130.40/26", "overlaps 10.142.130.0/26 of this host's eth0"},
		{"Docker's network", here, "172.17.5.1/24", "overlaps 172.17.0.0/16 of this host's docker0"},
		{"host's route", here, "10.1.0.1/16", "overlaps this host's route to 10.0.0.0/8 by eth0"},
		{"other length", here, "192.168.50.1/16", "has the address 192.168.50.1/24 already"},
		{"overlap", here, "192.168.99.1/24 192.168.1.1/16", "192.168.1.1/16 overlaps 192.168.99.1/24"},
		{"narrow", narrow, "fd00:99::1/64", "the bridge weave has MTU 1000 and IPv6 needs 1280: raise bridge.mtu"},
		{"narrow for IPv4", narrow, "192.168.99.1/24", ""},
		{"two faults", here, "192.168.99.0/24 127.0.0.1/8", "not a host's: give another, such as 192.168.99.1/24\n127"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var exposed []Exposed
			for _, p := range prefixes(strings.Fields(tt.give)...) {
				exposed = append(exposed, Exposed{p, true})
			}
			err := tt.on.check(exposed)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("check(%s) = %v, want %q", tt.give, err, tt.want)
			}
		})
	}
	if err := here.check([]Exposed{{}}); err == nil {
		t.Error("check of the zero value = nil, want an error")
	}
}

// What the kernel says of a real host is what check compares with.
func TestSetChecks(t *testing.T) {
	w := build(t, "0")
	w.must(w.host.AddRoute(prefix("10.9.0.0/16"), addr("10.0.0.2"), "eth0"))
	w.must(w.host.AddRoute(prefix("0.0.0.0/0"), addr("10.0.0.2"), "eth0"))
	w.must(w.host.AddRoute(prefix("128.0.0.0/1"), addr("10.0.0.2"), "eth0"))
	w.sh("ip link set weave mtu 1000")
	before := w.snapshot()
	e := w.exposer(meshPorts)
	for give, want := range map[string]string{
		"10.0.0.77/24":  "10.0.0.0/24 of this host's eth0",
		"10.9.1.1/24":   "route to 10.9.0.0/16 by eth0",
		"fd00:99::1/64": "MTU 1000",
	} {
		if err := e.Set(t.Context(), []Exposed{{prefix(give), true}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Set(%s) = %v, want %q", give, err, want)
		}
	}
	w.unchanged(before, "before and after refusals")
	w.set(e, ex99)
	missing := w.exposer(Config{Bridge: "nothere"})
	if err := missing.Set(t.Context(), []Exposed{ex99}); err == nil || !strings.Contains(err.Error(), "there is no such bridge") {
		t.Errorf("Set without a bridge = %v, want ErrNoBridge", err)
	}
}
