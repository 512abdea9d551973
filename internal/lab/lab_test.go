package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperEnv makes the test binary play another program, see TestMain.
const helperEnv = "MESHD_LAB_HELPER"

func TestMain(m *testing.M) {
	switch role, arg, _ := strings.Cut(os.Getenv(helperEnv), ":"); role {
	case "":
		// What an earlier run left when it was killed; needs root like the rest.
		if _, err := Sweep("meshd-lab-"); err != nil && os.Geteuid() == 0 {
			check(err)
		}
		os.Exit(m.Run())
	case "print": // says something and waits to be ended
		fmt.Println(arg)
		select {}
	case "hidden": // fails unless a directory is there and empty
		entries, err := os.ReadDir(arg)
		if err != nil || len(entries) > 0 {
			fmt.Println(entries, err)
			os.Exit(1)
		}
	case "abandon": // dies with a lab and a process in it
		abandon(arg, false)
	case "keep":
		abandon(arg, true)
	}
}

// abandon builds a lab and ends without Close, as a killed process does.
func abandon(prefix string, keep bool) {
	l, err := New(prefix)
	check(err)
	n, err := l.Namespace("a")
	check(err)
	p, err := n.Start(helper("print:hello", filepath.Join(l.Dir(), "log")))
	check(err)
	fmt.Println(p.PID())
	if keep {
		check(l.Keep())
	}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// helper is this test binary in another role.
func helper(role, log string) Command {
	exe, err := os.Executable()
	check(err)
	return Command{Path: exe, Env: []string{helperEnv + "=" + role}, Log: log}
}

// newLab is a lab that is closed at the end of the test, and then found gone.
func newLab(t *testing.T) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l, err := New(prefixOf(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := l.Leftovers(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return l
}

func prefixOf(t *testing.T) string {
	hash := fnv.New32a()
	hash.Write([]byte(t.Name()))
	return fmt.Sprintf("meshd-lab-%d-%08x", os.Getpid(), hash.Sum32())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func space(t *testing.T, l *Lab, name string) *Namespace {
	t.Helper()
	n, err := l.Namespace(name)
	must(t, err)
	return n
}

func lan(t *testing.T, l *Lab, name string) *Switch {
	t.Helper()
	s, err := l.Switch(name)
	must(t, err)
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

var (
	pfx  = netip.MustParsePrefix
	addr = netip.MustParseAddr
)

// routed builds
//
//	a 10.1.0.2 ── lan1 ── 10.1.0.1 gw 10.2.0.1 ── lan2 ── b 10.2.0.2
//	  fd01::2             fd01::1     fd02::1               fd02::2
func routed(t *testing.T, l *Lab) (lan1 *Switch, a, b *Namespace) {
	t.Helper()
	lan1, lan2 := lan(t, l, "lan1"), lan(t, l, "lan2")
	a, b = space(t, l, "a"), space(t, l, "b")
	gw, err := l.Router("gw")
	must(t, err)
	must(t, lan1.Plug(a, "eth0", pfx("10.1.0.2/24"), pfx("fd01::2/64")))
	must(t, lan2.Plug(b, "eth0", pfx("10.2.0.2/24"), pfx("fd02::2/64")))
	must(t, lan1.Plug(gw, "eth1", pfx("10.1.0.1/24"), pfx("fd01::1/64")))
	must(t, lan2.Plug(gw, "eth2", pfx("10.2.0.1/24"), pfx("fd02::1/64")))
	must(t, a.AddRoute(pfx("0.0.0.0/0"), addr("10.1.0.1"), "eth0"))
	must(t, a.AddRoute(pfx("::/0"), addr("fd01::1"), "eth0"))
	must(t, b.AddRoute(pfx("0.0.0.0/0"), addr("10.2.0.1"), "eth0"))
	must(t, b.AddRoute(pfx("::/0"), addr("fd02::1"), "eth0"))
	return lan1, a, b
}

func TestRoutedPingHTTPAndTransfer(t *testing.T) {
	_, a, b := routed(t, newLab(t))
	ctx := within(t, 30*time.Second)
	for _, dst := range []netip.Addr{addr("10.2.0.2"), addr("fd02::2"), addr("10.1.0.2")} {
		if rtt, err := a.PingOnce(ctx, dst); err != nil || rtt <= 0 {
			t.Errorf("PingOnce(%v) = %v, %v, want an answer", dst, rtt, err)
		}
	}
	must(t, b.ServeHTTP("10.2.0.2:80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.RemoteAddr)
	})))
	body, err := a.Get(ctx, "http://10.2.0.2/")
	if err != nil || !strings.HasPrefix(body, "hello 10.1.0.2:") {
		t.Errorf("Get = %q, %v, want a greeting of 10.1.0.2", body, err)
	}
	if _, err := b.Get(ctx, "http://10.1.0.2/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Get from a host without a server = %v, want connection refused", err)
	}
	if _, err := Transfer(ctx, a, b, addr("fd02::2"), 3<<20); err != nil {
		t.Error(err)
	}
}

func TestPingCountsWhatIsLost(t *testing.T) {
	lan1, a, b := routed(t, newLab(t))
	ctx := within(t, 30*time.Second)
	_, err := a.PingOnce(ctx, addr("10.2.0.2"))
	must(t, err)
	p, err := a.Ping(addr("10.2.0.2"), PingConfig{Interval: 5 * time.Millisecond})
	must(t, err)
	more := func(n int) func() error {
		target := p.Stats(0).Sent + n
		return func() error {
			if got := p.Stats(0).Sent; got < target {
				return fmt.Errorf("%d of %d sent", got, target)
			}
			return nil
		}
	}
	must(t, Poll(ctx, time.Millisecond, more(10)))
	must(t, lan1.Mute(a, "eth0"))
	must(t, Poll(ctx, time.Millisecond, more(20)))
	must(t, lan1.Unmute(a, "eth0"))
	must(t, Poll(ctx, time.Millisecond, more(10)))
	s := p.Stop(5 * time.Second)
	// The cut and its end fall between two requests each.
	if s.Lost() < 18 || s.Received < 18 || s.Duplicates != 0 || s.Refused != 0 {
		t.Errorf("stats = %+v, want about 20 lost and at least 18 answered", s)
	}
	if s.Outage < 18*5*time.Millisecond || s.Min <= 0 || s.Max < s.Avg || s.Avg < s.Min {
		t.Errorf("stats = %+v, want an outage of at least 90 ms and ordered round trips", s)
	}
	if _, err := b.PingOnce(ctx, addr("10.1.0.2")); err != nil {
		t.Errorf("after Unmute: %v", err)
	}
}

func TestPingSaysWhatTheKernelRefuses(t *testing.T) {
	_, a, _ := routed(t, newLab(t))
	must(t, a.Blackhole(pfx("10.2.0.2/32")))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.PingOnce(ctx, addr("10.2.0.2")); err == nil {
		t.Error("PingOnce through a blackhole = nil, want an error")
	}
	p, err := a.Ping(addr("10.2.0.2"), PingConfig{})
	must(t, err)
	if s := p.Stop(0); s.Refused != 1 || s.Lost() != 1 {
		t.Errorf("stats = %+v, want one refused and lost", s)
	}
	must(t, a.Unblackhole(pfx("10.2.0.2/32")))
	if _, err := a.PingOnce(within(t, 10*time.Second), addr("10.2.0.2")); err != nil {
		t.Errorf("after Unblackhole: %v", err)
	}
}

// TestContainer attaches containers to a host's bridge:
//
//	c1 ethwe ┐
//	         weave (mtu 1376) in host
//	c2 ethwe ┘
func TestContainer(t *testing.T) {
	l := newLab(t)
	host, c1, c2 := space(t, l, "host"), space(t, l, "c1"), space(t, l, "c2")
	if err := Attach(c1, host, "weave"); err == nil {
		t.Error("Attach without a bridge = nil, want an error")
	}
	must(t, host.AddBridge("weave"))
	must(t, host.SetMTU("weave", 1376))
	must(t, Attach(c1, host, "weave", pfx("192.168.99.10/24")))
	must(t, Attach(c2, host, "weave", pfx("192.168.99.21/24")))
	link, err := c1.Look(ContainerLink)
	if err != nil || link.MTU != 1376 || link.Kind != "veth" || !link.Up {
		t.Errorf("Look(ethwe) = %+v, %v, want a veth with MTU 1376, up", link, err)
	}
	if port, err := host.Look(HostPort(c1)); err != nil || port.Master != "weave" || port.MTU != 1376 {
		t.Errorf("Look(host's port) = %+v, %v, want it on weave with MTU 1376", port, err)
	}
	ctx := within(t, 10*time.Second)
	if _, err := c1.PingSize(ctx, addr("192.168.99.21"), 1376-28); err != nil {
		t.Error(err)
	}
	group, err := c2.ListenMulticast("udp4", ContainerLink, "239.1.2.3:7000")
	must(t, err)
	conn, err := c1.Dial(ctx, "udp", "239.1.2.3:7000")
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("to the group"))
	must(t, err)
	group.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	if n, _, err := group.ReadFrom(buf); err != nil || string(buf[:n]) != "to the group" {
		t.Errorf("multicast = %q, %v, want %q", buf[:n], err, "to the group")
	}
	if links, err := c1.Links(); err != nil || !slices.Equal(links, []string{"lo", "ethwe"}) {
		t.Errorf("Links = %v, %v, want lo and ethwe", links, err)
	}
}

func TestProcess(t *testing.T) {
	l := newLab(t)
	n := space(t, l, "a")
	p, err := n.Start(helper("print:one\ntwo\nthree", filepath.Join(l.Dir(), "log")))
	must(t, err)
	printed := func() error {
		if got := p.Tail(2); !slices.Equal(got, []string{"two", "three"}) {
			return fmt.Errorf("Tail(2) = %q, want two and three", got)
		}
		return nil
	}
	must(t, Poll(within(t, 10*time.Second), time.Millisecond, printed))
	if got := processesIn(n.net.ID()); !slices.Equal(got, []int{p.PID()}) {
		t.Errorf("processes in the namespace = %v, want %d", got, p.PID())
	}
	if rss, err := p.RSS(); err != nil || rss <= 0 {
		t.Errorf("RSS = %v, %v, want more than 0", rss, err)
	}
	var exit *exec.ExitError
	if err := p.Stop(10 * time.Second); !errors.As(err, &exit) {
		t.Errorf("Stop = %v, want an *exec.ExitError: the helper does not handle SIGTERM", err)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill of an ended process = %v, want nil", err)
	}
	frozen, err := n.Start(helper("print:x", ""))
	must(t, err)
	must(t, frozen.Signal(syscall.SIGSTOP))
	if err := frozen.Stop(time.Millisecond); err == nil {
		t.Error("Stop of a frozen process = nil, want an error")
	}
	select {
	case <-frozen.Done():
	default:
		t.Error("Stop left a frozen process alive")
	}
}

func TestProcessHide(t *testing.T) {
	n := space(t, newLab(t), "a")
	c := helper("hidden:/dev/net", "")
	c.Hide = []string{"/dev/net"}
	p, err := n.Start(c)
	must(t, err)
	if err := p.Err(); err != nil {
		t.Errorf("helper = %v, want an empty /dev/net", err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Errorf("outside: %v, want /dev/net as before", err)
	}
}

func TestDoPanics(t *testing.T) {
	n := space(t, newLab(t), "a")
	defer func() {
		if got := recover(); got != "boom" {
			t.Errorf("recover() = %v, want boom", got)
		}
	}()
	n.Do(func() error { panic("boom") })
}

// TestMainThreadStays shows that no namespace sticks to the process.
func TestMainThreadStays(t *testing.T) {
	before, err := idOf("/proc/self/ns/net")
	must(t, err)
	n := space(t, newLab(t), "a")
	for range 50 {
		must(t, n.Do(func() error {
			if got, err := idOf("/proc/thread-self/ns/net"); err != nil || got != n.net.ID() {
				return fmt.Errorf("inside Do: namespace %v, %v, want %v", got, err, n.net.ID())
			}
			return nil
		}))
	}
	for range 50 {
		if got, err := idOf("/proc/thread-self/ns/net"); err != nil || got != before {
			t.Fatalf("namespace = %v, %v, want %v", got, err, before)
		}
	}
}

func TestNewRefusesALivePrefix(t *testing.T) {
	l := newLab(t)
	if _, err := New(l.Prefix()); !errors.Is(err, ErrInUse) {
		t.Errorf("New = %v, want ErrInUse", err)
	}
	if _, err := Remove(l.Prefix()); !errors.Is(err, ErrInUse) {
		t.Errorf("Remove = %v, want ErrInUse", err)
	}
	if swept, err := Sweep(l.Prefix()); err != nil || len(swept) > 0 {
		t.Errorf("Sweep = %v, %v, want nothing", swept, err)
	}
	for _, bad := range []string{"", "a/b", "..", "a b", strings.Repeat("x", 41)} {
		if _, err := New(bad); err == nil {
			t.Errorf("New(%q) = nil, want an error", bad)
		}
		if _, err := l.Namespace(bad); err == nil {
			t.Errorf("Namespace(%q) = nil, want an error", bad)
		}
	}
	space(t, l, "a")
	if _, err := l.Namespace("a"); err == nil {
		t.Error("a second namespace a = nil, want an error")
	}
	if _, err := os.Stat(filepath.Join(netnsDir, l.Prefix()+"-a")); err != nil {
		t.Errorf("the first namespace a: %v, want it to stay", err)
	}
	must(t, l.Close())
	if _, err := l.Namespace("b"); err == nil {
		t.Error("Namespace after Close = nil, want an error")
	}
}

// runHelper runs this binary in a role to its end and returns what it printed.
func runHelper(t *testing.T, role string) string {
	t.Helper()
	c := helper(role, "")
	cmd := exec.Command(c.Path)
	cmd.Env = append(os.Environ(), c.Env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper %s: %v: %s", role, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestSweepRemovesWhatADeadOwnerLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tt := range []struct {
		name  string
		again func(prefix string) error
	}{
		{"sweep", func(prefix string) error {
			swept, err := Sweep(prefix)
			if err == nil && !slices.Equal(swept, []string{prefix}) {
				return fmt.Errorf("Sweep = %v, want %s", swept, prefix)
			}
			return err
		}},
		{"new", func(prefix string) error {
			l, err := New(prefix)
			if err != nil {
				return err
			}
			return l.Close()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			prefix := fmt.Sprintf("meshd-lab-%d-%s", os.Getpid(), tt.name)
			pid := runHelper(t, "abandon:"+prefix)
			if _, err := os.Stat("/proc/" + pid); err != nil {
				t.Fatalf("the abandoned process: %v, want it alive", err)
			}
			must(t, tt.again(prefix))
			gone(t, prefix, pid)
		})
	}
}

func TestKeepAndRemove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	prefix := prefixOf(t)
	pid := runHelper(t, "keep:"+prefix)
	if swept, err := Sweep(prefix); err != nil || len(swept) > 0 {
		t.Errorf("Sweep = %v, %v, want a kept lab to stay", swept, err)
	}
	if _, err := New(prefix); !errors.Is(err, ErrKept) {
		t.Errorf("New = %v, want ErrKept", err)
	}
	if _, err := os.Stat("/proc/" + pid); err != nil {
		t.Errorf("the kept process: %v, want it alive", err)
	}
	if found, err := Remove(prefix); !found || err != nil {
		t.Errorf("Remove = %v, %v, want true", found, err)
	}
	gone(t, prefix, pid)
	if found, err := Remove(prefix); found || err != nil {
		t.Errorf("second Remove = %v, %v, want false", found, err)
	}
}

func gone(t *testing.T, prefix, pid string) {
	t.Helper()
	if left := leftovers(prefix); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// It has left its namespace; on a busy machine the rest of its end takes a moment.
	err := Poll(within(t, endTime), time.Millisecond, func() error {
		if b, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(b), ") Z ") {
			return fmt.Errorf("process %s lives: %s", pid, b)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPollReturnsTheLastError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	err := Poll(ctx, time.Microsecond, func() error {
		if calls++; calls == 3 {
			cancel()
		}
		return fmt.Errorf("call %d", calls)
	})
	if err == nil || !strings.Contains(err.Error(), "call 2") || !errors.Is(err, context.Canceled) {
		t.Errorf("Poll = %v, want the error of call 2 and context.Canceled", err)
	}
}

func TestPollEndsAtAFinalError(t *testing.T) {
	gone := errors.New("gone")
	calls := 0
	err := Poll(t.Context(), time.Microsecond, func() error {
		if calls++; calls < 3 {
			return errors.New("not yet")
		}
		return fmt.Errorf("wrapped: %w", Final(gone))
	})
	if !errors.Is(err, gone) || calls != 3 {
		t.Errorf("Poll = %v after %d calls, want the final error after 3", err, calls)
	}
}
