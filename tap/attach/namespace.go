package attach

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

// Namespace is the network namespace of a container. As long as it is open the
// namespace exists, even if all its processes have ended. Its methods may be called
// concurrently.
type Namespace struct {
	net  *netns.Namespace // nil: not open
	name string           // for people
	dir  int              // what path is relative to
	path string
}

// OpenPID opens the network namespace of a process. proc is where the procfs is
// mounted that knows the process by this id, empty for /proc. Errors wrap ErrEnded
// where there is no such process, and ErrHostNetwork where the namespace is that of
// the calling thread.
func OpenPID(proc string, pid int) (*Namespace, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("process %d: %w", pid, ErrEnded) // what engines give for stopped containers
	}
	if proc == "" {
		proc = "/proc"
	}
	// Of a directory of /proc that is open, the process stays the same one even if
	// its id is given to another.
	dir, err := unix.Open(filepath.Join(proc, strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, explain(err))
	}
	n := &Namespace{name: fmt.Sprintf("process %d", pid), dir: dir, path: "ns/net"}
	return n.open()
}

// OpenPath opens the network namespace that a file stands for, such as
// /run/netns/NAME or /proc/PID/ns/net. Errors are those of OpenPID.
func OpenPath(path string) (*Namespace, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	n := &Namespace{name: path, dir: unix.AT_FDCWD, path: abs}
	return n.open()
}

// open opens the file of a namespace that is filled in, and closes all if it is not
// one that can be attached.
func (n *Namespace) open() (*Namespace, error) {
	// Not blocking, should it be a pipe.
	fd, err := unix.Openat(n.dir, n.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		n.net, err = netns.FromFD(fd)
	}
	if err == nil {
		err = n.refuseOwn()
	}
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("network namespace of %s: %w", n.name, explain(err))
	}
	return n, nil
}

// Close closes the namespace.
func (n *Namespace) Close() error {
	var errs []error
	if n.net != nil {
		errs = append(errs, n.net.Close())
		n.net = nil
	}
	if n.dir >= 0 {
		errs = append(errs, unix.Close(n.dir))
		n.dir = -1
	}
	return errors.Join(errs...)
}

// refuseOwn refuses the namespace of the calling thread.
func (n *Namespace) refuseOwn() error {
	own, err := netns.CurrentID()
	if err == nil && own == n.net.ID() {
		return ErrHostNetwork
	}
	return err
}

// explain makes sentences of what the kernel says of a namespace's file.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, fs.ErrNotExist):
		return ErrEnded
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: meshd needs CAP_SYS_PTRACE and CAP_SYS_ADMIN to enter other containers' networks", err)
	}
	return err
}

// gone returns ErrEnded if the process has ended, or the file now is another
// namespace or none.
func (n *Namespace) gone() error {
	id, err := netns.IDAt(n.dir, n.path)
	if err == nil && id != n.net.ID() {
		return ErrEnded
	}
	return explain(err)
}

// netlink opens a netlink socket in the namespace.
func (n *Namespace) netlink() (nl *netlink.Handle, err error) {
	err = n.do(func() error {
		nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink in the network namespace of %s: %w", n.name, err)
	}
	return nl, nil
}

// do calls f on a thread that is in the namespace. f must not start goroutines that
// rely on it; sockets that it opens stay in the namespace.
func (n *Namespace) do(f func() error) error {
	err := n.net.Do(f)
	if e, ok := errors.AsType[*netns.EnterError](err); ok {
		return fmt.Errorf("enter the network namespace of %s: %w", n.name, explain(e.Err))
	}
	return err
}
