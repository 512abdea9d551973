package attach

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/lab"
)

func TestDetach(t *testing.T) {
	h := build(t)
	all := []string{"10.32.0.1/24", "10.32.0.3/24", "10.40.0.1/16", "fd00::1/64"}
	first := h.attached(h.c1, all...)
	h.attached(h.c2, "10.32.0.2/24")

	left, err := h.detach(h.c1, "10.32.0.1/24", "10.32.0.9/24")
	if !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), "10.32.0.9/24") || !strings.Contains(err.Error(), "10.40.0.1/16") {
		t.Errorf("Detach() = %v, want what is not there and what is", err)
	}
	if !sameAddresses(left, prefixes(all...)) {
		t.Errorf("Detach() left %v, want all", left)
	}
	// Another subnet's length is another address.
	if _, err := h.detach(h.c1, "10.32.0.1/16"); !errors.Is(err, ErrNoAddress) {
		t.Errorf("Detach() = %v, want %v", err, ErrNoAddress)
	}

	// The first address of a subnet goes, the second one of it stays.
	left, err = h.detach(h.c1, "10.32.0.1/24", "fd00::1/64")
	must(t, err)
	if want := prefixes("10.32.0.3/24", "10.40.0.1/16"); !sameAddresses(left, want) {
		t.Errorf("Detach() left %v, want %v", left, want)
	}
	got, ok := h.inspect(h.c1)
	if !ok || !sameAddresses(got.Addresses, left) || got.MAC != first.MAC {
		t.Errorf("Inspect() = %+v, %v, want %v", got, ok, left)
	}
	want := []string{
		"10.32.0.0/24 dev ethwe proto kernel scope link src 10.32.0.3",
		"10.40.0.0/16 dev ethwe proto kernel scope link src 10.40.0.1",
		"224.0.0.0/4 dev ethwe scope link",
	}
	if lines := routes(t, h.c1, "-4"); !slices.Equal(lines, want) {
		t.Errorf("routes = %v, want %v", lines, want)
	}
	ping(t, h.c1, "10.32.0.2")

	left, err = h.detach(h.c1, "10.32.0.3/24", "10.40.0.1/16")
	if len(left) > 0 || err != nil {
		t.Errorf("Detach() of the last = %v, %v", left, err)
	}
	for range 2 { // the second time there is nothing
		wantLinks(t, h.c1, "lo")
		wantLinks(t, h.Namespace, "lo", hostName(h.c2.Name), bridge)
		if left, err := h.detach(h.c1); len(left) > 0 || err != nil {
			t.Errorf("Detach() of what is not attached = %v, %v", left, err)
		}
	}
	if left, err := h.detach(h.c2); len(left) > 0 || err != nil {
		t.Errorf("Detach() of all = %v, %v", left, err)
	}
	wantLinks(t, h.Namespace, "lo", bridge)
}

// TestDetachOfGone: the namespace has gone, or something holds the old one.
func TestDetachOfGone(t *testing.T) {
	h := build(t)
	h.attached(h.c1, "10.32.0.1/24")
	must(t, h.Do(func() error {
		_, err := Detach(nil, Options{Key: h.c1.Name})
		return err
	}))
	wantLinks(t, h.Namespace, "lo", bridge)
	wantLinks(t, h.c1, "lo")

	h.attached(h.c1, "10.32.0.1/24")
	ns := h.open(h.c2) // the restarted one's
	must(t, h.Do(func() error {
		_, err := Detach(ns, options(h.c1))
		return err
	}))
	wantLinks(t, h.c1, "lo")

	// A renamed device is ours all the same.
	h.attached(h.c1, "10.32.0.1/24")
	must(t, h.c1.Do(func() error {
		link, err := netlink.LinkByName(DefaultDevice)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetDown(link), netlink.LinkSetName(link, "renamed"))
	}))
	if _, err := h.detach(h.c1); err != nil {
		t.Errorf("Detach() = %v", err)
	}
	wantLinks(t, h.c1, "lo")
}

func TestLeftovers(t *testing.T) {
	h := build(t)
	one, two := h.attached(h.c1, "10.32.0.1/24"), h.attached(h.c2, "10.32.0.2/24")
	must(t, h.Leave(two.HostDevice))
	// Others': an alias like ours on another's device, and another alias.
	must(t, h.AddBridge("fake"))
	must(t, h.Do(func() error { return setAlias("fake", tag+"fake") }))
	want := []Leftover{{h.c1.Name, one.HostDevice, true}, {h.c2.Name, two.HostDevice, false}}
	if got := h.leftovers(); !slices.Equal(got, want) {
		t.Errorf("Leftovers() = %+v, want %+v", got, want)
	}
	must(t, h.Down(one.HostDevice))
	if got := h.leftovers(); got[0].Joined {
		t.Errorf("Leftovers() = %+v, though it is down", got)
	}
	must(t, h.Delete(bridge))
	if got := h.leftovers(); len(got) != 2 || got[0].Joined {
		t.Errorf("Leftovers() without a bridge = %+v", got)
	}
	for _, key := range []string{h.c1.Name, h.c2.Name, h.c1.Name, "never"} {
		must(t, h.remove(key))
	}
	if got := h.leftovers(); len(got) > 0 {
		t.Errorf("Leftovers() = %+v, want none", got)
	}
	if err := h.remove(""); err == nil {
		t.Error("Remove of no key is no error")
	}
	wantLinks(t, h.Namespace, "fake", "lo")
}

// TestHostileKeys: what is text is a key.
func TestHostileKeys(t *testing.T) {
	h := build(t)
	for _, key := range []string{`'"; rm -rf /`, "--help", " ", "ünï/../code", strings.Repeat("k", maxKey)} {
		o := options(h.c1, "10.32.0.1/24")
		o.Key = key
		got, err := h.attach(h.c1, o)
		must(t, err)
		if left := h.leftovers(); len(left) != 1 || left[0].Key != key || got.Key != key {
			t.Errorf("%q: Attach() = %+v, Leftovers() = %+v", key, got, left)
		}
		if i, ok := h.inspect(h.c1); !ok || i.Key != key {
			t.Errorf("%q: Inspect() = %+v", key, i)
		}
		must(t, h.remove(key))
	}
}

func TestOpen(t *testing.T) {
	h := build(t)
	file := filepath.Join(h.lab.Dir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	pipe := filepath.Join(h.lab.Dir(), "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	for _, tt := range []struct {
		name string
		open func() (*Namespace, error)
		want error
		text string
	}{
		{"own, by path", func() (*Namespace, error) { return OpenPath(h.Path()) }, ErrHostNetwork, "--network host"},
		{"own, by process", func() (*Namespace, error) { return OpenPID("", sleeper(t, h.Namespace).PID()) }, ErrHostNetwork, "process"},
		{"nothing there", func() (*Namespace, error) { return OpenPath("/run/netns/never-was") }, ErrEnded, "never-was"},
		{"no such process", func() (*Namespace, error) { return OpenPID("", 1<<22+1) }, ErrEnded, "process 4194305"},
		{"stopped container", func() (*Namespace, error) { return OpenPID("", 0) }, ErrEnded, "process 0"},
		{"no procfs", func() (*Namespace, error) { return OpenPID("/nowhere", os.Getpid()) }, ErrEnded, "process"},
		{"a file", func() (*Namespace, error) { return OpenPath(file) }, nil, "not a network namespace"},
		{"a pipe", func() (*Namespace, error) { return OpenPath(pipe) }, nil, "not a network namespace"},
		{"another kind", func() (*Namespace, error) { return OpenPath("/proc/self/ns/mnt") }, nil, "not a network namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := h.Do(func() error {
				ns, err := tt.open()
				if err == nil {
					ns.Close()
				}
				return err
			})
			if err == nil || !strings.Contains(err.Error(), tt.text) || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("open = %v, want %q in it (%v)", err, tt.text, tt.want)
			}
		})
	}
	// Of a procfs elsewhere.
	proc := filepath.Join(h.lab.Dir(), "proc")
	must(t, os.Symlink("/proc", proc))
	p := sleeper(t, h.c1)
	must(t, h.Do(func() error {
		ns, err := OpenPID(proc, p.PID())
		if err == nil {
			err = ns.Close()
		}
		return err
	}))
	// The test's own is another than the lab's host: it can be told apart.
	if one, two := h.open(h.c1), h.open(h.c2); one.net.ID() == two.net.ID() {
		t.Errorf("two namespaces are one: %v", one.net.ID())
	}
}

// TestManyAtOnce: calls for different keys do not disturb each other.
func TestManyAtOnce(t *testing.T) {
	h := build(t)
	containers := map[string]*lab.Namespace{"10.32.0.1/24": h.c1, "10.32.0.2/24": h.c2}
	for _, a := range []string{"10.32.0.3/24", "10.32.0.4/24"} {
		n, err := h.lab.Namespace("c" + a[8:9])
		must(t, err)
		containers[a] = n
	}
	var wg sync.WaitGroup
	for a, c := range containers {
		wg.Go(func() {
			for range 5 {
				err := h.Do(func() error { return attachAndDetach(c, a) })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	wantLinks(t, h.Namespace, "lo", bridge)
}

// TestThreads: whoever calls stays in the namespace where it was.
func TestThreads(t *testing.T) {
	h := build(t)
	var before, after unix.Stat_t
	must(t, unix.Stat("/proc/thread-self/ns/net", &before))
	for range 5 {
		h.attached(h.c1, "10.32.0.1/24")
		if _, err := h.detach(h.c1); err != nil {
			t.Error(err)
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	must(t, err)
	for _, task := range tasks {
		if unix.Stat(task, &after) == nil && after.Ino != before.Ino {
			// The lab's threads end a moment after its calls.
			eventually(t, task+" is in our namespace or has ended", func() bool {
				return unix.Stat(task, &after) != nil || after.Ino == before.Ino
			})
		}
	}
}

func attachAndDetach(c *lab.Namespace, addr string) error {
	ns, err := OpenPath(c.Path())
	if err != nil {
		return err
	}
	defer ns.Close()
	if _, err := Attach(ns, options(c, addr)); err != nil {
		return err
	}
	left, err := Leftovers(bridge)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(left, func(l Leftover) bool { return l.Key == c.Name && l.Joined }) {
		return fmt.Errorf("Leftovers() = %v, without %s", left, c.Name)
	}
	_, err = Detach(ns, options(c))
	return err
}

func delRoute(dst string) error {
	return netlink.RouteDel(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Scope: netlink.SCOPE_LINK})
}

func setAlias(device, alias string) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return netlink.LinkSetAlias(link, alias)
}
