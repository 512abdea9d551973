package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"meshd/internal/lab"
)

// idle is what containers do that only have to be there: it ends at once when told to.
const idle = "trap exit TERM; sleep 100000 & wait"

// podmanConf is for a machine without journal, and for a test without the right to more
// files and processes than it has.
const podmanConf = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_config_dir = "/run/containers/networks"
`

// mixed is a host with three engines, each with its socket at the usual place, and meshd
// as a process.
type mixed struct {
	*world
	*host
	docker, podman, containerd kind
	service                    *lab.Process // podman's
	ctrd                       *lab.Process // containerd
}

// kind is an engine as its users command it.
type kind struct {
	name           string // before the colon of what meshd takes
	create         func(name string) []string
	onHostsNetwork func(name string) []string // what creates one there
	start, end     func(name string) []string // a task of containerd goes when it ends
	remove, id     func(name string) []string
	exec           func(name string, args ...string) []string
}

// TestEngines has containers of three engines on one bridge: docker and podman with one
// called web each, podman with pod, containerd with ctr1 and ctr2.
func TestEngines(t *testing.T) {
	for _, name := range []string{"podman", "conmon", "containerd", "ctr"} {
		if _, err := find(name); err != nil && needed() {
			t.Fatalf("the engines of this test need podman and containerd: %v", err)
		} else if err != nil {
			t.Skipf("there are no such engines here: %v", err)
		}
	}
	w := emptyWorld(t)
	m := newMixed(w)
	w.step("Attach", func(*world) { m.attachAll() })
	w.step("OneNameTwice", func(*world) { m.oneNameTwice() })
	w.step("Reach", func(*world) { m.reachAll() })
	w.step("Restart", func(*world) { m.restartAll() })
	w.step("BadInput", func(*world) { m.badInputs() })
	w.step("EndInTheMiddle", func(*world) { m.endInTheMiddle() })
	w.step("EngineRestartsInTheMiddle", func(*world) { m.engineRestartsInTheMiddle() })
	w.step("Remove", func(*world) { m.removeAll() })
	w.step("Detach", func(*world) { m.detachAll() })
}

func newMixed(w *world) *mixed {
	h := w.host("mixed", w.lan("lan"), "10.142.130.16/26", "10.142.130.1")
	m := &mixed{world: w, host: h}
	m.docker = kind{
		name: "docker",
		create: func(name string) []string {
			return []string{"docker", "create", "--name", name, "--network", "none", "box", "sh", "-c", idle}
		},
		onHostsNetwork: func(name string) []string {
			return []string{"docker", "create", "--name", name, "--network", "host", "box", "sh", "-c", idle}
		},
		start:  func(name string) []string { return []string{"docker", "start", name} },
		end:    func(name string) []string { return []string{"docker", "kill", name} },
		remove: func(name string) []string { return []string{"docker", "rm", "-f", name} },
		id:     func(name string) []string { return []string{"docker", "inspect", "-f", "{{.Id}}", name} },
		exec:   func(name string, args ...string) []string { return append([]string{"docker", "exec", name}, args...) },
	}
	podman := func(args ...string) []string {
		return append([]string{"env", "CONTAINERS_CONF=/run/podman.conf", "podman"}, args...)
	}
	podmanCreate := func(network string) func(name string) []string {
		return func(name string) []string {
			return podman("create", "--cgroup-parent", h.controlGroup(), "--cap-add", "NET_RAW", "--name", name, "--network", network, "box", "sh", "-c", idle)
		}
	}
	m.podman = kind{
		name: "podman", create: podmanCreate("none"), onHostsNetwork: podmanCreate("host"),
		start:  func(name string) []string { return podman("start", name) },
		end:    func(name string) []string { return podman("kill", name) },
		remove: func(name string) []string { return podman("rm", "-f", "-t", "0", name) },
		id:     func(name string) []string { return podman("inspect", "-f", "{{.Id}}", name) },
		exec:   func(name string, args ...string) []string { return podman(append([]string{"exec", name}, args...)...) },
	}
	// What ctr creates without running it has no control group of its own name.
	ctrCreate := func(more string) func(name string) []string {
		return func(name string) []string {
			return []string{"sh", "-c", fmt.Sprintf(`ctr run -d --null-io --cgroup %[1]s/%[2]s %[3]s docker.io/library/box:latest %[2]s sh -c "$0" && ctr task rm -f %[2]s 2>/dev/null`,
				h.controlGroup(), name, more), idle}
		}
	}
	execs := 0
	m.containerd = kind{
		name: "containerd/default", create: ctrCreate(""), onHostsNetwork: ctrCreate("--net-host"),
		start: func(name string) []string { return []string{"ctr", "task", "start", "--null-io", "-d", name} },
		end:   func(name string) []string { return []string{"sh", "-c", "ctr task rm -f " + name + " 2>/dev/null"} },
		remove: func(name string) []string {
			return []string{"sh", "-c", fmt.Sprintf("ctr task rm -f %[1]s 2>/dev/null; ctr container rm %[1]s", name)}
		},
		id: func(name string) []string { return []string{"echo", name} },
		exec: func(name string, args ...string) []string {
			execs++
			return append([]string{"ctr", "task", "exec", "--exec-id", fmt.Sprint("x", execs), name}, args...)
		},
	}
	m.startAll()
	return m
}

// startAll starts the engines and meshd.
func (m *mixed) startAll() {
	m.world.Helper()
	// Docker uses a containerd that is there, as it does on Debian.
	m.needEngine(m.startContainerd())
	m.must(os.WriteFile(filepath.Join(suite.dir, "podman.conf"), []byte(podmanConf), 0o644))
	// podman's locks are in shared memory, and one that starts anew frees all that are held.
	m.sh("mount -t tmpfs tmpfs /dev/shm && mkdir -p /run/podman && cp " + filepath.Join(suite.dir, "podman.conf") + " /run/podman.conf")
	m.needEngine(m.startPodman())
	m.needEngine(m.startEngine())
	m.atEnd = append(m.atEnd, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, podman := m.run(ctx, m.podman.remove("-a")...)
		_, ctr := m.run(ctx, "sh", "-c", "for c in $(ctr container ls -q); do ctr task rm -f $c 2>/dev/null; ctr container rm $c; done")
		return errors.Join(podman, ctr)
	})
	m.makeBox()
	m.sh(fmt.Sprintf("docker save -o %[1]s/box.tar box && ctr image import %[1]s/box.tar && CONTAINERS_CONF=/run/podman.conf podman load -q -i %[1]s/box.tar", suite.dir))
	_, err := m.daemon("meshd", []string{suite.binary, "status"}, suite.binary, "up", "--log-level", "debug")
	m.must(err)
}

func (m *mixed) startContainerd() (err error) {
	m.ctrd, err = m.host.daemon("containerd", []string{"ctr", "version"}, "containerd")
	return err
}

func (m *mixed) startPodman() (err error) {
	m.service, err = m.host.daemon("podman", []string{"sh", "-c", "podman --url unix:///run/podman/podman.sock version"},
		"env", "CONTAINERS_CONF=/run/podman.conf", "podman", "system", "service", "--time", "0", "unix:///run/podman/podman.sock")
	return err
}

// meshd is a command line of meshd.
func (m *mixed) meshd(args ...string) []string { return append([]string{suite.binary}, args...) }

// attach attaches a container, by what it is called.
func (m *mixed) attach(addr, what string) {
	m.world.Helper()
	if out, err := m.try(m.meshd("attach", addr+"/24", what)...); err != nil || out != addr+"\n" {
		m.Errorf("meshd attach %s/24 %s prints %q, %v, want the address", addr, what, out, err)
	}
}

// addresses are those of a container on the overlay.
func (m *mixed) addresses(k kind, name string) (out []string) {
	text, _ := m.try(k.exec(name, "ip", "-o", "-4", "addr", "show", "ethwe")...) // none where it does not run
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 3 && f[2] == "inet" {
			out = append(out, f[3])
		}
	}
	return out
}

// has waits until a container has just these addresses on the overlay.
func (m *mixed) has(k kind, name string, want ...string) {
	m.world.Helper()
	m.eventually(fmt.Sprintf("%s of %s has %v", name, k.name, want), func() error {
		if got := m.addresses(k, name); !slices.Equal(got, want) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
}

// seen is what meshd says of a container.
type seen struct {
	Engine, ID, Name  string
	Attached, Stopped bool
	Problem           string
}

// ps is meshd ps, with each container by its engine and name or id.
func (m *mixed) ps() map[string]seen {
	m.world.Helper()
	var view struct{ Containers []seen }
	m.must(json.Unmarshal([]byte(m.do(m.meshd("ps", "--json")...)), &view))
	all := map[string]seen{}
	for _, c := range view.Containers {
		if c.Name == "" {
			c.Name = c.ID
		}
		all[c.Engine+":"+c.Name] = c
	}
	return all
}

// until waits until meshd says so of a container.
func (m *mixed) until(what string, k kind, name string, ok func(c seen, known bool) bool) {
	m.world.Helper()
	m.eventually(fmt.Sprintf("%s of %s is %s", name, k.name, what), func() error {
		c, known := m.ps()[k.name+":"+name]
		if !ok(c, known) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
}

// attachAll attaches containers by all that they may be called.
func (m *mixed) attachAll() {
	for _, c := range []struct {
		k    kind
		name string
	}{{m.docker, "web"}, {m.podman, "web"}, {m.podman, "pod"}, {m.containerd, "ctr1"}, {m.containerd, "ctr2"}} {
		m.do(c.k.create(c.name)...)
		m.do(c.k.start(c.name)...)
	}
	id := func(k kind, name string) string { return m.do(k.id(name)...) }
	var wg sync.WaitGroup // each looks for its address on the overlay for a second
	for addr, what := range map[string]string{
		"192.168.99.1": id(m.docker, "web"),
		"192.168.99.2": "podman:" + id(m.podman, "web")[:12],
		"192.168.99.3": "pod",
		"192.168.99.4": "ctr1",
		"192.168.99.5": "containerd/default:ctr2",
	} {
		wg.Go(func() { m.attach(addr, what) })
	}
	wg.Wait()
	m.has(m.docker, "web", "192.168.99.1/24")
	m.has(m.podman, "web", "192.168.99.2/24")
	m.has(m.podman, "pod", "192.168.99.3/24")
	m.has(m.containerd, "ctr1", "192.168.99.4/24")
	m.has(m.containerd, "ctr2", "192.168.99.5/24")
	if got := m.ps(); len(got) != 5 {
		m.Errorf("meshd ps has %+v, want five containers", got)
	}
}

// oneNameTwice has a name that two engines know.
func (m *mixed) oneNameTwice() {
	before := m.state()
	m.refuse(m.meshd("attach", "192.168.99.12/24", "web"), `"web"`, "say which one, docker:web or podman:web")
	if after := m.state(); after != before {
		m.Errorf("after a name of two containers there is\n%s\nand was before\n%s", after, before)
	}
	m.attach("192.168.99.12", "podman:web")
	m.has(m.podman, "web", "192.168.99.2/24", "192.168.99.12/24")
	m.has(m.docker, "web", "192.168.99.1/24")
	m.refuse(m.meshd("detach", "192.168.99.12/24", "web"), "docker:web or podman:web")
	m.do(m.meshd("detach", "192.168.99.12/24", "podman:web")...)
	m.has(m.podman, "web", "192.168.99.2/24")
}

// reachAll pings between containers of each engine, and of each with each other.
func (m *mixed) reachAll() {
	for _, p := range []struct {
		from []string
		to   string
	}{
		{m.docker.exec("web"), "192.168.99.2"},
		{m.podman.exec("web"), "192.168.99.3"}, {m.podman.exec("pod"), "192.168.99.4"},
		{m.containerd.exec("ctr1"), "192.168.99.5"}, {m.containerd.exec("ctr2"), "192.168.99.1"},
	} {
		m.must(m.pings(p.from, p.to))
	}
}

// restartAll has a container of each engine end and start again. meshd asks no more for
// one that it knows not to run, until its engine, or what is seen of it, says that it does.
func (m *mixed) restartAll() {
	for _, c := range []struct {
		k          kind
		name, addr string
	}{{m.docker, "web", "192.168.99.1/24"}, {m.podman, "web", "192.168.99.2/24"}, {m.containerd, "ctr1", "192.168.99.4/24"}} {
		m.do(c.k.end(c.name)...)
		m.until("stopped", c.k, c.name, func(c seen, _ bool) bool { return c.Stopped && !c.Attached })
		m.do(c.k.start(c.name)...)
		m.has(c.k, c.name, c.addr)
	}
	m.sh("CONTAINERS_CONF=/run/podman.conf podman restart -t 0 web")
	m.has(m.podman, "web", "192.168.99.2/24")
	m.reachAll()
}

// state is what bad input must not change.
func (m *mixed) state() string {
	m.world.Helper()
	out := m.sh(suite.binary + ` ps; ls /var/lib/meshd/attachments; busybox ip -o link | cut -d' ' -f2-9`)
	for _, k := range []kind{m.docker, m.podman} {
		out += strings.Join(append(m.addresses(k, "web"), "\n"), " ")
	}
	return out
}

// badInputs are containers that cannot be attached.
func (m *mixed) badInputs() {
	before := m.state()
	for _, k := range []kind{m.docker, m.podman, m.containerd} {
		m.do(k.create("stopped")...)
		m.do(k.onHostsNetwork("hostnet")...)
		m.do(k.start("hostnet")...)
		m.refuse(m.meshd("attach", "192.168.99.50/24", k.name+":stopped"), "stopped", k.name, "does not run", "start it first")
		m.refuse(m.meshd("attach", "192.168.99.50/24", k.name+":hostnet"), "hostnet", k.name, "host's own network", "mesh expose")
		m.refuse(m.meshd("attach", "192.168.99.50/24", k.name+":nobody"), "nobody", "no container")
		m.refuse(m.meshd("detach", k.name+":hostnet"), "hostnet")
		m.do(k.remove("stopped")...)
		m.do(k.remove("hostnet")...)
	}
	if after := m.state(); after != before {
		m.Errorf("after bad input there is\n%s\nand was before\n%s", after, before)
	}
}

// during begins to attach a container, calls f while its address is looked for, and
// returns when the attach has ended. finish is that.
func (m *mixed) during(finish, f func()) {
	m.world.Helper()
	records := func() string { return m.sh("ls /var/lib/meshd/attachments | wc -l") }
	before := records()
	var wg sync.WaitGroup
	wg.Go(finish)
	m.eventually("the attachment is on disk", func() error {
		if records() == before {
			return errors.New("not yet")
		}
		return nil
	})
	f()
	wg.Wait()
}

// endInTheMiddle has containers end while they are attached.
func (m *mixed) endInTheMiddle() {
	before := m.state()
	for _, k := range []kind{m.docker, m.podman, m.containerd} {
		m.do(k.create("short")...)
		m.do(k.start("short")...)
		m.during(func() {
			m.refuse(m.meshd("attach", "192.168.99.50/24", k.name+":short"), "short", "ended while it was being attached")
		}, func() { m.do(k.end("short")...) })
		m.do(k.remove("short")...)
	}
	if after := m.state(); after != before {
		m.Errorf("after containers that ended there is\n%s\nand was before\n%s", after, before)
	}
}

// engineRestartsInTheMiddle has engines restart while a container is attached. Those of
// podman and containerd run on, and are attached; Docker takes its own with it.
func (m *mixed) engineRestartsInTheMiddle() {
	before := m.state()
	for _, c := range []struct {
		k       kind
		restart func() error
	}{
		{m.podman, func() error { return errors.Join(m.service.Kill(), m.startPodman()) }},
		{m.containerd, func() error { return errors.Join(m.ctrd.Kill(), m.startContainerd()) }},
	} {
		m.do(c.k.create("long")...)
		m.do(c.k.start("long")...)
		m.during(func() { m.attach("192.168.99.50", c.k.name+":long") }, func() { m.must(c.restart()) })
		m.has(c.k, "long", "192.168.99.50/24")
		m.do(m.meshd("detach", c.k.name+":long")...)
		m.do(c.k.remove("long")...)
	}
	m.do(m.docker.create("long")...)
	m.do(m.docker.start("long")...)
	m.during(func() {
		m.refuse(m.meshd("attach", "192.168.99.50/24", "docker:long"), "long", "ended while it was being attached")
	}, func() { m.must(m.stopEngine()) })
	m.refuse(m.meshd("attach", "192.168.99.50/24", "docker:long"), "no container engine", "/var/run/docker.sock", "start it", "containers.sockets")
	m.must(m.startEngine())
	m.do(m.docker.remove("long")...)
	m.do(m.docker.start("web")...)
	m.has(m.docker, "web", "192.168.99.1/24")
	if got := m.ps(); len(got) != 5 {
		m.Errorf("meshd ps has %+v, want five containers", got)
	}
	if after := m.state(); len(strings.Split(after, "\n")) != len(strings.Split(before, "\n")) {
		m.Errorf("after engines that restarted there is\n%s\nand was before\n%s", after, before)
	}
}

// removeAll removes containers: meshd forgets them, and frees their addresses.
func (m *mixed) removeAll() {
	gone := func(_ seen, known bool) bool { return !known }
	m.do(m.podman.remove("pod")...)
	m.until("forgotten", m.podman, "pod", gone)
	m.do(m.containerd.remove("ctr2")...)
	m.until("forgotten", m.containerd, "ctr2", gone)
	// containerd says nothing of one that did not run: it is found out when it matters.
	m.do(m.containerd.end("ctr1")...)
	m.until("stopped", m.containerd, "ctr1", func(c seen, _ bool) bool { return c.Stopped })
	m.refuse(m.meshd("attach", "192.168.99.4/24", "docker:web"), "192.168.99.4", "ctr1", "choose another")
	m.do("ctr", "container", "rm", "ctr1")
	m.attach("192.168.99.4", "docker:web")
	m.until("forgotten", m.containerd, "ctr1", gone)
}

// detachAll takes the last containers off the overlay: nothing of them is left.
func (m *mixed) detachAll() {
	m.do(m.meshd("detach", "docker:web")...)
	m.do(m.meshd("detach", "podman:web")...)
	m.has(m.docker, "web")
	m.has(m.podman, "web")
	if got := m.ps(); len(got) != 0 {
		m.Errorf("meshd ps has %+v, want none", got)
	}
	if out := m.sh("ls /var/lib/meshd/attachments; busybox ip -o link | grep 'meshd attach' || true"); out != "" {
		m.Errorf("after detach there is %q", out)
	}
}
