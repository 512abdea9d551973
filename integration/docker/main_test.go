package docker

import (
	"archive/tar"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"meshd/internal/lab"
)

const (
	labPrefix = "meshd-docker-"
	patience  = 20 * time.Second
	pollTime  = 50 * time.Millisecond
	meshImage = "meshd"
	boxImage  = "box"
)

// applets are what the containers' image has of busybox.
var applets = []string{"sh", "ls", "httpd", "wget", "ping", "ip", "cat", "sleep", "echo"}

// host is a machine with an engine.
type host struct {
	*lab.Machine
	t      *testing.T
	name   string
	engine *lab.Process
}

// cluster is the hosts of a story.
type cluster struct {
	*testing.T
	lab   *lab.Lab
	files string // outside of the machines: images
	root  string // of the repository
}

// newCluster makes a lab, or skips the test where no engine can run.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("engines and network namespaces need root")
	}
	for _, program := range []string{"dockerd", "docker", "busybox", "unshare", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no engine can run here: %v", err)
		}
	}
	if _, err := lab.Sweep(labPrefix); err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(fmt.Sprintf("%s%d", labPrefix, os.Getpid()))
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
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{T: t, lab: l, files: t.TempDir(), root: root}
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// host adds a machine on a switch, with a route to everything else, and starts its
// engine.
func (c *cluster) host(name string, s *lab.Switch, addr, gateway string) *host {
	c.Helper()
	n, err := c.lab.Namespace(name)
	c.must(err)
	c.must(s.Plug(n, "eth0", netip.MustParsePrefix(addr)))
	c.must(n.AddRoute(netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr(gateway), "eth0"))
	m, err := n.Machine(name)
	c.must(err)
	h := &host{Machine: m, t: c.T, name: name}
	h.startEngine()
	c.Cleanup(h.endEngine)
	return h
}

// startEngine starts dockerd and waits until it answers.
func (h *host) startEngine() {
	h.t.Helper()
	p, err := h.Start(lab.Command{
		Path: "/usr/bin/env",
		Args: []string{"dockerd", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", "/" + h.group()},
		Log:  filepath.Join(os.TempDir(), labPrefix+h.name+".log"),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.engine = p
	h.eventually("the engine answers", func() error {
		select {
		case <-p.Done():
			h.t.Fatalf("dockerd has ended: %s", strings.Join(p.Tail(5), "\n"))
		default:
		}
		_, err := h.try("docker", "info")
		return err
	})
}

func (h *host) group() string { return fmt.Sprintf("%s%d-%s", labPrefix, os.Getpid(), h.name) }

// endEngine removes the host's containers and ends its engine, and removes what that
// leaves outside of the machine.
func (h *host) endEngine() {
	if ids, err := h.try("docker", "ps", "-aq"); err == nil && ids != "" {
		_, _ = h.try(append([]string{"docker", "rm", "-f"}, strings.Fields(ids)...)...)
	}
	if err := h.engine.Stop(patience); err != nil {
		h.t.Logf("dockerd of %s: %v", h.name, err)
	}
	os.Remove(filepath.Join(os.TempDir(), labPrefix+h.name+".log"))
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + h.group())
	for _, g := range append(groups, "/sys/fs/cgroup/"+h.group()) {
		_ = syscall.Rmdir(g) // its containers' have gone with them
	}
}

// try runs a command on the host as its user would, and returns what it prints.
func (h *host) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	if h.t.Context().Err() != nil { // the test is being cleaned up
		ctx, cancel = context.WithTimeout(context.Background(), patience)
	}
	defer cancel()
	root, _ := filepath.Abs("../..")
	out, err := h.RunWith(ctx, []string{"PATH=" + root + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, args...)
	return strings.TrimSpace(out), err
}

// do is try for what has to work.
func (h *host) do(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("on %s: %v", h.name, err)
	}
	return out
}

// refuse is for what must not work, and say these words in one sentence.
func (h *host) refuse(words string, args ...string) {
	h.t.Helper()
	out, err := h.try(args...)
	run, ok := err.(*lab.RunError)
	switch {
	case err == nil:
		h.t.Errorf("on %s: %s works and prints %q", h.name, strings.Join(args, " "), out)
	case !ok || !strings.Contains(run.Stderr, words):
		h.t.Errorf("on %s: %v, want it to say %q", h.name, err, words)
	}
}

func (h *host) eventually(what string, check func() error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if err := lab.Poll(ctx, pollTime, check); err != nil {
		h.t.Fatalf("on %s: %s: not within %v: %v", h.name, what, patience, err)
	}
}

// images builds both images on one host and loads them on the others.
func (c *cluster) images(hosts ...*host) {
	c.Helper()
	box := filepath.Join(c.files, "box.tar")
	c.must(writeBox(box))
	context := filepath.Join(c.files, "image")
	c.must(os.MkdirAll(filepath.Join(context, "root", "var"), 0o755))
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(context, "root", "meshd"), "meshd/cmd/meshd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		c.Fatalf("build meshd: %v\n%s", err, out)
	}
	c.must(os.Symlink("../run", filepath.Join(context, "root", "var", "run")))
	saved := filepath.Join(c.files, "meshd.tar")
	for i, h := range hosts {
		h.do("docker", "import", box, boxImage)
		if i == 0 {
			h.do("docker", "build", "-q", "-t", meshImage, "-f", filepath.Join(c.root, "packaging", "Dockerfile"), context)
			h.do("docker", "save", "-o", saved, meshImage)
			continue
		}
		h.do("docker", "load", "-i", saved)
	}
}

// writeBox writes the file system of the containers' image: a static busybox.
func writeBox(path string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	for _, a := range applets {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + a, Linkname: "busybox", Typeflag: tar.TypeSymlink}); err != nil {
			return err
		}
	}
	return w.Close()
}
