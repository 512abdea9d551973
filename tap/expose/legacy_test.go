package expose

import (
	"os/exec"
	"strings"
	"testing"
)

// Where a host uses iptables-legacy, alone or mixed with nftables, our rules are
// in both.
func TestLegacy(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("needs iptables-legacy")
	}
	w := build(t, "1")
	w.drop()
	if out, err := w.try("iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP"); err != nil {
		t.Skipf("needs a kernel with legacy iptables: %s", out)
	}
	look := func() string { return w.snapshot() + w.sh("iptables-legacy -S; ip6tables-legacy -S") }
	before := look()
	e := w.exposer(meshPorts)
	w.set(e, ex99, ex996)
	w.pings(w.c1, "192.168.99.12")
	w.pings(w.c1, "10.0.0.2")
	w.pings(w.c1, "fd00:1::2")
	w.contains(w.sh("iptables-legacy -S"), "-A FORWARD -i weave -o weave -m comment --comment meshd -j ACCEPT\n")
	rules := w.sh("iptables-legacy -S; ip6tables-legacy -S")
	w.set(e, ex99, ex996)
	if again := w.sh("iptables-legacy -S; ip6tables-legacy -S"); again != rules {
		t.Errorf("a second Set changed: %s", difference(rules, again))
	}
	w.sh("iptables-legacy -F")
	w.set(e, ex77)
	w.pings(w.c3, "10.0.0.2")
	w.silent(w.c1, "10.0.0.2")
	if p := e.Problems(); len(p) > 0 {
		t.Errorf("Problems() = %q, want none", p)
	}
	w.must(e.Remove())
	if after := look(); after != before {
		t.Errorf("before and after Remove differ: %s", difference(before, after))
	}
}

// To look for a legacy table does not make one.
func TestLegacyIsNotMade(t *testing.T) {
	w := build(t, "0")
	w.set(w.exposer(meshPorts), ex99)
	if names := w.sh("cat /proc/thread-self/net/ip_tables_names || true"); strings.Contains(names, "filter") {
		t.Errorf("legacy tables: %q, want none", names)
	}
}

func TestLegacyProblem(t *testing.T) {
	p := plan{bridge: "weave", exposed: []Exposed{ex99, ex996}}
	want := "type on the host after each of its starts: iptables-legacy -I FORWARD -d 192.168.99.0/24 -o weave -m comment --comment meshd -j ACCEPT; " +
		"iptables-legacy -I FORWARD -s 192.168.99.0/24 -i weave -m comment --comment meshd -j ACCEPT; " +
		"iptables-legacy -I FORWARD -i weave -o weave -m comment --comment meshd -j ACCEPT"
	if got := legacies[0].problem(p); !strings.HasSuffix(got, want) {
		t.Errorf("problem() = %q, want it to end in %q", got, want)
	}
}
