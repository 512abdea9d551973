package expose

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab"
)

// patience is how long tests wait for what must happen.
const patience = 10 * time.Second

// world is a host with two containers of one subnet on its bridge, one of
// another, and a machine behind the host that has no route back.
//
//	c1 192.168.99.11 ─┐
//	c2 192.168.99.12 ─┼─ weave ─ host ─ eth0 10.0.0.1 ─── 10.0.0.2 behind
//	c3 192.168.77.13 ─┘
//
// Each has an IPv6 address besides: fd00:99::b, fd00:99::c, fd00:77::d,
// fd00:1::2. The containers' default routes are by the host.
type world struct {
	t                        *testing.T
	host, c1, c2, c3, behind *lab.Namespace
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// build makes the world, with br_netfilter on or off where the machine has it.
func build(t *testing.T, bridged string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, program := range []string{"iptables", "ip6tables", "iptables-save", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	h := fnv.New32a()
	h.Write([]byte(t.Name()))
	l, err := lab.New(fmt.Sprintf("mexp%d-%08x", os.Getpid(), h.Sum32()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	w := &world{t: t}
	for _, n := range []struct {
		at   **lab.Namespace
		name string
	}{{&w.host, "host"}, {&w.c1, "c1"}, {&w.c2, "c2"}, {&w.c3, "c3"}, {&w.behind, "behind"}} {
		space, err := l.Namespace(n.name)
		w.must(err)
		*n.at = space
	}
	w.must(lab.Connect(w.host, "eth0", w.behind, "eth0"))
	w.must(w.host.AddAddress("eth0", prefix("10.0.0.1/24")))
	w.must(w.host.AddAddress("eth0", prefix("fd00:1::1/64")))
	w.must(w.behind.AddAddress("eth0", prefix("10.0.0.2/24")))
	w.must(w.behind.AddAddress("eth0", prefix("fd00:1::2/64")))
	w.must(w.host.AddBridge("weave"))
	w.plug(w.c1, "192.168.99.11/24", "fd00:99::b/64", "192.168.99.1", "fd00:99::1")
	w.plug(w.c2, "192.168.99.12/24", "fd00:99::c/64", "192.168.99.1", "fd00:99::1")
	w.plug(w.c3, "192.168.77.13/24", "fd00:77::d/64", "192.168.77.1", "fd00:77::1")
	w.must(w.host.Sysctl("net.ipv4.ip_forward", "1"))
	w.must(w.host.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	for _, s := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		if err := w.host.Sysctl(s, bridged); err != nil && bridged == "1" {
			t.Skipf("needs br_netfilter: %v", err)
		}
	}
	return w
}

func (w *world) plug(c *lab.Namespace, a4, a6, gw4, gw6 string) {
	w.t.Helper()
	w.must(lab.Attach(c, w.host, "weave", prefix(a4), prefix(a6)))
	link := "ethwe"
	w.must(c.AddRoute(prefix("0.0.0.0/0"), addr(gw4), link))
	w.must(c.AddRoute(prefix("::/0"), addr(gw6), link))
}

// drop makes the host's FORWARD what Docker makes it.
func (w *world) drop() {
	w.t.Helper()
	w.sh("iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
}

// sh runs shell commands on the host.
func (w *world) sh(script string) string {
	w.t.Helper()
	out, err := w.try(script)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (w *world) try(script string) (out string, err error) {
	err = w.host.Do(func() error {
		b, err := exec.Command("sh", "-ec", script).CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}

// counters and times are not what a comparison is about.
var noise = regexp.MustCompile(`(?m)^# (Generated|Completed|Warning).*\n|packets \d+ bytes \d+|(valid|preferred)_lft \S+|\[\d+:\d+\]`)

// snapshot is all that expose may change on the host.
func (w *world) snapshot() string {
	w.t.Helper()
	return noise.ReplaceAllString(w.sh(`nft list ruleset 2>/dev/null; iptables-save; ip6tables-save; ip addr; ip route show table all; ip -6 route show table all; ip rule;
cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding; cat /proc/thread-self/net/ip_tables_names || true`), "")
}

// exposer makes an Exposer in the host's namespace.
func (w *world) exposer(cfg Config) *Exposer {
	w.t.Helper()
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(w.t.Output(), nil))
	}
	var e *Exposer
	w.must(w.host.Do(func() (err error) {
		e, err = New(cfg)
		return err
	}))
	w.t.Cleanup(func() { e.Close() })
	return e
}

// set calls Set, which must succeed.
func (w *world) set(e *Exposer, exposed ...Exposed) {
	w.t.Helper()
	if err := e.Set(w.t.Context(), exposed); err != nil {
		w.t.Fatalf("Set(%v) = %v", exposed, err)
	}
}

// unchanged fails the test where the host differs from a snapshot.
func (w *world) unchanged(before, when string) {
	w.t.Helper()
	if after := w.snapshot(); after != before {
		w.t.Errorf("%s differ: %s", when, difference(before, after))
	}
}

// run runs the Exposer until the test ends.
func (w *world) run(e *Exposer) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("Run() = %v, want nil", err)
		}
	})
}

// pings fails the test where one does not reach the other.
func (w *world) pings(from *lab.Namespace, to string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Second)
	defer cancel()
	if _, err := from.PingOnce(ctx, addr(to)); err != nil {
		w.t.Errorf("ping from %s to %s: %v\n%s", from.Name, to, err, w.sh("nft list ruleset 2>/dev/null"))
	}
}

// silent fails the test where one reaches the other.
func (w *world) silent(from *lab.Namespace, to string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 400*time.Millisecond)
	defer cancel()
	if rtt, err := from.PingOnce(ctx, addr(to)); err == nil {
		w.t.Errorf("ping from %s to %s came back after %v, want none", from.Name, to, rtt)
	}
}

// contains fails the test where text lacks one of the lines.
func (w *world) contains(text string, lines ...string) {
	w.t.Helper()
	for _, l := range lines {
		if !strings.Contains(text, l) {
			w.t.Errorf("no %q in:\n%s", l, text)
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually polls until ok.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited %v for: %s\n%s", patience, what, w.snapshot())
		}
	}
}
