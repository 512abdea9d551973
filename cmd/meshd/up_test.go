package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"meshd/internal/netns"
)

// upProcess is a real `meshd up` in a network namespace of its own.
type upProcess struct {
	cmd    *exec.Cmd
	socket string
	log    *bytes.Buffer
	ns     *netns.Namespace
	done   chan error // one send: how it ended
}

// startUp starts a daemon and waits until it answers.
func startUp(t *testing.T, flags ...string) *upProcess {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a daemon needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("a daemon needs /dev/net/tun: ", err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	p := &upProcess{socket: filepath.Join(dir, "meshd.sock"), log: new(bytes.Buffer), done: make(chan error, 1)}
	args := append([]string{"up", "--socket", p.socket, "--state-dir", dir, "--name", "02:00:00:00:00:01", "--nickname", "weave01"}, flags...)
	p.cmd = exec.Command(exe, args...)
	p.cmd.Env = append(os.Environ(), beMeshd+"=1")
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is of the thread that starts the process.
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		started <- p.cmd.Start()
		p.done <- p.cmd.Wait()
	}()
	if err := <-started; err != nil {
		t.Skip("a daemon needs a network namespace: ", err)
	}
	t.Cleanup(p.kill)
	p.awaitAnswer(t)
	if p.ns, err = netns.Open(fmt.Sprintf("/proc/%d/ns/net", p.cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.ns.Close() })
	return p
}

func (p *upProcess) kill() {
	p.cmd.Process.Kill()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
}

func (p *upProcess) awaitAnswer(t *testing.T) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if _, err := newClient(p.socket).status(t.Context()); err == nil {
			return
		}
		select {
		case err := <-p.done:
			p.done <- err
			t.Fatalf("meshd up ended: %v\n%s", err, p.log)
		case <-deadline:
			t.Fatalf("meshd up does not answer\n%s", p.log)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// netlink is a handle for the daemon's namespace.
func (p *upProcess) netlink(t *testing.T) *netlink.Handle {
	t.Helper()
	var h *netlink.Handle
	err := p.ns.Do(func() (err error) {
		h, err = netlink.NewHandle()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// hasLink reports whether a device is in the daemon's namespace.
func (p *upProcess) hasLink(t *testing.T, name string) bool {
	t.Helper()
	h := p.netlink(t)
	_, err := h.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); err != nil && !none {
		t.Fatal(err)
	}
	return err == nil
}

func TestUpAndDown(t *testing.T) {
	p := startUp(t, "--peers", "192.0.2.1")
	t.Setenv(socketEnv, p.socket)

	stdout, stderr, code := runCLI(t.Context(), "status")
	for _, want := range []string{"UNAUTHENTICATED: neither a password", "Name: 02:00:00:00:00:01(weave01)", "Bridge: weave (joined)", "Targets: 1"} {
		if code != exitOK || !strings.Contains(stdout, want) {
			t.Errorf("status = %d %s\n%s\nwant %q", code, stderr, stdout, want)
		}
	}
	if !p.hasLink(t, "weave") || !p.hasLink(t, "meshd0") {
		t.Error("bridge or TAP is missing")
	}

	if stdout, stderr, code = runCLI(t.Context(), "connect", "192.0.2.2"); code != exitOK {
		t.Errorf("connect = %d %s%s", code, stdout, stderr)
	}
	if stdout, _, _ = runCLI(t.Context(), "status", "targets"); stdout != "192.0.2.1\n192.0.2.2\n" {
		t.Errorf("targets after connect = %q", stdout)
	}
	if stdout, stderr, code = runCLI(t.Context(), "forget", "192.0.2.1"); code != exitOK {
		t.Errorf("forget = %d %s%s", code, stdout, stderr)
	}
	if stdout, _, _ = runCLI(t.Context(), "status", "targets"); stdout != "192.0.2.2\n" {
		t.Errorf("targets after forget = %q", stdout)
	}

	// A container's end keeps the daemon from removing the bridge when it ends.
	p.addPort(t, "weave")
	stdout, stderr, code = runCLI(t.Context(), "down")
	if want := fmt.Sprintf("meshd (pid %d) has ended\nthe bridge weave is removed", p.cmd.Process.Pid); code != exitOK || !strings.HasPrefix(stdout, want) {
		t.Errorf("down = %d %q %s, want %q", code, stdout, stderr, want)
	}
	if err := <-p.done; err != nil {
		t.Errorf("meshd up ended with %v\n%s", err, p.log)
	}
	p.done <- nil
	if p.hasLink(t, "weave") || p.hasLink(t, "meshd0") {
		t.Error("bridge or TAP is left")
	}
	if _, err := os.Stat(p.socket); err == nil {
		t.Error("the socket is left")
	}
	if _, stderr, code = runCLI(t.Context(), "down"); code != exitFailure || !strings.Contains(stderr, "no meshd is running here") {
		t.Errorf("down without a daemon = %d %q", code, stderr)
	}
}

func TestDownInTwoSteps(t *testing.T) {
	p := startUp(t)
	t.Setenv(socketEnv, p.socket)
	p.addPort(t, "weave")
	stdout, stderr, code := runCLI(t.Context(), "down", "--keep-bridge")
	if want := fmt.Sprintf("meshd (pid %d) has ended\n", p.cmd.Process.Pid); code != exitOK || stdout != want {
		t.Errorf("down --keep-bridge = %d %q %s, want %q", code, stdout, stderr, want)
	}
	if !p.hasLink(t, "weave") {
		t.Error("down --keep-bridge has removed the bridge")
	}
	if _, _, code = runCLI(t.Context(), "down", "--force", "--keep-bridge"); code != exitUsage {
		t.Errorf("down --force --keep-bridge = %d, want %d", code, exitUsage)
	}
	stdout, stderr, code = p.runCLI(t, "down", "--force")
	if code != exitOK || stdout != "the bridge weave is removed\n" || p.hasLink(t, "weave") {
		t.Errorf("down --force = %d %q %s", code, stdout, stderr)
	}
	stdout, stderr, code = p.runCLI(t, "down", "--force")
	if code != exitOK || !strings.HasPrefix(stdout, "there is nothing to take back: no bridge weave") {
		t.Errorf("down --force where nothing is = %d %q %s", code, stdout, stderr)
	}
}

// TestDownOfIdle: the daemon itself removes a bridge that nobody uses.
func TestDownOfIdle(t *testing.T) {
	p := startUp(t)
	t.Setenv(socketEnv, p.socket)
	stdout, stderr, code := runCLI(t.Context(), "down")
	if code != exitOK || !strings.Contains(stdout, "\nthe bridge weave is removed: ") || p.hasLink(t, "weave") {
		t.Errorf("down = %d %q %s", code, stdout, stderr)
	}
}

// TestDownWithoutBridge: somebody removed it, and rules are left.
func TestDownWithoutBridge(t *testing.T) {
	p := startUp(t)
	t.Setenv(socketEnv, p.socket)
	for _, args := range [][]string{{"expose", "192.168.99.1/24"}, {"down", "--keep-bridge"}} {
		if stdout, stderr, code := runCLI(t.Context(), args...); code != exitOK {
			t.Fatalf("%v = %d %q %s", args, code, stdout, stderr)
		}
	}
	h := p.netlink(t)
	bridge, err := h.LinkByName("weave")
	if err == nil {
		err = h.LinkDel(bridge)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"there is no bridge weave; what a daemon had left is removed: nftables table inet meshd", "there is nothing to take back",
	} {
		stdout, stderr, code := p.runCLI(t, "down", "--force")
		if code != exitOK || !strings.HasPrefix(stdout, want) || p.hasTable(t, nftables.TableFamilyINet) {
			t.Errorf("down --force = %d %q %s, want %q", code, stdout, stderr, want)
		}
	}
}

func TestDownLeavesForeignBridge(t *testing.T) {
	p := startUp(t)
	t.Setenv(socketEnv, p.socket)
	p.disownBridge(t)
	stdout, stderr, code := runCLI(t.Context(), "down")
	if code != exitOK || !strings.Contains(stdout, "the bridge weave was not made by meshd and stays\n") {
		t.Errorf("down = %d %q %s", code, stdout, stderr)
	}
	if !p.hasLink(t, "weave") {
		t.Error("a foreign bridge was removed")
	}
}

// TestDownForceBesideForeignBridge: what is ours is removed, and named.
func TestDownForceBesideForeignBridge(t *testing.T) {
	p := startUp(t)
	t.Setenv(socketEnv, p.socket)
	p.disownBridge(t)
	for _, args := range [][]string{{"expose", "192.168.99.1/24"}, {"down", "--keep-bridge"}} {
		if stdout, stderr, code := runCLI(t.Context(), args...); code != exitOK {
			t.Fatalf("%v = %d %q %s", args, code, stdout, stderr)
		}
	}
	for _, want := range []string{
		"the bridge weave was not made by meshd and stays; what a daemon had left is removed: ", "the bridge weave was not made by meshd and stays\n",
	} {
		stdout, stderr, code := p.runCLI(t, "down", "--force")
		if code != exitOK || !strings.HasPrefix(stdout, want) || p.hasTable(t, nftables.TableFamilyINet) || !p.hasLink(t, "weave") {
			t.Errorf("down --force = %d %q %s, want %q", code, stdout, stderr, want)
		}
	}
}

// disownBridge makes the bridge one that an operator made.
func (p *upProcess) disownBridge(t *testing.T) {
	t.Helper()
	h := p.netlink(t)
	bridge, err := h.LinkByName("weave")
	if err != nil {
		t.Fatal(err)
	}
	p.addPort(t, "weave")
	if err := h.LinkSetAlias(bridge, "mine"); err != nil {
		t.Fatal(err)
	}
}

func TestUpReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "meshd.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("peers: [192.0.2.1]\n")
	p := startUp(t, "--config", file)
	t.Setenv(socketEnv, p.socket)

	if stdout, _, _ := runCLI(t.Context(), "reload"); stdout != "nothing has changed\n" {
		t.Errorf("reload of the same = %q", stdout)
	}
	write("peers: [192.0.2.2]\ntap: {name: other0}\n")
	stdout, stderr, code := runCLI(t.Context(), "reload")
	if code != exitOK || !strings.Contains(stdout, "applied: peers") || !strings.Contains(stdout, "after a restart: tap.name") {
		t.Errorf("reload = %d %q %s", code, stdout, stderr)
	}
	if stdout, _, _ = runCLI(t.Context(), "status", "targets"); stdout != "192.0.2.2\n" {
		t.Errorf("targets = %q", stdout)
	}
	write("peeers: []\n")
	if _, stderr, code = runCLI(t.Context(), "reload"); code != exitFailure || !strings.Contains(stderr, "did you mean `peers`?") {
		t.Errorf("reload of a bad file = %d %q", code, stderr)
	}
	if stdout, _, _ = runCLI(t.Context(), "status", "targets"); stdout != "192.0.2.2\n" {
		t.Errorf("targets after a bad reload = %q", stdout)
	}
	// Not a terminal: the log is JSON.
	line, _, _ := strings.Cut(p.logged(t), "\n")
	if !json.Valid([]byte(line)) {
		t.Errorf("log = %q", line)
	}
}

// TestUpRouteBetween: the setting is in force at the start and at a reload.
func TestUpRouteBetween(t *testing.T) {
	file := filepath.Join(t.TempDir(), "meshd.yaml")
	write := func(between bool) {
		t.Helper()
		if err := os.WriteFile(file, fmt.Appendf(nil, "expose: {route_between: %v}\n", between), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(true)
	p := startUp(t, "--config", file)
	t.Setenv(socketEnv, p.socket)
	if stdout, stderr, code := runCLI(t.Context(), "expose", "192.168.99.1/24"); code != exitOK {
		t.Fatalf("expose = %d %q %s", code, stdout, stderr)
	}
	if !p.hasTable(t, nftables.TableFamilyINet) || p.hasTable(t, nftables.TableFamilyNetdev) {
		t.Error("the host does not route between subnets")
	}
	for _, between := range []bool{false, true} {
		write(between)
		stdout, stderr, code := runCLI(t.Context(), "reload")
		if want := fmt.Sprintf("applied: expose.route_between: %v -> %v\n", !between, between); code != exitOK || stdout != want {
			t.Errorf("reload = %d %q %s, want %q", code, stdout, stderr, want)
		}
		if got := !p.hasTable(t, nftables.TableFamilyNetdev); got != between {
			t.Errorf("the host routes between subnets: %v, want %v", got, between)
		}
	}
}

// hasTable reports whether the kernel has the rules of a family that meshd makes.
func (p *upProcess) hasTable(t *testing.T, family nftables.TableFamily) bool {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(p.ns.FD()))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == "meshd" })
}

// logged ends the daemon and returns its log: while it runs, the log is not ours
// to read.
func (p *upProcess) logged(t *testing.T) string {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := <-p.done; err != nil {
		t.Errorf("meshd up ended with %v\n%s", err, p.log)
	}
	p.done <- nil
	return p.log.String()
}

// addPort puts one end of a veth pair into a bridge.
func (p *upProcess) addPort(t *testing.T, bridge string) {
	t.Helper()
	h := p.netlink(t)
	br, err := h.LinkByName(bridge)
	if err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "vethwepl1"}, PeerName: "vethwepg1"}
	if err := h.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetMaster(veth, br); err != nil {
		t.Fatal(err)
	}
}

func TestUpWithWeaveAPI(t *testing.T) {
	p := startUp(t, "--api-http", "127.0.0.1:6784")
	h := p.netlink(t)
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{
		"GET /status HTTP/1.0\r\nHost: 127.0.0.1:6784\r\n\r\n":    "Name: 02:00:00:00:00:01(weave01)",
		"GET /metrics HTTP/1.0\r\nHost: localhost:6784\r\n\r\n":   "\nmeshd_port_joined{bridge=\"weave\",device=\"meshd0\"} 1\n",
		"GET /status HTTP/1.0\r\nHost: rebound.example\r\n\r\n":   "403 Forbidden",
		"POST /v1/stop HTTP/1.0\r\nHost: 127.0.0.1:6784\r\n\r\n":  "404 Not Found",
		"GET /v1/report HTTP/1.0\r\nHost: 127.0.0.1:6784\r\n\r\n": "404 Not Found",
	} {
		if got := p.tcpRequest(t, request); !strings.Contains(got, want) {
			t.Errorf("%q answered\n%s\nwant %q", request, got, want)
		}
	}
}

// runCLI runs a command in the daemon's namespace.
func (p *upProcess) runCLI(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	err := p.ns.Do(func() error {
		stdout, stderr, code = runCLI(t.Context(), args...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return stdout, stderr, code
}

// tcpRequest sends a request to the daemon's TCP API, from its namespace.
func (p *upProcess) tcpRequest(t *testing.T, request string) string {
	t.Helper()
	var answer []byte
	err := p.ns.Do(func() error {
		conn, err := net.Dial("tcp4", "127.0.0.1:6784")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err = io.WriteString(conn, request); err == nil {
			answer, err = io.ReadAll(conn)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}
