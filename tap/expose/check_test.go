package expose

import (
	"strings"
	"testing"

	"meshd/internal/subnet"
)

// here is a host with something on its bridge, and on others.
var here = host{
	bridge: "weave", mtu: 1376,
	own: prefixes("192.168.50.1/24"),
	others: subnet.Networks{
		Owner:     "this host",
		Addresses: []subnet.Address{{Prefix: prefix("172.17.0.1/16"), Device: "docker0"}},
	},
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
		{"there already", here, "192.168.50.1/24", ""},
		{"network", here, "192.168.99.0/24", "did you mean 192.168.99.1/24?"},
		{"Docker's network", here, "172.17.5.1/24", "overlaps with the network 172.17.0.0/16 of this host, on its device docker0"},
		{"other length", here, "192.168.50.1/16", "has the address 192.168.50.1/24 already"},
		{"overlap", here, "192.168.99.1/24 192.168.1.1/16", "192.168.99.1/24 and 192.168.1.1/16 overlap"},
		{"narrow", narrow, "fd00:99::1/64", "the bridge weave has MTU 1000 and IPv6 needs 1280: raise bridge.mtu"},
		{"narrow for IPv4", narrow, "192.168.99.1/24", ""},
		{"two faults", here, "192.168.99.0/24 127.0.0.1/8", "did you mean 192.168.99.1/24?\n127"},
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
		"10.0.0.77/24":  "the network 10.0.0.0/24 of this host, on its device eth0",
		"10.9.1.1/16":   "the route of this host to 10.9.0.0/16, by its device eth0",
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
