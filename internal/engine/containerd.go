package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// containerd is containerd without Docker: nerdctl, ctr, Kubernetes. What runs is read
// from its runtime state directory, where each running container has a bundle:
//
//	/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID/init.pid
//	                                                           config.json
//
// What is not there does not run. Whether it was removed says containerd itself, see
// containerdapi.go.
type containerd struct {
	engine string
	root   string
	socket string // of its API
	proc   procfs
	log    *slog.Logger
}

var _ source = (*containerd)(nil)

const (
	pollEvery  = time.Second
	maxBundles = 4096    // of one containerd
	maxSpec    = 4 << 20 // bytes of config.json
)

// dockersNamespaces are those where Docker keeps its containers, and its plugins:
// Docker itself is asked for them.
var dockersNamespaces = []string{"moby", "plugins.moby"}

func (d *containerd) name() string { return d.engine }

func (d *containerd) place() string { return filepath.Dir(d.root) }

func (d *containerd) has(at string) bool { return filepath.Dir(at) == d.root }

func (d *containerd) serves(prefix string) bool {
	_, namespace, _ := splitEngine(prefix)
	return Fits(prefix, d.engineOf(bundle{namespace: namespace}))
}

func (d *containerd) absent() bool {
	_, err := os.Stat(d.root)
	return err != nil
}

// plain is an error without the path that it is about.
func plain(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// bundle is one container's state.
type bundle struct{ namespace, id string }

func (d *containerd) path(b bundle, file string) string {
	return filepath.Join(d.root, b.namespace, b.id, file)
}

// engineOf is what a container's engine is called: ids tell containers apart within a
// namespace only.
func (d *containerd) engineOf(b bundle) string {
	kind, _, place := splitEngine(d.engine)
	if place != "" {
		place = "@" + place
	}
	return kind + "/" + b.namespace + place
}

// at is the Container.At of a container.
func (d *containerd) at(b bundle) string { return filepath.Join(d.root, b.namespace) }

// namespaces lists those that have or had a container that ran. Directories that
// containerd cannot have made are passed over.
func (d *containerd) namespaces() (names []string, err error) {
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return nil, fmt.Errorf("%s at %s: %w", d.engine, d.root, plain(err))
	}
	for _, e := range entries {
		if isKey(e.Name()) && !slices.Contains(dockersNamespaces, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// bundles lists what is there.
func (d *containerd) bundles() (all []bundle, err error) {
	namespaces, err := d.namespaces()
	if err != nil {
		return nil, err
	}
	for _, namespace := range namespaces {
		entries, err := os.ReadDir(filepath.Join(d.root, namespace))
		if err != nil {
			continue // it went meanwhile
		}
		for _, b := range entries {
			if isKey(b.Name()) && len(all) < maxBundles {
				all = append(all, bundle{namespace, b.Name()})
			}
		}
	}
	return all, nil
}

// pid is the first process of a container, 0 if it does not run.
func (d *containerd) pid(b bundle) int {
	data, err := readSome(d.path(b, "init.pid"), 16)
	if err != nil {
		return 0
	}
	pid, ok := pidOf(string(bytes.TrimSpace(data)))
	if !ok || !d.proc.alive(pid) {
		return 0
	}
	return pid
}

// spec is what is needed of the runtime specification, config.json.
type spec struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
		Namespaces  []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
	} `json:"linux"`
}

func (s spec) hasNetwork() bool {
	for _, n := range s.Linux.Namespaces {
		if n.Type == "network" {
			return true
		}
	}
	return false
}

// load reads one container.
func (d *containerd) load(b bundle) (Container, error) {
	data, err := readSome(d.path(b, "config.json"), maxSpec)
	if err != nil {
		return Container{}, err
	}
	var s spec
	if err := json.Unmarshal(data, &s); err != nil {
		return Container{}, fmt.Errorf("read %s: %w", d.path(b, "config.json"), err)
	}
	c := Container{
		Engine: d.engineOf(b), At: d.at(b), ID: b.id, PID: d.pid(b),
		HostNetwork: !s.hasNetwork(),
	}
	if c.PID != 0 && !d.inCgroup(c.PID, b.id, s.Linux.CgroupsPath) {
		c.PID = 0
	}
	c.Running = c.PID != 0
	for _, key := range []string{"nerdctl/name", "io.kubernetes.cri.container-name", "io.kubernetes.cri.sandbox-name"} {
		if name := s.Annotations[key]; c.Name == "" && isKey(name) {
			c.Name = name
		}
	}
	return c, nil
}

// inCgroup reports whether a process is the container's: init.pid stays when a shim was
// killed, and the number may be another's by now. The cgroup of a container has its id
// in its path.
func (d *containerd) inCgroup(pid int, id, cgroupsPath string) bool {
	data, err := readSome(d.proc.of(pid, "cgroup"), 1<<16)
	return err != nil || !strings.Contains(cgroupsPath, id) || bytes.Contains(data, []byte(id))
}

// find implements source. A name is in the specification, so all are read; of those
// that do not run only the id is known.
func (d *containerd) find(ctx context.Context, key string) (found []Container, err error) {
	all, err := d.loadAll(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if fit(c, key) != fitsNot {
			found = append(found, c)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	return d.stopped(ctx, key), nil
}

// stopped are the containers with this id that do not run; none where containerd does
// not say.
func (d *containerd) stopped(ctx context.Context, id string) (found []Container) {
	namespaces, _ := d.namespaces() // they were listed before
	for _, namespace := range namespaces {
		b := bundle{namespace, id}
		there, err := d.exists(ctx, b)
		if err != nil {
			d.log.Debug("container that does not run not looked for", "engine", d.engine, "container", id, "err", err)
			return found
		}
		if there {
			found = append(found, d.idle(b))
		}
	}
	return found
}

// idle is a container that does not run.
func (d *containerd) idle(b bundle) Container {
	return Container{Engine: d.engineOf(b), At: d.at(b), ID: b.id}
}

// again implements source.
func (d *containerd) again(ctx context.Context, at, id string) (Container, error) {
	b := bundle{filepath.Base(at), id}
	c, err := d.load(b)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	there, err := d.exists(ctx, b)
	switch {
	case err != nil:
		return d.idle(b), fault(ErrUnknown, "container %s does not run, and whether %s still has it is not known: %v", shortID(id), d.engineOf(b), err)
	case !there:
		return Container{}, gone(id, d.engineOf(b))
	}
	return d.idle(b), nil
}

func (d *containerd) loadAll(ctx context.Context) ([]Container, error) {
	bundles, err := d.bundles()
	if err != nil {
		return nil, err
	}
	var all []Container
	for _, b := range bundles {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		c, err := d.load(b)
		if err != nil {
			d.log.Debug("container left out", "engine", d.engine, "container", b.id, "err", err)
			continue
		}
		all = append(all, c)
	}
	return all, nil
}

// watch looks each second what has changed: a readdir per namespace, and a read per
// container that runs.
func (d *containerd) watch(ctx context.Context, report func(Event)) {
	var known map[bundle]int // the process of each that runs; nil: containerd is not here
	for ; ctx.Err() == nil; pause(ctx, pollEvery) {
		now, err := d.running()
		if err != nil {
			// What ran may run on: only the directory is not to be read.
			known = nil
			continue
		}
		if known == nil {
			report(Event{Kind: Resync, Engine: d.engine, At: d.root})
		} else {
			d.compare(known, now, report)
		}
		known = now
	}
}

func (d *containerd) running() (map[bundle]int, error) {
	bundles, err := d.bundles()
	if err != nil {
		return nil, err
	}
	running := map[bundle]int{}
	for _, b := range bundles {
		if pid := d.pid(b); pid != 0 {
			running[b] = pid
		}
	}
	return running, nil
}

// compare reports what has changed.
func (d *containerd) compare(old, now map[bundle]int, report func(Event)) {
	for b, pid := range old {
		if now[b] != pid {
			report(d.event(Ended, b))
		}
	}
	for b, pid := range now {
		if old[b] != pid {
			report(d.event(Started, b))
		}
	}
}

func (d *containerd) event(kind EventKind, b bundle) Event {
	return Event{Kind: kind, Engine: d.engineOf(b), At: d.at(b), ID: b.id}
}
