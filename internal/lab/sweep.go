package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meshd/internal/netns"
)

const (
	// netnsDir is where named namespaces are mounted, iproute2's convention.
	netnsDir = "/run/netns"
	// stateDir holds a lock and a directory per lab.
	stateDir = "/run/meshd-lab"
	lockExt  = ".lock"
	// endTime bounds how long a killed process may take to vanish.
	endTime = 10 * time.Second
)

// Sweep removes the labs whose prefix begins with the given one and whose owner
// died without Close. Labs that are alive or kept stay. It returns the prefixes
// that it removed.
func Sweep(prefix string) ([]string, error) {
	locks, err := filepath.Glob(filepath.Join(stateDir, prefix+"*"+lockExt))
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, path := range locks {
		name := strings.TrimSuffix(filepath.Base(path), lockExt)
		lock, err := acquire(name)
		if err != nil {
			continue // its owner lives
		}
		if lock.kept() {
			lock.release()
			continue
		}
		errs = append(errs, removeAll(name), lock.remove())
		swept = append(swept, name)
	}
	return swept, errors.Join(errs...)
}

// Remove removes the lab with exactly this prefix, kept or left behind, and
// tells whether there was one. The error wraps ErrInUse while its owner lives.
func Remove(prefix string) (bool, error) {
	if err := checkName(prefix, 40); err != nil {
		return false, err
	}
	found := len(leftovers(prefix)) > 0
	lock, err := acquire(prefix)
	if err != nil {
		return false, fmt.Errorf("lab %s: %w", prefix, err)
	}
	return found, errors.Join(removeAll(prefix), lock.remove())
}

// removeAll removes namespaces, their processes and the files of a prefix.
func removeAll(prefix string) error {
	var errs []error
	for _, path := range namespacePaths(prefix) {
		errs = append(errs, removeNamespace(path))
	}
	errs = append(errs, os.RemoveAll(filepath.Join(stateDir, prefix)))
	return errors.Join(errs...)
}

// leftovers names the namespaces and files of a prefix.
func leftovers(prefix string) []string {
	left := namespacePaths(prefix)
	for _, path := range []string{
		filepath.Join(stateDir, prefix), filepath.Join(stateDir, prefix+lockExt),
	} {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	return left
}

func namespacePaths(prefix string) []string {
	paths, err := filepath.Glob(filepath.Join(netnsDir, prefix+"-*"))
	if err != nil {
		return nil // a pattern error: checkName lets no such prefix through
	}
	return paths
}

// removeNamespace ends what runs in the namespace mounted at path and removes
// the mount. The kernel removes the interfaces soon after.
func removeNamespace(path string) error {
	if id, err := idOf(path); err == nil {
		if err := endAll(id); err != nil {
			return err
		}
	}
	// A half-made one is a plain file: unmounting it is EINVAL and no fault.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// idOf tells which namespace a file stands for.
func idOf(path string) (netns.ID, error) {
	id, err := netns.IDAt(unix.AT_FDCWD, path)
	if err != nil {
		return id, fmt.Errorf("stat %s: %w", path, err)
	}
	return id, nil
}

// processesIn lists the processes in a network namespace, ourselves excepted.
func processesIn(id netns.ID) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if got, err := idOf(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && got == id {
			pids = append(pids, pid)
		}
	}
	return pids
}

// endAll kills the processes in a network namespace and waits until they are
// gone. One that we started stays a zombie until its Process has waited for it;
// a zombie has left its namespace.
func endAll(id netns.ID) error {
	deadline := time.Now().Add(endTime)
	for {
		pids := processesIn(id)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			killIn(pid, id)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// killIn kills pid if it is still a process in the namespace: the handle is
// taken before the second look, so a pid that was used anew is not hit.
func killIn(pid int, id netns.ID) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return
	}
	defer p.Release()
	if got, err := idOf(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && got == id {
		p.Kill()
	}
}
