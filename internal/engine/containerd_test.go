package engine

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"meshd/internal/engine/enginetest"
)

// processes are some with a network namespace each.
func processes(t *testing.T, n int) []*enginetest.Container {
	t.Helper()
	needRoot(t)
	e := enginetest.New(t)
	var all []*enginetest.Container
	for i := range n {
		all = append(all, e.Run(fmt.Sprint("p", i), enginetest.Options{}))
	}
	return all
}

func noDocker(t *testing.T) []string { return []string{filepath.Join(t.TempDir(), "none.sock")} }

func TestContainerdFind(t *testing.T) {
	ps := processes(t, 3)
	s := enginetest.NewContainerd(t)
	s.Run("default", "abc123", ps[0].PID(), map[string]string{"nerdctl/name": "web"})
	s.Run("k8s.io", "pod1", ps[1].PID(), map[string]string{"io.kubernetes.cri.sandbox-name": "pod", "io.kubernetes.cri.sandbox-id": "pod1"})
	s.Run("k8s.io", "app1", ps[2].PID(), map[string]string{"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.sandbox-id": "pod1"})
	s.Run("default", "ended", 4194303, nil)
	s.Run("default", "odd", 0, nil)
	s.Write("default", "odd", "init.pid", "../../1\n")
	s.Run("default", "host", os.Getpid(), nil)
	s.Write("default", "torn", "config.json", `{"process":`)
	s.Write("default", "torn", "init.pid", fmt.Sprint(ps[0].PID()))
	s.Run("moby", "dockers", ps[0].PID(), nil)
	s.Write("bad name", "x", "init.pid", "1")
	s.Run("default", "idle", ps[0].PID(), nil)
	s.Stop("default", "idle")
	s.Run("default", "removed", ps[0].PID(), nil)
	s.Remove("default", "removed")
	// A number that was given to another process.
	s.Run("default", "recycled", ps[0].PID(), nil)
	s.Write("default", "recycled", "config.json", `{"linux":{"cgroupsPath":"/default/recycled","namespaces":[{"type":"network"}]}}`)

	engines := New(Config{Sockets: noDocker(t), Containerd: []string{s.Root}})
	tests := []struct {
		what, engine, id string
		err              error
	}{
		{"abc123", "containerd/default", "abc123", nil},
		{"abc", "containerd/default", "abc123", nil},
		{"containerd:abc123", "containerd/default", "abc123", nil},
		{"containerd/default:web", "containerd/default", "abc123", nil},
		{"containerd/k8s.io:web", "containerd/k8s.io", "app1", nil},
		{"pod", "containerd/k8s.io", "pod1", nil},
		{"web", "", "", ErrAmbiguous},
		{"containerd/k8s.io:abc123", "", "", ErrUnknown},
		{"containerd@/elsewhere:abc123", "", "", ErrUnknown},
		{"dockers", "", "", ErrUnknown},
		{"torn", "", "", ErrUnknown},
		{"ended", "containerd/default", "ended", ErrStopped},
		{"odd", "containerd/default", "odd", ErrStopped},
		{"recycled", "containerd/default", "recycled", ErrStopped},
		{"idle", "containerd/default", "idle", ErrStopped},
		{"containerd:idle", "containerd/default", "idle", ErrStopped},
		{"containerd/k8s.io:idle", "", "", ErrUnknown},
		{"removed", "", "", ErrUnknown},
		{"host", "containerd/default", "host", ErrHostNetwork},
		{"containerd:" + strings.Repeat("f", 64), "", "", ErrUnknown},
	}
	for _, tt := range tests {
		c, err := engines.Find(t.Context(), tt.what)
		if !errors.Is(err, tt.err) || c.Engine != tt.engine || c.ID != tt.id || errors.Is(err, ErrGone) {
			t.Errorf("Find(%q) = %+v, %v, want %s:%s, %v", tt.what, c, err, tt.engine, tt.id, tt.err)
		}
		if err != nil {
			sentence(t, err)
		}
	}
	c, _ := engines.Find(t.Context(), "app1")
	if c.PID != ps[2].PID() || c.Name != "web" || c.At != s.Root+"/k8s.io" {
		t.Errorf("Find(app1) = %+v", c)
	}
	_, err := engines.Find(t.Context(), "web")
	for _, which := range []string{"containerd/default:web", "containerd/k8s.io:web"} {
		if !strings.Contains(err.Error(), which) {
			t.Errorf("Find(web): %v, want it to say %s", err, which)
		}
	}
}

func TestContainerdWatch(t *testing.T) {
	ps := processes(t, 2)
	s := enginetest.NewContainerd(t)
	if err := os.Remove(s.Root); err != nil {
		t.Fatal(err)
	}
	w := watch(t, New(Config{Sockets: noDocker(t), Containerd: []string{s.Root}}))
	s.Run("default", "a", ps[0].PID(), nil)
	w.want(Resync, "containerd", "")
	s.Run("k8s.io", "b", ps[1].PID(), nil)
	s.Run("moby", "c", ps[1].PID(), nil)
	w.want(Started, "containerd/k8s.io", "b")
	ps[1].Restart()
	s.Run("k8s.io", "b", ps[1].PID(), nil)
	w.want(Ended, "containerd/k8s.io", "b")
	w.want(Started, "containerd/k8s.io", "b")
	ps[1].Kill()
	w.want(Ended, "containerd/k8s.io", "b")
	s.Stop("default", "a")
	w.want(Ended, "containerd/default", "a")
	if n := len(w.events); n != 0 {
		t.Errorf("%d more events, the first %+v", n, <-w.events)
	}
}

// TestContainerdAgain: what became of a container that was found once.
func TestContainerdAgain(t *testing.T) {
	p := processes(t, 1)[0]
	s := enginetest.NewContainerd(t)
	s.Run("default", "web", p.PID(), nil)
	s.Run("k8s.io", "web", p.PID(), nil)
	engines := New(Config{Sockets: noDocker(t), Containerd: []string{s.Root}})
	web, err := engines.Find(t.Context(), "containerd/default:web")
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, want error, gone bool) {
		t.Helper()
		c, err := engines.Again(t.Context(), web)
		if !errors.Is(err, want) || errors.Is(err, ErrGone) != gone || err == nil && c != web {
			t.Errorf("%s: Again = %+v, %v, want %v", when, c, err, want)
		}
		if err != nil {
			sentence(t, err)
		}
	}
	asked := s.Asked()
	check("while it runs", nil, false)
	if n := s.Asked() - asked; n > 0 {
		t.Errorf("containerd was asked %d times about one that runs", n)
	}
	s.Stop("default", "web")
	check("stopped", ErrStopped, false)
	s.Down()
	check("stopped, with containerd down", ErrUnknown, false)
	s.Up()
	s.Run("default", "web", p.PID(), nil)
	check("started again", nil, false)
	s.Remove("default", "web")
	check("removed", ErrGone, true)
	s.Down()
	check("removed, with containerd down", ErrUnknown, false)
	s.Up()
	for name, odd := range map[string]http.HandlerFunc{
		"nothing":              func(http.ResponseWriter, *http.Request) {},
		"not found":            http.NotFound,
		"denied":               func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", "7") },
		"hostile":              func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Grpc-Status", strings.Repeat("5", 1e4)) },
		"hangs up":             func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"does not end":         func(w http.ResponseWriter, _ *http.Request) { endless(w) },
		"no status":            func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte{0, 0, 0, 0, 0}) },
		"status in the middle": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("Grpc-Status: 5")) },
	} {
		s.Odd(odd)
		check(name, ErrUnknown, false)
	}
	s.Odd(nil)
	check("after all that", ErrGone, true)
}

// TestGetRequest: as protoc's own code has it.
func TestGetRequest(t *testing.T) {
	long := strings.Repeat("a", 200)
	for id, want := range map[string]string{
		"web": "\x00\x00\x00\x00\x05\x0a\x03web",
		long:  "\x00\x00\x00\x00\xcb\x0a\xc8\x01" + long,
	} {
		if got := string(getRequest(id)); got != want {
			t.Errorf("getRequest(%.10q) = %q, want %q", id, got, want)
		}
	}
}
