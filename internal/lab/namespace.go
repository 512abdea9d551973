package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

// Namespace is one network namespace. Its methods may be called concurrently.
type Namespace struct {
	// Name is its file name in /run/netns, the lab's prefix included.
	Name string

	net *netns.Namespace
	nl  *netlink.Handle

	mu      sync.Mutex // guards what follows
	procs   []*Process
	closers []io.Closer // sockets and servers of this process inside
}

// baseSysctls make a namespace the same whatever the machine's own settings
// are: new ones inherit some of them.
var baseSysctls = [][2]string{
	{"net.ipv4.ip_forward", "0"},
	{"net.ipv6.conf.all.forwarding", "0"},
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
	{"net.ipv4.ping_group_range", "1\t0"},
	// An address is of use at once, not after a second of duplicate detection.
	{"net.ipv6.conf.all.accept_dad", "0"},
	{"net.ipv6.conf.default.accept_dad", "0"},
	{"net.ipv6.conf.default.router_solicitations", "0"},
	{"net.ipv4.icmp_ratelimit", "0"},
}

func newNamespace(name string) (*Namespace, error) {
	if err := mount(name); err != nil {
		return nil, err
	}
	n, err := open(name)
	if err != nil {
		return nil, errors.Join(err, removeNamespace(nsPath(name)))
	}
	if err := n.setUp(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// mount makes a namespace and mounts it in netnsDir.
func mount(name string) error {
	return netns.OnOwnThread(func() error {
		if err := os.MkdirAll(netnsDir, 0o755); err != nil {
			return err
		}
		path := nsPath(name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return errors.Join(fmt.Errorf("unshare: %w", err), os.Remove(path))
		}
		own := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return errors.Join(fmt.Errorf("mount %s: %w", path, err), os.Remove(path))
		}
		return nil
	})
}

func open(name string) (*Namespace, error) {
	net, err := netns.Open(nsPath(name))
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	n := &Namespace{Name: name, net: net}
	err = n.Do(func() error {
		n.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		net.Close()
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return n, nil
}

func (n *Namespace) setUp() error {
	for _, s := range baseSysctls {
		// A kernel without IPv6 or without one of them is no reason to stop.
		if err := n.Sysctl(s[0], s[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return n.Up("lo")
}

func nsPath(name string) string { return filepath.Join(netnsDir, name) }

// Path is the file that the namespace is mounted at, for nsenter --net=….
func (n *Namespace) Path() string { return nsPath(n.Name) }

// Do calls f on a thread that is in the namespace. f must not start goroutines
// that rely on it; sockets that f opens stay in the namespace.
func (n *Namespace) Do(f func() error) error {
	err := n.net.Do(f)
	if e, ok := errors.AsType[*netns.EnterError](err); ok {
		return fmt.Errorf("enter %s: %w", n.Name, e.Err)
	}
	return err
}

// Sysctl sets a kernel setting, named with dots, of the namespace.
func (n *Namespace) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	return n.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
}

// adopt closes c with the namespace.
func (n *Namespace) adopt(c io.Closer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closers = append(n.closers, c)
}

// endProcesses kills what Start started.
func (n *Namespace) endProcesses() error {
	n.mu.Lock()
	procs := n.procs
	n.procs = nil
	n.mu.Unlock()
	var errs []error
	for _, p := range procs {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

func (n *Namespace) close() error {
	err := n.endProcesses()
	n.letGo()
	return errors.Join(err, removeNamespace(n.Path()))
}

// letGo closes what this process has open of the namespace.
func (n *Namespace) letGo() {
	n.mu.Lock()
	closers := n.closers
	n.closers = nil
	n.mu.Unlock()
	for _, c := range closers {
		c.Close() // its user may have closed it before
	}
	n.nl.Close()
	n.net.Close()
}
