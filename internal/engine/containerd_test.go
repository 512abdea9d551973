package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"meshd/internal/engine/enginetest"
)

// state is containerd's runtime state directory, made by hand.
type state struct {
	t    *testing.T
	root string
}

func newState(t *testing.T) state {
	t.Helper()
	root := filepath.Join(t.TempDir(), "task")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return state{t, root}
}

func (s state) write(namespace, id, file, text string) {
	s.t.Helper()
	dir := filepath.Join(s.root, namespace, id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// add adds a container with a process.
func (s state) add(namespace, id string, pid int, annotations map[string]string) {
	s.t.Helper()
	config, err := json.Marshal(map[string]any{
		"process":     map[string]any{"env": []string{"PATH=/bin", "WEAVE_CIDR=10.32.0.9/24"}},
		"annotations": annotations,
		"linux":       map[string]any{"namespaces": []any{map[string]string{"type": "pid"}, map[string]string{"type": "network"}}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(namespace, id, "config.json", string(config))
	s.write(namespace, id, "init.pid", fmt.Sprint(pid))
}

func (s state) remove(namespace, id string) {
	s.t.Helper()
	if err := os.RemoveAll(filepath.Join(s.root, namespace, id)); err != nil {
		s.t.Fatal(err)
	}
}

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
	s := newState(t)
	s.add("default", "abc123", ps[0].PID(), map[string]string{"nerdctl/name": "web"})
	s.add("k8s.io", "pod1", ps[1].PID(), map[string]string{"io.kubernetes.cri.sandbox-name": "pod", "io.kubernetes.cri.sandbox-id": "pod1"})
	s.add("k8s.io", "app1", ps[2].PID(), map[string]string{"io.kubernetes.cri.container-name": "web", "io.kubernetes.cri.sandbox-id": "pod1"})
	s.add("default", "ended", 4194303, nil)
	s.add("default", "odd", 0, nil)
	s.write("default", "odd", "init.pid", "../../1\n")
	s.add("default", "host", os.Getpid(), nil)
	s.write("default", "torn", "config.json", `{"process":`)
	s.write("default", "torn", "init.pid", fmt.Sprint(ps[0].PID()))
	s.add("moby", "dockers", ps[0].PID(), nil)
	s.write("bad name", "x", "init.pid", "1")
	// A number that was given to another process.
	s.add("default", "recycled", ps[0].PID(), nil)
	s.write("default", "recycled", "config.json", `{"linux":{"cgroupsPath":"/default/recycled","namespaces":[{"type":"network"}]}}`)

	engines := New(Config{Sockets: noDocker(t), Containerd: []string{s.root}})
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
	if c.PID != ps[2].PID() || c.Name != "web" || c.SharesWith != "pod1" || c.Env["WEAVE_CIDR"] != "10.32.0.9/24" || len(c.Env) != 1 {
		t.Errorf("Find(app1) = %+v", c)
	}
	if c, _ := engines.Find(t.Context(), "pod1"); c.SharesWith != "" {
		t.Errorf("Find(pod1) = %+v, want it to have its own network", c)
	}
	list, err := engines.List(t.Context())
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	if want := []string{"host", "abc123", "pod1", "app1"}; err == nil || !slices.Equal(ids, want) {
		t.Errorf("List = %v, %v, want %v, and that there is no Docker", ids, err, want)
	}
	_, err = engines.Find(t.Context(), "web")
	for _, which := range []string{"containerd/default:web", "containerd/k8s.io:web"} {
		if !strings.Contains(err.Error(), which) {
			t.Errorf("Find(web): %v, want it to say %s", err, which)
		}
	}
}

func TestContainerdWatch(t *testing.T) {
	ps := processes(t, 2)
	s := newState(t)
	if err := os.Remove(s.root); err != nil {
		t.Fatal(err)
	}
	w := watch(t, New(Config{Sockets: noDocker(t), Containerd: []string{s.root}}))
	s.add("default", "a", ps[0].PID(), nil)
	w.want(Resync, "containerd", "")
	s.add("k8s.io", "b", ps[1].PID(), nil)
	s.add("moby", "c", ps[1].PID(), nil)
	w.want(Started, "containerd/k8s.io", "b")
	ps[1].Restart()
	s.add("k8s.io", "b", ps[1].PID(), nil)
	w.want(Ended, "containerd/k8s.io", "b")
	w.want(Started, "containerd/k8s.io", "b")
	ps[1].Kill()
	w.want(Ended, "containerd/k8s.io", "b")
	s.remove("default", "a")
	w.want(Ended, "containerd/default", "a")
	if n := len(w.events); n != 0 {
		t.Errorf("%d more events, the first %+v", n, <-w.events)
	}
}
