package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	// Engine is what its engine is called, such as "docker" or "containerd/k8s.io", or
	// "pid" of a process that was named by its number; empty of a plain namespace.
	Engine string
	// At is where its engine is: the path of Docker's or podman's socket, without
	// symbolic links, or of the state directory of containerd's namespace. It tells
	// engines apart for good, which their names do not: they depend on the settings.
	// Empty of what has no engine.
	At string
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
	// Sockets are those of engines that speak Docker's API, as ParseSocket has them; what
	// is none is passed over. An engine without a NAME is called podman if that is in
	// its path, otherwise docker, and a second one docker@PATH. Empty: that of
	// DOCKER_HOST, if it is one, /var/run/docker.sock and /run/podman/podman.sock.
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
	// place is where the engine would be, for people.
	place() string
	// absent reports whether the engine is not here to be asked: one in a usual place
	// need not be.
	absent() bool
	// serves reports whether prefix:NAME means this engine.
	serves(prefix string) bool
	// has reports whether it is the engine of containers with this Container.At.
	has(at string) bool
	// find finds a container by its id, its name, or the begin of its id: those that
	// the engine holds possible. It returns none where there is none; an error where
	// the engine does not say.
	find(ctx context.Context, key string) ([]Container, error)
	// again finds the container of an id that the engine gave. The error is ErrGone if
	// the engine says that it has removed it.
	again(ctx context.Context, at, id string) (Container, error)
	// watch reports events until ctx is done, whatever happens to the engine. report
	// does not wait.
	watch(ctx context.Context, report func(Event))
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
		e.sources = append(e.sources, &containerd{engine: name, root: filepath.Clean(root), socket: filepath.Join(filepath.Dir(filepath.Clean(root)), "containerd.sock"), proc: e.proc, log: e.log})
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

// ParseSocket takes apart what names the socket of an engine: PATH, unix://PATH, or
// NAME=PATH for an engine that is to be called NAME. Without one the name is empty. The
// error says what is wrong in the words of a setting.
func ParseSocket(s string) (name, path string, err error) {
	const longest = 107 // sun_path less the zero
	name, path, named := strings.Cut(s, "=")
	if !named || strings.Contains(name, "/") {
		name, path = "", s
	}
	path = strings.TrimPrefix(path, "unix://")
	switch {
	case named && name == "" && path != s, name != "" && !isKey(name):
		return "", "", errors.New("has a name before = that no engine can have: letters, digits and _.- may be in one")
	case name == "pid", name == "netns":
		return "", "", fmt.Errorf("calls an engine %s, which means something else: choose another name", name)
	case !strings.HasPrefix(path, "/"):
		return "", "", errors.New("is not the path of a unix socket of this host, nor NAME=PATH")
	case len(path) > longest:
		return "", "", fmt.Errorf("is longer than %d bytes, the kernel's limit for unix sockets", longest)
	case !printable(path):
		return "", "", errors.New("has control characters")
	}
	return name, path, nil
}

// nameSockets gives each socket a name of its own, and drops those that are the same,
// and what is none.
func nameSockets(list []string) (sockets []socket) {
	names, seen := map[string]bool{}, map[string]bool{}
	for _, s := range list {
		name, path, err := ParseSocket(s)
		if err != nil {
			continue
		}
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

// present are the engines that are here to be asked; with a prefix only those that it
// means.
func (e *Engines) present(prefix string) []source {
	return slices.DeleteFunc(slices.Clone(e.sources), func(s source) bool {
		return prefix != "" && !s.serves(prefix) || s.absent()
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
