package containers

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"meshd/internal/engine"
	"meshd/internal/engine/enginetest"
	"meshd/internal/frame"
	"meshd/internal/lab"
	"meshd/internal/netns"
	"meshd/tap/attach"
	"meshd/tap/expose"
)

const bridge = "weave"

// patience is how long tests wait for what must happen.
const patience = 15 * time.Second

// isolated says to a test that it runs in a process with a network of its own.
const isolated = "MESHD_TEST_ISOLATED"

// TestMain has more tests run beside each other than there are processors: mostly they
// wait for answers to probes.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = flag.Set("test.parallel", "16") // a number
	}
	os.Exit(m.Run())
}

// inNetwork runs f in a process of its own, as host of a new network. A Keeper works in
// the network of its process, so tests cannot share one; they run beside each other.
func inNetwork(t *testing.T, f func(h *node)) {
	if os.Getenv(isolated) == t.Name() {
		f(newHost(t))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	t.Parallel()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), isolated+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM):
		t.Skipf("needs new network namespaces: %v", err)
	case err != nil:
		t.Fatalf("%v:\n%s", err, out)
	case bytes.Contains(out, []byte("--- SKIP")):
		t.Skipf("%s", out)
	}
}

// node is a host with a bridge, an engine, and a stranger: a machine on the overlay
// that no Keeper knows.
//
//	containers of engine ── weave ── stranger 10.32.0.99/24
type node struct {
	*testing.T
	engine   *enginetest.Engine
	others   []string               // sockets of more engines, before its own
	ctr      *enginetest.Containerd // nil: there is none
	stranger *enginetest.Container
	strange  frame.MAC // of the stranger
	dir      string    // state
	log      logBuffer

	*Keeper
	stop func() // ends the Keeper
}

func newHost(t *testing.T) *node {
	must(t, syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""))
	h := &node{T: t, engine: enginetest.New(t), dir: filepath.Join(t.TempDir(), "state")}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	off := false
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}, MulticastSnooping: &off}))
	br, err := netlink.LinkByName(bridge)
	must(t, err)
	must(t, netlink.LinkSetMTU(br, 1409)) // in two steps: then it does not follow its ports
	must(t, netlink.LinkSetMTU(br, 1410))
	must(t, netlink.LinkSetUp(br))
	h.stranger = h.engine.Run("stranger", enginetest.Options{})
	h.strange = h.plug(h.stranger, "far", "out", "10.32.0.99/24")
	h.start()
	return h
}

// plug puts a container on the bridge by a device that is not meshd's, and returns its MAC.
func (h *node) plug(c *enginetest.Container, hostSide, device, addr string) (mac frame.MAC) {
	h.Helper()
	must(h.T, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: hostSide}, PeerName: device}))
	br, err := netlink.LinkByName(bridge)
	must(h.T, err)
	far, err := netlink.LinkByName(hostSide)
	must(h.T, err)
	out, err := netlink.LinkByName(device)
	must(h.T, err)
	must(h.T, netlink.LinkSetMaster(far, br))
	must(h.T, netlink.LinkSetUp(far))
	must(h.T, netlink.LinkSetNsPid(out, c.PID()))
	h.within(c, func(nl *netlink.Handle) {
		out, err := nl.LinkByName(device)
		must(h.T, err)
		a, err := netlink.ParseAddr(addr)
		must(h.T, err)
		must(h.T, nl.AddrAdd(out, a))
		must(h.T, nl.LinkSetUp(out))
		mac = frame.MAC(out.Attrs().HardwareAddr)
	})
	return mac
}

// link gives the host a further device with an address.
func (h *node) link(name, addr string) {
	h.Helper()
	must(h.T, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}))
	link, err := netlink.LinkByName(name)
	must(h.T, err)
	must(h.T, netlink.LinkSetUp(link))
	a, err := netlink.ParseAddr(addr)
	must(h.T, err)
	must(h.T, netlink.AddrAdd(link, a))
}

// ownPort is one that is said to be this process's.
const ownPort = 8083

// start starts a Keeper on what the one before kept.
func (h *node) start() {
	h.Helper()
	log := slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	x, err := expose.New(expose.Config{Bridge: bridge, Log: log})
	must(h.T, err)
	cfg := engine.Config{Sockets: append(slices.Clone(h.others), h.engine.Socket), Containerd: []string{}, Log: log}
	if h.ctr != nil {
		cfg.Containerd = []string{h.ctr.Root}
	}
	h.Keeper, err = Open(Config{
		Bridge: bridge, StateDir: h.dir, Exposer: x, Log: log,
		Engines: engine.New(cfg),
		Peer: func(m frame.MAC) string {
			if m == h.strange {
				return "peer weave02 (02:00:00:00:00:02)"
			}
			return ""
		},
		PortOwner: func(port uint16, protocol string) (name string, pid int) {
			if port == ownPort {
				return "meshd", os.Getpid()
			}
			return "nginx-" + protocol, int(port)
		},
	})
	must(h.T, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	k := h.Keeper
	go func() { done <- k.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			h.Errorf("Run() = %v", err)
		}
		h.wantEnded()
		if err := x.Close(); err != nil {
			h.Error(err)
		}
	})
	h.Cleanup(func() {
		h.stop()
		if h.Failed() {
			h.Logf("log:\n%s", h.log.String())
		}
	})
	h.until("the engine is watched", func() bool { return h.engine.Listeners() > 0 })
}

// wantEnded checks that no goroutine of a Keeper goes on. Readers of the kernel's news
// end a moment after their socket was closed.
func (h *node) wantEnded() {
	h.Helper()
	var stacks []byte
	ended := func() error {
		stacks = make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for _, ours := range []string{"containers.(*Keeper)", "publish.(*Proxy)", "expose.(*Exposer)", "engine.(*"} {
			if bytes.Contains(stacks, []byte(ours)) {
				return fmt.Errorf("a goroutine of %s outlives Run", ours)
			}
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // h's is done in a cleanup
	defer cancel()
	if err := lab.Poll(ctx, time.Millisecond, ended); err != nil {
		h.Errorf("%v:\n%s", err, stacks)
	}
}

func (h *node) run(name string) *enginetest.Container {
	h.Helper()
	return h.engine.Run(name, enginetest.Options{})
}

// attach is Attach with addresses as words.
func (h *node) attach(what, addrs string) error {
	_, err := h.Attach(h.Context(), what, prefixes(addrs), AttachOptions{})
	return err
}

func (h *node) mustAttach(c *enginetest.Container, addrs string) {
	h.Helper()
	if err := h.attach(c.Name, addrs); err != nil {
		h.Fatalf("attach %s: %v", c.Name, err)
	}
	h.wantInside(c, addrs)
}

// space opens a container's network.
func (h *node) space(c *enginetest.Container) *netns.Namespace {
	h.Helper()
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", c.PID()))
	must(h.T, err)
	return ns
}

// within calls f with a handle for a container's network.
func (h *node) within(c *enginetest.Container, f func(nl *netlink.Handle)) {
	h.Helper()
	ns := h.space(c)
	defer ns.Close()
	var nl *netlink.Handle
	must(h.T, ns.Do(func() (err error) {
		nl, err = netlink.NewHandle()
		return err
	}))
	defer nl.Close()
	f(nl)
}

// inside are the addresses that a container has on the overlay.
func (h *node) inside(c *enginetest.Container) (out []netip.Prefix) {
	h.Helper()
	if c.PID() == 0 {
		return nil
	}
	h.within(c, func(nl *netlink.Handle) {
		link, err := nl.LinkByName(attach.DefaultDevice)
		if err != nil {
			return
		}
		list, err := nl.AddrList(link, netlink.FAMILY_ALL)
		must(h.T, err)
		for _, a := range list {
			if p := netip.MustParsePrefix(a.IPNet.String()); !p.Addr().IsLinkLocalUnicast() {
				out = append(out, p)
			}
		}
	})
	return out
}

func (h *node) wantInside(c *enginetest.Container, addrs string) {
	h.Helper()
	if got, want := sorted(h.inside(c)), sorted(prefixes(addrs)); !slices.Equal(got, want) {
		h.Errorf("%s has %v, want %v", c.Name, got, want)
	}
}

// wantNothing checks that nothing is kept of containers, anywhere.
func (h *node) wantNothing() {
	h.Helper()
	if v := h.View().Containers; len(v) > 0 {
		h.Errorf("containers: %+v", v)
	}
	for _, f := range names(h.T, filepath.Join(h.dir, "attachments")) {
		if strings.HasPrefix(f, "container-") || strings.HasPrefix(f, ".") {
			h.Errorf("file %s", f)
		}
	}
	left, err := attach.Leftovers(bridge)
	if err != nil || len(left) > 0 {
		h.Errorf("interfaces: %v, %v", left, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.entries) > 0 {
		h.Errorf("entries: %v", h.entries)
	}
	h.claims.mu.Lock()
	defer h.claims.mu.Unlock()
	for a, who := range h.claims.by {
		if who.key != "" {
			h.Errorf("%v is claimed by %v", a, who)
		}
	}
}

// until waits for what must become so.
func (h *node) until(what string, ok func() bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	if err := lab.Poll(ctx, 5*time.Millisecond, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		h.Fatalf("not so after %v: %s\n%+v", patience, what, h.View())
	}
}

// untilInside waits until a container has just these addresses.
func (h *node) untilInside(c *enginetest.Container, addrs string) {
	h.Helper()
	h.until(c.Name+" has "+addrs, func() bool {
		return slices.Equal(sorted(h.inside(c)), sorted(prefixes(addrs))) && (addrs == "" || h.viewOf(c).Attached)
	})
}

func (h *node) viewOf(c *enginetest.Container) ContainerView {
	for _, v := range h.View().Containers {
		if v.ID == c.ID {
			return v
		}
	}
	return ContainerView{}
}

// serve answers TCP connections in a container with a word.
func (h *node) serve(c *enginetest.Container, port int, word string) {
	h.Helper()
	ns := h.space(c)
	defer ns.Close()
	var l net.Listener
	must(h.T, ns.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	h.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(word))
			conn.Close()
		}
	}()
}

// wantWord checks what a published port says.
func (h *node) wantWord(addr, want string) {
	h.Helper()
	got := ""
	if conn, err := net.DialTimeout("tcp", addr, patience); err != nil {
		got = err.Error()
	} else {
		_ = conn.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 64)
		n, _ := conn.Read(b)
		got = string(b[:n])
		conn.Close()
	}
	if got != want {
		h.Errorf("%s says %q, want %q", addr, got, want)
	}
}

func sorted(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Prefix.Compare)
	return list
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logBuffer is a log for several goroutines.
type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
