package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"meshd/internal/engine/enginetest"
)

// none keeps tests away from the machine's own containerd.
var none = []string{}

// two are a Docker and a podman, for tests.
func two(t *testing.T) (docker, podman *enginetest.Engine, engines *Engines) {
	t.Helper()
	docker, podman = enginetest.New(t), enginetest.New(t)
	return docker, podman, New(Config{Sockets: []string{"docker=" + docker.Socket, "podman=" + podman.Socket}, Containerd: none})
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces take root")
	}
}

func TestFind(t *testing.T) {
	needRoot(t)
	docker, podman, engines := two(t)
	web := docker.Run("web", enginetest.Options{ID: "abc1"})
	db := docker.Run("db", enginetest.Options{ID: "abc2"})
	side := docker.Run("side", enginetest.Options{NetworkMode: "container:" + web.ID})
	cache := podman.Run("cache", enginetest.Options{ID: "77777777"})
	// Its name is the begin of another's id.
	named := podman.Run("abc2", enginetest.Options{})
	number := podman.Run("4242424", enginetest.Options{})

	tests := []struct {
		what, engine string
		want         *enginetest.Container
	}{
		{"web", "docker", web},
		{"/web", "docker", web},
		{web.ID, "docker", web},
		{"abc1", "docker", web},
		{web.ID[:12], "docker", web},
		{"docker:web", "docker", web},
		{"docker:" + web.ID, "docker", web},
		{"cache", "podman", cache},
		{"77777777", "podman", cache},
		{"podman:7777", "podman", cache},
		{"abc2", "podman", named},
		{"docker:abc2", "docker", db},
		{db.ID, "docker", db},
		{"4242424", "podman", number},
	}
	for _, tt := range tests {
		c, err := engines.Find(t.Context(), tt.what)
		if err != nil {
			t.Errorf("Find(%q): %v", tt.what, err)
			continue
		}
		if c.Engine != tt.engine || c.ID != tt.want.ID || c.Name != tt.want.Name || c.PID != tt.want.PID() || !c.Running || c.HostNetwork || c.NetNS != "" {
			t.Errorf("Find(%q) = %+v, want %s of %s with process %d", tt.what, c, tt.want.Name, tt.engine, tt.want.PID())
		}
	}
	if c, err := engines.Find(t.Context(), "side"); err != nil || c.ID != side.ID || c.At != docker.Socket {
		t.Errorf("Find(side) = %+v, %v, want %s at %s", c, err, side.ID, docker.Socket)
	}
}

func TestFindFaults(t *testing.T) {
	docker, podman, engines := two(t)
	docker.Run("both", enginetest.Options{NetworkMode: "host"})
	podman.Run("both", enginetest.Options{NetworkMode: "host"})
	docker.Run("one", enginetest.Options{ID: "fff1", NetworkMode: "host"})
	docker.Create("two", enginetest.Options{ID: "fff2"})
	podman.Create("three", enginetest.Options{ID: "fff3"})
	id := strings.Repeat("f", 64)

	tests := []struct {
		what string
		kind error
		says []string
	}{
		{"nope", ErrUnknown, []string{`"nope"`, "docker, podman", "docker ps"}},
		{"podman:two", ErrUnknown, []string{"podman"}},
		{"lxc:web", ErrUnknown, []string{`"lxc"`, "docker", "podman", "pid", "netns"}},
		{id, ErrUnknown, nil},
		{"docker:" + id, ErrUnknown, nil},
		{"both", ErrAmbiguous, []string{"docker:both or podman:both"}},
		{"fff", ErrAmbiguous, []string{"docker", "more of it"}},
		{"docker:fff", ErrAmbiguous, nil},
		{"podman:fff", ErrStopped, []string{"container three (podman)", "start it first"}},
		{"two", ErrStopped, []string{"mesh start CIDR two"}},
		{"one", ErrHostNetwork, []string{"container one (docker)", "mesh expose"}},
		{"pid:1@1.deadbeef", ErrGone, nil},
		{"4194303", ErrUnknown, []string{"neither a process 4194303 nor"}},
		{"pid:4194303", ErrUnknown, nil},
		{fmt.Sprint(os.Getpid()), ErrHostNetwork, []string{"process "}},
		{"/proc/self/ns/net", ErrHostNetwork, nil},
		{"/proc/self/ns/mnt", ErrBadName, []string{"not a network namespace"}},
		{"//", ErrBadName, nil},
		{"/dev/null", ErrBadName, nil},
		{"/etc/hostname", ErrBadName, nil},
		{"netns:meshd-not-there", ErrUnknown, []string{"ip netns"}},
		{"/run/not/there", ErrUnknown, nil},
	}
	for _, tt := range tests {
		c, err := engines.Find(t.Context(), tt.what)
		if !errors.Is(err, tt.kind) {
			t.Errorf("Find(%q) = %+v, %v, want %v", tt.what, c, err, tt.kind)
			continue
		}
		if known := tt.kind == ErrStopped || tt.kind == ErrHostNetwork; (c.PID != 0 || c.ID != "" || c.NetNS != "") != known {
			t.Errorf("Find(%q) = %+v with %v", tt.what, c, err)
		}
		if errors.Is(err, ErrGone) != (tt.kind == ErrGone) {
			t.Errorf("Find(%q): %v, is it ErrGone?", tt.what, err)
		}
		sentence(t, err)
		for _, s := range tt.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("Find(%q): %v, want it to say %q", tt.what, err, s)
			}
		}
	}
}

// TestFindHostile: what is no name is not sent to the engine.
func TestFindHostile(t *testing.T) {
	docker, _, engines := two(t)
	for _, what := range hostile {
		if what == "pid:1@" {
			continue
		}
		if c, err := engines.Find(t.Context(), what); !errors.Is(err, ErrBadName) {
			t.Errorf("Find(%.40q) = %+v, %v, want ErrBadName", what, c, err)
		}
	}
	if n := docker.Requests(); n != 0 {
		t.Errorf("%d requests for hostile names, want none", n)
	}
}

func TestFindWithEnginesDown(t *testing.T) {
	docker, podman, engines := two(t)
	docker.Create("web", enginetest.Options{})
	podman.Down()
	if _, err := engines.Find(t.Context(), "web"); !errors.Is(err, ErrStopped) {
		t.Errorf("Find with podman down: %v, want that it does not run", err)
	}
	_, err := engines.Find(t.Context(), "nope")
	if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), podman.Socket) {
		t.Errorf("Find of an unknown one with podman down: %v, want ErrUnknown and what does not answer", err)
	}
	_, err = engines.Find(t.Context(), "podman:"+strings.Repeat("f", 64))
	if !errors.Is(err, ErrNoEngine) || errors.Is(err, ErrUnknown) {
		t.Errorf("Find with its engine down: %v, want ErrNoEngine", err)
	}
	docker.Down()
	_, err = engines.Find(t.Context(), "web")
	if !errors.Is(err, ErrNoEngine) || !strings.Contains(err.Error(), docker.Socket) || !strings.Contains(err.Error(), podman.Socket) {
		t.Errorf("Find with all down: %v, want ErrNoEngine and both sockets", err)
	}
	sentence(t, err)
}

// TestFindWithoutEngines: nothing is where engines usually are.
func TestFindWithoutEngines(t *testing.T) {
	sockets, containerd := usualSockets, usualContainerd
	t.Cleanup(func() { usualSockets, usualContainerd = sockets, containerd })
	dir := t.TempDir()
	usualSockets, usualContainerd = []string{dir + "/docker.sock"}, []string{dir + "/task"}
	t.Setenv("DOCKER_HOST", "")
	engines := New(Config{})
	_, err := engines.Find(t.Context(), "web")
	if !errors.Is(err, ErrNoEngine) || !strings.Contains(err.Error(), dir+"/docker.sock, "+dir) || !strings.Contains(err.Error(), "containers.sockets") {
		t.Errorf("Find: %v, want ErrNoEngine, the places and the remedy", err)
	}
	// Docker has its containers in containerd: that this one has none says little.
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir+"/task", 0o755))
	if _, err := engines.Find(t.Context(), "web"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), dir+"/docker.sock") {
		t.Errorf("Find with containerd alone: %v, want ErrUnknown, and where Docker would be", err)
	}
	// An engine that is installed later, and one that DOCKER_HOST tells of.
	e := enginetest.New(t)
	e.Create("web", enginetest.Options{})
	if err := os.Symlink(e.Socket, dir+"/docker.sock"); err != nil {
		t.Fatal(err)
	}
	if _, err := engines.Find(t.Context(), "web"); !errors.Is(err, ErrStopped) {
		t.Errorf("Find after the engine came: %v, want ErrStopped", err)
	}
	t.Setenv("DOCKER_HOST", "unix://"+e.Socket)
	if _, err := New(Config{}).Find(t.Context(), "web"); !errors.Is(err, ErrStopped) {
		t.Errorf("Find by DOCKER_HOST, the same socket twice: %v, want ErrStopped", err)
	}
}

func TestFindEnded(t *testing.T) {
	needRoot(t)
	e := enginetest.New(t)
	c := e.Run("web", enginetest.Options{})
	engines := New(Config{Sockets: []string{e.Socket}, Containerd: none})
	c.Kill()
	if _, err := engines.Find(t.Context(), "web"); !errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), "has just ended") {
		t.Errorf("Find of one whose process has ended: %v, want ErrStopped", err)
	}
	c.Stop()
	c.Start()
	if got, err := engines.Find(t.Context(), "web"); err != nil || got.PID != c.PID() {
		t.Errorf("Find after it was started = %+v, %v, want process %d", got, err, c.PID())
	}
	c.Remove()
	if _, err := engines.Find(t.Context(), "docker:"+c.ID); !errors.Is(err, ErrUnknown) || errors.Is(err, ErrGone) {
		t.Errorf("Find of one that was removed: %v, want ErrUnknown", err)
	}
}

// TestAgain: only a container's own engine says that it has gone, whatever engines are
// called.
func TestAgain(t *testing.T) {
	one, two := enginetest.New(t), enginetest.New(t)
	web := one.Run("web", enginetest.Options{NetworkMode: "host"})
	asking := func(sockets ...string) *Engines { return New(Config{Sockets: sockets, Containerd: none}) }
	found, _ := asking(one.Socket).Find(t.Context(), "web")
	if found.Engine != "docker" || found.At != one.Socket || found.ID != web.ID {
		t.Fatalf("Find = %+v", found)
	}
	check := func(e *Engines, engine string, want error, gone bool) {
		t.Helper()
		c, err := e.Again(t.Context(), found)
		if !errors.Is(err, want) || errors.Is(err, ErrGone) != gone || engine != "" && (c.Engine != engine || c.ID != web.ID) {
			t.Errorf("Again = %+v, %v, want %v, of %q", c, err, want, engine)
		}
		sentence(t, err)
	}
	check(asking(one.Socket), "docker", ErrHostNetwork, false)
	check(asking(two.Socket, one.Socket), "docker@"+one.Socket, ErrHostNetwork, false)
	check(asking("docker="+two.Socket, "prod="+one.Socket), "prod", ErrHostNetwork, false)
	check(asking(two.Socket), "", ErrNoEngine, false) // it is "docker" too
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(one.Socket, link); err != nil {
		t.Fatal(err)
	}
	check(asking(link), "docker", ErrHostNetwork, false)
	web.Stop()
	check(asking(one.Socket), "docker", ErrStopped, false)
	one.Down()
	check(asking(one.Socket, two.Socket), "", ErrNoEngine, false)
	one.Up()
	web.Remove()
	one.Run(web.ID, enginetest.Options{NetworkMode: "host"}) // its name is the other's id
	check(asking(two.Socket, one.Socket), "", ErrGone, true)
}

func TestFindProcess(t *testing.T) {
	needRoot(t)
	e := enginetest.New(t)
	c := e.Run("x", enginetest.Options{})
	pid := c.PID()
	engines := New(Config{Sockets: []string{e.Socket}, Containerd: none})
	var id string
	for _, what := range []string{fmt.Sprint(pid), fmt.Sprintf("pid:%d", pid), c.NetNS()} {
		got, err := engines.Find(t.Context(), what)
		if err != nil || got.Engine != "pid" || got.PID != pid || got.Name != fmt.Sprint(pid) || got.NetNS != "" || got.HostNetwork {
			t.Errorf("Find(%q) = %+v, %v, want process %d", what, got, err, pid)
		}
		id = got.ID
	}
	if got, err := engines.Find(t.Context(), "pid:"+id); err != nil || got.ID != id {
		t.Errorf("Find(pid:%s) = %+v, %v, want the same again", id, got, err)
	}
	c.Stop()
	if _, err := engines.Find(t.Context(), "pid:"+id); !errors.Is(err, ErrGone) {
		t.Errorf("Find(pid:%s) after it has ended: %v, want ErrGone", id, err)
	}
}

func TestFindNamespace(t *testing.T) {
	needRoot(t)
	name := fmt.Sprintf("meshd-engine-%d", os.Getpid())
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		t.Skipf("no network namespace can be made: %v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	engines := New(Config{Sockets: []string{filepath.Join(t.TempDir(), "none.sock")}, Containerd: none})
	for _, what := range []string{"netns:" + name, "/run/netns/" + name, "/var/run/netns/" + name, "netns:/run/netns/" + name} {
		got, err := engines.Find(t.Context(), what)
		if err != nil || got.NetNS != "/run/netns/"+name || got.Name != name || got.ID != "" || got.Engine != "" || !got.Running || got.HostNetwork {
			t.Errorf("Find(%q) = %+v, %v, want the namespace", what, got, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/run/netns/"+name, link); err != nil {
		t.Fatal(err)
	}
	if got, err := engines.Find(t.Context(), link); err != nil || got.NetNS != link {
		t.Errorf("Find(%q) = %+v, %v, want the link", link, got, err)
	}
}

// TestFindTwins: one engine behind two sockets has each container once.
func TestFindTwins(t *testing.T) {
	e := enginetest.New(t)
	c := e.Run("web", enginetest.Options{NetworkMode: "host"})
	again := filepath.Join(t.TempDir(), "s")
	engines := New(Config{Sockets: []string{e.Socket, again}, Containerd: none})
	if err := os.Symlink(e.Socket, again); err != nil {
		t.Fatal(err)
	}
	if got, err := engines.Find(t.Context(), "web"); !errors.Is(err, ErrHostNetwork) || got.ID != c.ID {
		t.Errorf("Find = %+v, %v, want one container", got, err)
	}
}

func TestFindCancelled(t *testing.T) {
	e := enginetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	e.Odd(func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	})
	_, err := New(Config{Sockets: []string{e.Socket}, Containerd: none}).Find(ctx, "web")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Find: %v, want context.Canceled", err)
	}
}
