package docker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"meshd/internal/lab"
)

const (
	// patience is how long anything may take that has no bound of its own.
	patience = 20 * time.Second
	// pollTime is how often something is looked at while it is waited for.
	pollTime = 50 * time.Millisecond
	// commandTime is how long one command may take.
	commandTime = 30 * time.Second
)

// world is the hosts of the story and what is between them.
type world struct {
	clean string // the firewall of weave02 before anything was launched
	*testing.T
	lab     *lab.Lab
	lan1    *lab.Switch
	hosts   []*host
	weave01 *host
	weave02 *host
	weave03 *host

	atEnd    []func() error // what removes containers that are not Docker's
	downOnce sync.Once
	downErr  error
}

// host is a machine with a Docker engine.
type host struct {
	*lab.Machine
	w      *world
	name   string
	addr   string // on eth0
	bin    string // directory with the script mesh
	docker *lab.Process
	wire   *lab.Capture // what comes in at eth0
}

// newWorld makes the hosts and starts their engines.
func newWorld(t *testing.T) *world {
	w := emptyWorld(t)
	w.lan1 = w.lan("lan1")
	lan2 := w.lan("lan2")
	r, err := w.lab.Router("router")
	w.must(err)
	w.must(w.lan1.Plug(r, "eth0", netip.MustParsePrefix("10.142.130.1/26")))
	w.must(lan2.Plug(r, "eth1", netip.MustParsePrefix("10.107.153.129/26")))
	w.weave01 = w.host("weave01", w.lan1, "10.142.130.16/26", "10.142.130.1")
	w.weave02 = w.host("weave02", w.lan1, "10.142.130.17/26", "10.142.130.1")
	w.weave03 = w.host("weave03", lan2, "10.107.153.153/26", "10.107.153.129")
	w.needEngine(w.startEngines())
	w.makeImages()
	return w
}

// emptyWorld is one without hosts. It ends with the test.
func emptyWorld(t *testing.T) *world {
	l, err := lab.New(fmt.Sprintf("%s%d", labPrefix, os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, lab: l}
	suite.mu.Lock()
	suite.world = w
	suite.mu.Unlock()
	t.Cleanup(w.close)
	return w
}

// needEngine ends the test where an engine cannot run: a failure where it has to.
func (w *world) needEngine(err error) {
	w.Helper()
	switch {
	case err == nil:
	case needed():
		w.Fatal(err)
	default:
		w.Skipf("no such engine can run here: %v", err)
	}
}

func (w *world) lan(name string) *lab.Switch {
	w.Helper()
	s, err := w.lab.Switch(name)
	w.must(err)
	return s
}

// host adds a machine, which has the script mesh.
func (w *world) host(name string, lan *lab.Switch, addr, gateway string) *host {
	w.Helper()
	n, err := w.lab.Namespace(name)
	w.must(err)
	p := netip.MustParsePrefix(addr)
	w.must(lan.Plug(n, "eth0", p))
	w.must(n.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.MustParseAddr(gateway), "eth0"))
	m, err := n.Machine(name)
	w.must(err)
	script, err := os.ReadFile("../../mesh")
	w.must(err)
	bin := filepath.Join(suite.dir, "bin")
	w.must(os.MkdirAll(bin, 0o755))
	w.must(os.WriteFile(filepath.Join(bin, "mesh"), script, 0o755))
	h := &host{Machine: m, w: w, name: name, addr: p.Addr().String(), bin: bin}
	w.hosts = append(w.hosts, h)
	return h
}

func (w *world) startEngines() error {
	return w.each(w.hosts, (*host).startEngine)
}

// each does something on several hosts at once.
func (w *world) each(hosts []*host, f func(h *host) error) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { errs[i] = f(h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startEngine starts dockerd and waits until it answers.
func (h *host) startEngine() (err error) {
	h.docker, err = h.daemon("docker", []string{"docker", "info"},
		"dockerd", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", h.controlGroup())
	return err
}

// controlGroup is where engines put containers.
func (h *host) controlGroup() string { return "/" + cgroupPrefix + h.w.lab.Prefix() + "-" + h.name }

// daemon starts a daemon and waits until ready is content.
func (h *host) daemon(name string, ready []string, argv ...string) (*lab.Process, error) {
	p, err := h.Machine.Start(lab.Command{
		Path: "/usr/bin/env",
		Args: append(h.environment(), argv...),
		Log:  filepath.Join(suite.dir, h.name+"."+name+".log"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = lab.Poll(ctx, pollTime, func() error {
		select {
		case <-p.Done():
			return lab.Final(fmt.Errorf("it has ended: %w", p.Err()))
		default:
		}
		_, err := h.run(ctx, ready...)
		return err
	})
	if err != nil {
		return p, fmt.Errorf("start %s on %s: %w; it says\n%s", argv[0], h.name, err, strings.Join(p.Tail(10), "\n"))
	}
	return p, nil
}

// environment begins a command line: nothing of ours gets into the machine.
func (h *host) environment() []string {
	return []string{"-i", "PATH=" + h.bin + ":" + strings.Join(programDirs(), ":"), "HOME=/root"}
}

// stopEngine ends dockerd and with it the containers.
func (h *host) stopEngine() error {
	if h.docker == nil {
		return nil
	}
	p := h.docker
	h.docker = nil
	if err := p.Stop(15 * time.Second); err != nil {
		return fmt.Errorf("stop dockerd of %s: %w", h.name, err)
	}
	return nil
}

func (w *world) close() {
	if w.Failed() {
		w.show()
	}
	if err := w.down(); err != nil {
		w.Error(err)
	}
	if left := w.lab.Leftovers(); len(left) > 0 {
		w.Errorf("left behind: %v", left)
	}
}

// show logs what may explain a failure.
func (w *world) show() {
	for _, h := range w.hosts {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		out, err := h.run(ctx, "sh", "-c", "exec 2>&1; docker ps -a; docker logs --tail 20 meshd; mesh ps; mesh status; ip addr; iptables-save")
		cancel()
		w.Logf("%s: %v\n%s", h.name, err, out)
	}
}

// down removes everything, once.
func (w *world) down() error {
	w.downOnce.Do(func() {
		var errs []error
		for _, end := range w.atEnd {
			errs = append(errs, end())
		}
		err := w.each(w.hosts, func(h *host) error {
			if h.docker == nil {
				return nil
			}
			// None takes its time to end, and none is started again.
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, err := h.run(ctx, "sh", "-c", "docker ps -aq | xargs -r docker rm -f")
			return errors.Join(err, h.stopEngine())
		})
		// The engine makes them in parallel and leaves them.
		w.downErr = errors.Join(errors.Join(errs...), err, sweepControlGroups(w.lab.Prefix()), w.lab.Close())
	})
	return w.downErr
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// step runs one step of the story; the rest needs it.
func (w *world) step(name string, f func(w *world)) {
	ok := w.Run(name, func(t *testing.T) {
		whole := w.T
		w.T = t
		defer func() { w.T = whole }()
		f(w)
	})
	if !ok {
		w.FailNow()
	}
}

// eventually waits until check is nil.
func (w *world) eventually(what string, check func() error) {
	w.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if err := lab.Poll(ctx, pollTime, check); err != nil {
		w.Fatalf("%s: not within %v: %v", what, patience, err)
	}
	w.Logf("%s after %v", what, time.Since(begin).Round(time.Millisecond))
}

// run runs a command as a user of the host would.
func (h *host) run(ctx context.Context, args ...string) (string, error) {
	return h.Machine.Run(ctx, append(append([]string{"/usr/bin/env"}, h.environment()...), args...)...)
}

// try runs a command, and returns what it printed.
func (h *host) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(h.w.Context(), commandTime)
	defer cancel()
	out, err := h.run(ctx, args...)
	if err != nil {
		err = fmt.Errorf("%s: %w", h.name, err)
	}
	return out, err
}

// do is try for what has to work; without the line's end.
func (h *host) do(args ...string) string {
	h.w.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.w.Fatal(err)
	}
	return strings.TrimRight(out, "\n")
}

// sh runs a line of shell that has to work.
func (h *host) sh(line string) string {
	h.w.Helper()
	return h.do("sh", "-c", line)
}

var containerID = regexp.MustCompile(`^[0-9a-f]{64}\n$`)

// doID is do for what prints the id of a container and nothing else.
func (h *host) doID(args ...string) string {
	h.w.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.w.Fatal(err)
	}
	if !containerID.MatchString(out) {
		h.w.Fatalf("%s: %v prints %q, want the id of the container and nothing else", h.name, args, out)
	}
	return strings.TrimSpace(out)
}

// refuse is for a command that has to fail, with one sentence that has all of the words
// and no other: it is not to be a usage text or a Go error.
func (h *host) refuse(args []string, words ...string) {
	h.w.Helper()
	out, err := h.try(args...)
	if err == nil {
		h.w.Errorf("%s: %.80q prints %q and is content, want it refused with %q", h.name, args, out, words)
		return
	}
	failed, ok := errors.AsType[*lab.RunError](err)
	if !ok {
		h.w.Errorf("%s: %.80q: %v", h.name, args, err)
		return
	}
	if out != "" {
		h.w.Errorf("%s: %.80q is refused, but prints %q", h.name, args, out)
	}
	said, _, _ := strings.Cut(failed.Stderr, "\nSee ") // where to read on
	if said == "" || strings.Contains(said, "\n") {
		h.w.Errorf("%s: %.80q says %q, want one line", h.name, args, failed.Stderr)
	}
	for _, word := range words {
		if !strings.Contains(said, word) {
			h.w.Errorf("%s: %.80q says %q, want it to have %q", h.name, args, failed.Stderr, word)
		}
	}
}
