package expose

import (
	"strings"
	"testing"
	"time"

	"meshd/internal/lab"
)

// The ports that a mesh guards.
var meshPorts = Config{TCP: []uint16{6783, 6784}, UDP: []uint16{6783, 6785, 6786}}

var (
	ex99  = Exposed{prefix("192.168.99.1/24"), true}
	ex77  = Exposed{prefix("192.168.77.1/24"), true}
	ex996 = Exposed{prefix("fd00:99::1/64"), true}
	ex776 = Exposed{prefix("fd00:77::1/64"), true}
)

// both runs a test with and without br_netfilter.
func both(t *testing.T, test func(t *testing.T, w *world)) {
	for _, bridged := range []string{"1", "0"} {
		t.Run("br_netfilter "+bridged, func(t *testing.T) { test(t, build(t, bridged)) })
	}
}

func TestExpose(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.drop()
		before := w.snapshot()
		e := w.exposer(meshPorts)
		w.set(e)
		w.pings(w.c1, "192.168.99.12")
		w.pings(w.c1, "fd00:99::c")
		w.silent(w.c1, "10.0.0.2")
		w.set(e, ex99, ex996)
		// Behind has no route back: only masquerading lets the reply through.
		w.pings(w.c1, "10.0.0.2")
		w.pings(w.c1, "fd00:1::2")
		w.pings(w.c1, "192.168.99.12")
		w.pings(w.c1, "fd00:99::c")
		w.pings(w.host, "192.168.99.11")
		w.pings(w.host, "fd00:99::b")
		w.must(w.behind.AddRoute(prefix("192.168.99.0/24"), addr("10.0.0.1"), "eth0"))
		w.pings(w.behind, "192.168.99.11")
		w.contains(w.sh("ip route"), "192.168.99.0/24 dev weave proto kernel scope link src 192.168.99.1")
		w.contains(w.sh("iptables-save"),
			"-A FORWARD -i weave -o weave -m comment --comment meshd -j ACCEPT",
			"-A FORWARD -s 192.168.99.0/24 -i weave -m comment --comment meshd -j ACCEPT",
			"-A FORWARD -d 192.168.99.0/24 -o weave -m comment --comment meshd -j ACCEPT")
		w.contains(w.sh("ip6tables-save"), "-A FORWARD -s fd00:99::/64 -i weave -m comment --comment meshd -j ACCEPT")
		if save := w.sh("iptables-save 2>&1; ip6tables-save 2>&1"); strings.Contains(save, "incompatible") {
			t.Errorf("iptables-save does not read our rules:\n%s", save)
		}
		t.Log(w.sh("nft list ruleset 2>/dev/null; iptables-save"))
		if p := e.Problems(); len(p) > 0 {
			t.Errorf("Problems() = %q, want none", p)
		}
		w.must(e.Remove())
		w.unchanged(before, "before and after Remove")
	})
}

// A second Set with the same changes nothing, not even the handle of a rule.
func TestSetTwice(t *testing.T) {
	w := build(t, "1")
	w.drop()
	e := w.exposer(meshPorts)
	w.set(e, ex99, ex776)
	handles := func() string { return noise.ReplaceAllString(w.sh("nft -a list ruleset; ip addr"), "") }
	before := handles()
	w.set(e, ex776, ex99)
	if after := handles(); after != before {
		t.Errorf("the second Set changed: %s", difference(before, after))
	}
}

func TestNoRouteBetweenSubnets(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		e := w.exposer(meshPorts)
		w.set(e, ex99, ex77, ex996, ex776)
		w.pings(w.c1, "192.168.99.12")
		w.pings(w.c1, "10.0.0.2")
		w.pings(w.c3, "10.0.0.2")
		w.silent(w.c1, "192.168.77.13")
		w.silent(w.c1, "fd00:77::d")
		w.silent(w.c3, "192.168.99.11")
		e.RouteBetween(true)
		w.pings(w.c1, "192.168.77.13")
		w.pings(w.c1, "fd00:77::d")
		e.RouteBetween(false)
		w.silent(w.c1, "192.168.77.13")
		w.silent(w.c1, "fd00:77::d")
		open := w.exposer(Config{RouteBetween: true})
		w.set(open, ex99, ex77, ex996, ex776)
		w.pings(w.c1, "192.168.77.13")
		w.pings(w.c1, "fd00:77::d")
		if p := open.Problems(); len(p) > 0 {
			t.Errorf("Problems() = %q", p)
		}
	})
}

// Whoever talks over the bridge without the host is never touched, not even
// where the host's idea of the subnet differs from the containers'.
func TestBridgedFramesStayAsTheyAre(t *testing.T) {
	w := build(t, "1")
	w.drop()
	e := w.exposer(meshPorts)
	w.set(e, Exposed{prefix("192.168.99.14/28"), true}) // .0 to .15
	w.must(w.c2.AddAddress("ethwe", prefix("192.168.99.200/24")))
	w.pings(w.c1, "192.168.99.200") // from outside the host's subnet, and back into it
	w.pings(w.c2, "192.168.99.11")
	conn, err := w.c1.ListenPacket("udp4", "192.168.99.11:5000")
	w.must(err)
	defer conn.Close()
	out, err := w.c2.ListenPacket("udp4", "192.168.99.200:5000")
	w.must(err)
	defer out.Close()
	_, err = out.WriteTo([]byte("hello"), conn.LocalAddr())
	w.must(err)
	buf := make([]byte, 16)
	_, from, err := conn.ReadFrom(buf)
	w.must(err)
	if from.String() != out.LocalAddr().String() {
		t.Errorf("a bridged datagram came from %v, want %v", from, out.LocalAddr())
	}
}

func TestNoMasquerade(t *testing.T) {
	w := build(t, "1")
	w.drop()
	e := w.exposer(meshPorts)
	w.set(e, Exposed{ex99.Address, false})
	w.silent(w.c1, "10.0.0.2")
	w.must(w.behind.AddRoute(prefix("192.168.99.0/24"), addr("10.0.0.1"), "eth0"))
	w.pings(w.c1, "10.0.0.2")
	if rules := w.sh("nft list ruleset"); strings.Contains(rules, "masquerade") {
		t.Errorf("masquerade in:\n%s", rules)
	}
}

// The mesh's ports cannot be reached from containers, by whatever address.
func TestGuard(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		e := w.exposer(meshPorts)
		w.set(e, ex99, ex996)
		for _, port := range []string{"6783", "6784", "8080"} {
			l, err := w.host.Listen("tcp", "[::]:"+port)
			w.must(err)
			defer l.Close()
		}
		for _, to := range []string{"192.168.99.1", "10.0.0.1", "[fd00:99::1]", "[fd00:1::1]"} {
			w.reaches(w.c1, to+":8080", true)
			w.reaches(w.c1, to+":6783", false)
			w.reaches(w.c1, to+":6784", false)
		}
		w.reaches(w.behind, "10.0.0.1:6783", true)
		if out := w.sh("nft list table inet meshd"); strings.Contains(out, "tcp dport 6783 counter packets 0 ") {
			t.Errorf("drops are not counted:\n%s", out)
		}
	})
}

func (w *world) reaches(from *lab.Namespace, to string, want bool) {
	w.t.Helper()
	c, err := dial(w.t.Context(), from, to)
	if err == nil {
		c.Close()
	}
	if (err == nil) != want {
		w.t.Errorf("connect from %s to %s: %v, want reached %v", from.Name, to, err, want)
	}
}

// What a flush or a deletion took comes back, ten ways.
func TestRestore(t *testing.T) {
	w := build(t, "1")
	w.drop()
	e := w.exposer(meshPorts)
	w.set(e, ex99, ex77, ex996)
	w.run(e)
	const look = `{ iptables-save; ip6tables-save; } | grep -e '-A FORWARD' -e ':FORWARD'
nft list table inet meshd; nft list table netdev meshd; ip addr show weave scope global`
	want := noise.ReplaceAllString(w.sh(look), "")
	for _, harm := range []string{
		"iptables -F; ip6tables -F",
		"nft flush ruleset; iptables -P FORWARD DROP; ip6tables -P FORWARD DROP",
		"nft delete table inet meshd",
		"nft flush chain inet meshd postrouting",
		"nft delete table netdev meshd",
		"iptables-save > /tmp/$$.rules; nft delete table ip filter; iptables-restore /tmp/$$.rules; rm /tmp/$$.rules",
		"iptables -D FORWARD -i weave -o weave -m comment --comment meshd -j ACCEPT",
		"ip addr flush dev weave",
		"ip addr del 192.168.99.1/24 dev weave",
		"ip link set weave down; ip link set weave up",
	} {
		w.sh(harm)
		w.eventually("restored after "+harm, func() bool {
			out, err := w.try(look)
			return err == nil && sortedLines(noise.ReplaceAllString(out, "")) == sortedLines(want)
		})
	}
	w.pings(w.c1, "10.0.0.2")
	w.pings(w.c1, "fd00:1::2")
}

// A bridge that is made anew gets its addresses, and the rules that hang on it.
func TestBridgeComesBack(t *testing.T) {
	w := build(t, "1")
	e := w.exposer(meshPorts)
	w.set(e, ex99, ex77)
	w.run(e)
	w.must(w.host.Delete("weave"))
	w.eventually("the bridge is missed", func() bool { return strings.Contains(strings.Join(e.Problems(), ";"), "is missing") })
	w.must(w.host.AddBridge("weave"))
	w.must(w.host.Join(lab.HostPort(w.c1), "weave"))
	w.must(w.host.Join(lab.HostPort(w.c3), "weave"))
	w.eventually("the addresses are back", func() bool {
		return strings.Contains(w.sh("ip addr show weave"), "192.168.99.1/24") && len(e.Problems()) == 0
	})
	w.pings(w.c1, "192.168.99.1")
	w.silent(w.c1, "192.168.77.13")
}

// Addresses and rules of others stay, also those that hang on ours.
func TestOthersStay(t *testing.T) {
	w := build(t, "1")
	w.drop()
	w.sh(`ip addr add 192.168.50.1/24 dev weave
iptables -A FORWARD -i weave -m comment --comment theirs -j ACCEPT
nft add table inet theirs; nft add chain inet theirs c`)
	before := w.snapshot()
	e := w.exposer(meshPorts)
	w.set(e, ex99, Exposed{prefix("192.168.50.1/24"), true})
	w.sh("ip addr add 192.168.99.2/24 dev weave") // hangs on 192.168.99.1
	w.set(e)
	w.contains(w.sh("ip addr show weave"), "192.168.99.2/24", "192.168.50.1/24")
	w.sh("ip addr del 192.168.99.2/24 dev weave")
	w.must(e.Remove())
	w.unchanged(before, "before and after Remove")
}

// What a killed daemon left is taken over by the next, and found and removed by
// another process.
func TestCrash(t *testing.T) {
	t.Run("tagged addresses", func(t *testing.T) { testCrash(t, false) })
	t.Run("older kernel", func(t *testing.T) { testCrash(t, true) })
}

func testCrash(t *testing.T, old bool) {
	w := build(t, "1")
	w.drop()
	before := w.snapshot()
	w.set(w.exposer(meshPorts), ex99, ex77, ex996)
	if old { // as a kernel leaves it that knows no IFA_PROTO
		w.sh("ip addr del 192.168.99.1/24 dev weave; ip addr add 192.168.99.1/24 brd + dev weave")
	}
	w.set(w.exposer(meshPorts), ex77)
	if out := w.sh("ip addr show weave; iptables-save"); strings.Contains(out, "192.168.99.") {
		t.Errorf("192.168.99.1 is still exposed:\n%s", out)
	}
	w.contains(w.sh("ip addr show weave"), "192.168.77.1/24")
	var left []string
	w.must(w.host.Do(func() (err error) {
		left, err = Left("")
		return err
	}))
	if len(left) < 4 {
		t.Errorf("Left() = %q, want an address, two tables and rules", left)
	}
	w.must(w.host.Do(func() error { return RemoveLeft("") }))
	w.unchanged(before, "before and after RemoveLeft")
}

// A Set that fails leaves all as it was.
func TestSetFails(t *testing.T) {
	w := build(t, "1")
	w.drop()
	e := w.exposer(meshPorts)
	w.set(e, ex99)
	w.sh("echo 1 > /proc/sys/net/ipv6/conf/weave/disable_ipv6") // the last step fails
	before := w.snapshot()
	if err := e.Set(t.Context(), []Exposed{ex77, ex996}); err == nil {
		t.Error("Set() = nil, want an error")
	}
	w.unchanged(before, "before and after a Set that fails")
	if !e.Keeps([]Exposed{ex99}) || e.Keeps([]Exposed{ex77, ex996}) || e.Keeps(nil) {
		t.Error("it does not keep up what it was told before")
	}
}

// A program that always undoes what Run repairs is not fought.
func TestFight(t *testing.T) {
	w := build(t, "0")
	e := w.exposer(meshPorts)
	w.set(e, ex99)
	w.run(e)
	repairs := 0
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		if _, err := w.try("nft delete table inet meshd"); err == nil {
			repairs++
		}
	}
	if repairs < 2 || repairs > 6 {
		t.Errorf("%d repairs in 1.5 s, want a few: after 0, 0.1, 0.2, 0.4, 0.8 s", repairs)
	}
}
