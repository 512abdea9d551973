package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// procfs is where the host's processes are seen, such as /proc.
type procfs string

func (p procfs) of(pid int, file string) string {
	return filepath.Join(string(p), strconv.Itoa(pid), file)
}

// netns is the path of a process's network namespace.
func (p procfs) netns(pid int) string { return p.of(pid, "ns/net") }

// stat reads a process's state and when it started, in ticks since the host did.
// proc(5), /proc/pid/stat: "pid (name) state ...", the start is field 22.
func (p procfs) stat(pid int) (state byte, start string, err error) {
	data, err := readSome(p.of(pid, "stat"), 4096)
	if err != nil {
		return 0, "", err
	}
	// The name may have anything in it, closing brackets too.
	_, rest, ok := cutLast(string(data), ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || len(fields[0]) != 1 {
		return 0, "", fmt.Errorf("%s is not as proc(5) says", p.of(pid, "stat"))
	}
	return fields[0][0], fields[19], nil
}

// alive reports whether a process runs. One that has ended, and that nobody has waited
// for, has no namespace any more.
func (p procfs) alive(pid int) bool {
	state, _, err := p.stat(pid)
	return err == nil && state != 'Z' && state != 'X'
}

// birth tells a process from all others that have or had its number, before the host
// restarted too.
func (p procfs) birth(pid int) (string, error) {
	_, start, err := p.stat(pid)
	if err != nil {
		return "", err
	}
	boot, err := readSome(filepath.Join(string(p), "sys/kernel/random/boot_id"), 64)
	if err != nil {
		return "", err
	}
	boot = bytes.TrimSpace(boot)
	return start + "." + string(boot[:min(8, len(boot))]), nil
}

// process finds a process by its number.
func (p procfs) process(ref reference) (Container, error) {
	birth, err := p.birth(ref.pid)
	gone := err != nil && errors.Is(err, fs.ErrNotExist) || err == nil && !p.alive(ref.pid)
	switch {
	case ref.birth != "" && (gone || err == nil && birth != ref.birth):
		return Container{}, fault(ErrGone, "process %d has ended", ref.pid)
	case gone:
		return Container{}, fault(ErrUnknown, "there is no process %d: it may have ended, or be one of another PID namespace", ref.pid)
	case err != nil:
		return Container{}, fmt.Errorf("look at process %d: %w", ref.pid, err)
	}
	return Container{
		Engine: "pid", ID: fmt.Sprintf("%d@%s", ref.pid, birth), Name: strconv.Itoa(ref.pid),
		PID: ref.pid, Running: true,
	}, nil
}

// namespace finds a network namespace by its path.
func (p procfs) namespace(ref reference) (Container, error) {
	// One way to write it, so that callers can compare; the last element stays, as it
	// may be a link that is to be followed anew each time.
	path := ref.path
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	err := checkNetNS(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && ref.name != "":
		return Container{}, fault(ErrUnknown, "there is no network namespace %s: `ip netns` lists those with a name", quote(ref.name))
	case errors.Is(err, fs.ErrNotExist):
		return Container{}, fault(ErrUnknown, "there is no network namespace at %s: see how the path is spelled", quote(path))
	case errors.Is(err, errNotNetNS):
		return Container{}, fault(ErrBadName, "%s is not a network namespace: name one, such as /run/netns/foo or /proc/1234/ns/net", quote(path))
	case err != nil:
		return Container{}, fmt.Errorf("look at network namespace %s: %w", quote(path), err)
	}
	name := ref.name
	if filepath.Dir(path) == "/run/netns" {
		name = filepath.Base(path)
	}
	return Container{NetNS: path, Name: name, Running: true}, nil
}

// nsGetType asks for the kind of a namespace; ioctl_nsfs(2), NS_GET_NSTYPE.
const nsGetType = 0xb703

var errNotNetNS = errors.New("not a network namespace")

// checkNetNS says whether there is a network namespace at path. Nothing is opened
// before it is known what it is: opening a device or a pipe can do things, or wait.
func checkNetNS(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if st.Type != unix.NSFS_MAGIC {
		return errNotNetNS
	}
	ns, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(ns)
	kind, err := unix.IoctlRetInt(ns, nsGetType)
	if err != nil {
		return fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return errNotNetNS
	}
	return nil
}

// hostNetwork reports whether a container is on the host's network: by the engine's word,
// or because it is in the network namespace of this thread.
func (p procfs) hostNetwork(c Container) bool {
	path := c.NetNS
	if path == "" && c.Running {
		path = p.netns(c.PID)
	}
	var own, its unix.Stat_t
	if c.HostNetwork || path == "" || unix.Stat("/proc/thread-self/ns/net", &own) != nil || unix.Stat(path, &its) != nil {
		return c.HostNetwork
	}
	return own.Dev == its.Dev && own.Ino == its.Ino
}

// readSome reads a file of at most max bytes; more is an error.
func readSome(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s has more than %d bytes", path, max)
	}
	return data, nil
}
