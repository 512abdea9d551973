package attach

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/lab"
)

const (
	bridge    = "weave"
	bridgeMTU = 1410
)

// host is a host with a bridge, and two containers that are not on it.
//
//	c1      host: bridge "weave", MTU 1410      c2
type host struct {
	*lab.Namespace
	t      *testing.T
	lab    *lab.Lab
	c1, c2 *lab.Namespace
}

func build(t *testing.T) host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	l, err := lab.New(fmt.Sprintf("meshd-attach-%d", os.Getpid()))
	must(t, err)
	t.Cleanup(func() {
		must(t, l.Close())
		if left := l.Leftovers(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	h := host{t: t, lab: l}
	for name, n := range map[string]**lab.Namespace{"host": &h.Namespace, "c1": &h.c1, "c2": &h.c2} {
		*n, err = l.Namespace(name)
		must(t, err)
	}
	must(t, h.AddBridge(bridge))
	// In two steps, as the package tap does it: then it does not follow its ports.
	must(t, h.SetMTU(bridge, bridgeMTU-1))
	must(t, h.SetMTU(bridge, bridgeMTU))
	return h
}

// open opens a container's namespace, as seen from the host.
func (h host) open(c *lab.Namespace) *Namespace {
	h.t.Helper()
	var ns *Namespace
	must(h.t, h.Do(func() (err error) {
		ns, err = OpenPath(c.Path())
		return err
	}))
	h.t.Cleanup(func() { ns.Close() })
	return ns
}

// options are for a container of the lab, whose name is its key.
func options(c *lab.Namespace, addrs ...string) Options {
	o := Options{Bridge: bridge, Key: c.Name}
	for _, a := range addrs {
		o.Addresses = append(o.Addresses, netip.MustParsePrefix(a))
	}
	return o
}

func (h host) attach(c *lab.Namespace, o Options) (i Interface, err error) {
	h.t.Helper()
	ns := h.open(c)
	err = h.Do(func() (err error) {
		i, err = Attach(ns, o)
		return err
	})
	return i, err
}

// attached is attach that works.
func (h host) attached(c *lab.Namespace, addrs ...string) Interface {
	h.t.Helper()
	i, err := h.attach(c, options(c, addrs...))
	must(h.t, err)
	return i
}

func (h host) detach(c *lab.Namespace, addrs ...string) (left []netip.Prefix, err error) {
	h.t.Helper()
	ns := h.open(c)
	err = h.Do(func() (err error) {
		left, err = Detach(ns, options(c, addrs...))
		return err
	})
	return left, err
}

func (h host) inspect(c *lab.Namespace) (i Interface, ok bool) {
	h.t.Helper()
	ns := h.open(c)
	must(h.t, h.Do(func() (err error) {
		i, ok, err = Inspect(ns, "")
		return err
	}))
	return i, ok
}

func (h host) leftovers() (out []Leftover) {
	h.t.Helper()
	must(h.t, h.Do(func() (err error) {
		out, err = Leftovers(bridge)
		return err
	}))
	return out
}

func (h host) remove(key string) error { return h.Do(func() error { return Remove(key) }) }

// wantLinks checks the names of all devices.
func wantLinks(t *testing.T, n *lab.Namespace, want ...string) {
	t.Helper()
	got, err := n.Links()
	must(t, err)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("devices of %s = %v, want %v", n.Name, got, want)
	}
}

// routes is what `ip route` says in a container, a route a line.
func routes(t *testing.T, n *lab.Namespace, family string) []string {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs iproute2's ip")
	}
	out, err := exec.Command("ip", family, "-n", n.Name, "route", "show").CombinedOutput()
	if err != nil {
		t.Fatalf("ip route: %v: %s", err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return lines
}

// setting reads a file below /proc/sys/net of a container.
func setting(t *testing.T, n *lab.Namespace, name string) string {
	t.Helper()
	var b []byte
	must(t, n.Do(func() (err error) {
		b, err = os.ReadFile(filepath.Join("/proc/sys/net", name))
		return err
	}))
	return string(bytes.TrimSpace(b))
}

// aliasOf is the alias of a device.
func aliasOf(t *testing.T, n *lab.Namespace, device string) (alias string) {
	t.Helper()
	must(t, n.Do(func() error {
		l, err := netlink.LinkByName(device)
		if err == nil {
			alias = l.Attrs().Alias
		}
		return err
	}))
	return alias
}

// sleeper starts a program in a container that does nothing.
func sleeper(t *testing.T, c *lab.Namespace) *lab.Process {
	t.Helper()
	p, err := c.Start(lab.Command{Path: "/bin/sleep", Args: []string{"600"}})
	must(t, err)
	return p
}

func ping(t *testing.T, from *lab.Namespace, to string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := from.PingOnce(ctx, netip.MustParseAddr(to)); err != nil {
		t.Errorf("ping %s from %s: %v", to, from.Name, err)
	}
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for: %s", what)
		}
	}
}

// unmount ends the namespace's file, as an engine does when a container ends.
func unmount(t *testing.T, n *lab.Namespace) {
	t.Helper()
	must(t, unix.Unmount(n.Path(), unix.MNT_DETACH))
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
