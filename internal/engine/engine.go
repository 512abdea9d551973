package engine

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// timeout is for one call of an engine.
const timeout = 5 * time.Second

// Container is a container, or a network namespace without one.
type Container struct {
	// Engine is the engine that has it, such as "docker" or "containerd/k8s.io", or
	// "pid" of a process that was named by its number; empty of a plain namespace.
	Engine string
	// ID tells it apart from all others of its engine, also from those that come
	// later; empty of a plain namespace. Engine:ID is a name that Find knows.
	ID   string
	Name string // for people; may be empty
	// PID is its first process, as procfs of the host numbers it; 0: it does not run.
	PID     int
	Running bool
	// HostNetwork: its network namespace is that of this process.
	HostNetwork bool
	// NetNS is the path of a plain namespace; otherwise that of PID is meant.
	NetNS string
	// SharesWith is the id or name of the container whose network namespace it uses;
	// empty: it has its own.
	SharesWith string
	// Env are the environment's variables WEAVE_... and MESH_...; the others may be
	// secrets, and are not kept.
	Env    map[string]string
	Labels map[string]string

	status string // the engine's word for it, where it does not run
}

// String is what people call it, such as "container web (docker)".
func (c Container) String() string {
	switch {
	case c.Engine == "pid":
		return "process " + c.Name
	case c.Engine == "":
		return "network namespace " + cmp.Or(c.Name, c.NetNS)
	}
	return "container " + cmp.Or(c.Name, shortID(c.ID)) + " (" + c.Engine + ")"
}

// shortID is how engines show an id.
func shortID(id string) string { return id[:min(12, len(id))] }

// Config is what Engines needs. Its zero value works.
type Config struct {
	// Sockets are those of engines that speak Docker's API: PATH, unix://PATH or
	// NAME=PATH. An engine without a NAME is called podman if that is in its path,
	// otherwise docker, and a second one docker@PATH. Empty: that of DOCKER_HOST, if
	// it is one, /var/run/docker.sock and /run/podman/podman.sock.
	Sockets []string
	// Containerd are runtime state directories of containerd, with a directory for
	// each of its namespaces. Nil: those of containerd and of k3s.
	Containerd []string
	// Proc is the host's procfs. Empty: /proc.
	Proc string
	Log  *slog.Logger
}

// Usual places.
var (
	usualSockets    = []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	usualContainerd = []string{
		"/run/containerd/io.containerd.runtime.v2.task",
		"/run/k3s/containerd/io.containerd.runtime.v2.task",
	}
)

// source is one engine. Its methods may be called concurrently.
type source interface {
	// name is what the engine is called, such as "docker".
	name() string
	// absent says that the engine is not here to be asked, and where it would be: one
	// in a usual place need not be.
	absent() error
	// serves reports whether prefix:NAME means this engine.
	serves(prefix string) bool
	// find finds a container by its id, its name, or the begin of its id: those that
	// the engine holds possible. It returns none where there is none; an error where
	// the engine does not say.
	find(ctx context.Context, key string) ([]Container, error)
	// list lists those that run.
	list(ctx context.Context) ([]Container, error)
	// watch reports events until ctx is done, whatever happens to the engine. report
	// does not wait.
	watch(ctx context.Context, report func(Event))
	// forgets reports whether an id that the engine does not know any more is of a
	// container that was removed.
	forgets() bool
}

// Engines are the container engines of this host. Its methods may be called
// concurrently.
type Engines struct {
	sources []source
	proc    procfs
	log     *slog.Logger
}

// New makes Engines. It asks none of them yet.
func New(cfg Config) *Engines {
	e := &Engines{proc: procfs(cmp.Or(cfg.Proc, "/proc")), log: cfg.Log}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	sockets, usual := cfg.Sockets, false
	if len(sockets) == 0 {
		sockets, usual = defaultSockets(), true
	}
	for _, s := range nameSockets(sockets) {
		e.sources = append(e.sources, &docker{engine: s.name, socket: s.path, optional: usual, proc: e.proc, log: e.log})
	}
	roots := cfg.Containerd
	if roots == nil {
		roots = usualContainerd
	}
	for i, root := range roots {
		name := "containerd"
		if i > 0 {
			name += "@" + root
		}
		e.sources = append(e.sources, &containerd{engine: name, root: root, proc: e.proc, log: e.log})
	}
	return e
}

// defaultSockets are where engines usually listen. Those that are not there yet may come.
func defaultSockets() []string {
	var sockets []string
	if s, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		sockets = append(sockets, s)
	}
	return append(sockets, usualSockets...)
}

// socket is one of an engine.
type socket struct{ name, path string }

// nameSockets gives each socket a name of its own, and drops those that are the same.
// Names depend on nothing but the list: they are kept on disk.
func nameSockets(list []string) (sockets []socket) {
	names, seen := map[string]bool{}, map[string]bool{}
	for _, s := range list {
		name, path, named := strings.Cut(s, "=")
		if !named || !isKey(name) {
			name, path = "", s
		}
		path = strings.TrimPrefix(path, "unix://")
		real := realPath(path)
		if seen[real] {
			continue
		}
		seen[real] = true
		if name == "" {
			name = "docker"
			if strings.Contains(real, "podman") {
				name = "podman"
			}
		}
		if names[name] {
			name += "@" + path
		}
		names[name] = true
		sockets = append(sockets, socket{name, path})
	}
	return sockets
}

// realPath is a path without symbolic links, as far as it exists: /var/run is /run on
// most hosts, and podman-docker makes docker.sock a link.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return filepath.Clean(path)
}

// List lists the containers that run. Where an engine does not answer, it returns those
// of the others and an error.
func (e *Engines) List(ctx context.Context) ([]Container, error) {
	answers := ask(e.present(""), func(s source) ([]Container, error) { return s.list(ctx) })
	var all []Container
	var faults []error
	for _, a := range answers {
		all = append(all, a.found...)
		if a.err != nil {
			faults = append(faults, a.err)
		}
	}
	for i := range all {
		all[i].HostNetwork = e.proc.hostNetwork(all[i])
	}
	all = onlyOnce(all)
	slices.SortFunc(all, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Engine, b.Engine), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return all, errors.Join(faults...)
}

// present are the engines that are here to be asked; with a prefix only those that it
// means.
func (e *Engines) present(prefix string) []source {
	return slices.DeleteFunc(slices.Clone(e.sources), func(s source) bool {
		return prefix != "" && !s.serves(prefix) || s.absent() != nil
	})
}

// answer is what one engine says.
type answer struct {
	source source
	found  []Container
	err    error
}

// ask asks engines at once. Errors name their engine.
func ask(sources []source, question func(source) ([]Container, error)) []answer {
	answers := make([]answer, len(sources))
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() {
			found, err := question(s)
			answers[i] = answer{s, found, err}
		})
	}
	wg.Wait()
	return answers
}

// onlyOnce drops containers that two sockets of one engine told of: ids of 256 random
// bits do not meet.
func onlyOnce(all []Container) []Container {
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(c Container) bool {
		again := len(c.ID) == 64 && seen[c.ID]
		seen[c.ID] = true
		return again
	})
}
