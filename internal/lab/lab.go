package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrInUse says that another process holds a lab with this prefix.
var ErrInUse = errors.New("in use by another process")

// ErrKept says that a lab with this prefix was left up on purpose.
var ErrKept = errors.New("left up on purpose")

// Lab is a set of network namespaces and what runs in them. Its methods may be
// called concurrently.
type Lab struct {
	prefix string
	lock   *lockFile

	mu     sync.Mutex // guards what follows
	spaces []*Namespace
	closed bool
}

// New takes a prefix for a lab, after it has removed what a dead owner left
// under it. The prefix is a file name of at most 40 bytes. Errors wrap ErrInUse
// while the owner lives, ErrKept where a lab was left up with Keep.
func New(prefix string) (*Lab, error) {
	if err := checkName(prefix, 40); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	lock, err := acquire(prefix)
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", prefix, err)
	}
	if lock.kept() {
		lock.release()
		return nil, fmt.Errorf("lab %s: %w", prefix, ErrKept)
	}
	l := &Lab{prefix: prefix, lock: lock}
	if err := removeAll(prefix); err != nil {
		lock.release()
		return nil, fmt.Errorf("remove what an earlier lab %s left: %w", prefix, err)
	}
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		lock.release()
		return nil, err
	}
	return l, nil
}

// Prefix is what the names of all namespaces of the lab begin with, a dash
// between.
func (l *Lab) Prefix() string { return l.prefix }

// Dir is a directory for the lab's files: it is removed with the lab. Its path
// is short, so that a unix socket fits.
func (l *Lab) Dir() string { return filepath.Join(stateDir, l.prefix) }

// Namespace adds a namespace: loopback up, nothing else, not forwarding.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	if err := checkName(name, 40); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock() // held over the making, so that Close misses none
	if l.closed {
		return nil, fmt.Errorf("lab %s is closed", l.prefix)
	}
	n, err := newNamespace(l.prefix + "-" + name)
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, err)
	}
	l.spaces = append(l.spaces, n)
	return n, nil
}

// Close ends every process, closes every socket and removes every namespace and
// file of the lab. It may be called again, and at any moment.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	// All processes first: one that watches its neighbours should not have to
	// log their end.
	for _, n := range l.spaces {
		errs = append(errs, n.endProcesses())
	}
	for _, n := range slices.Backward(l.spaces) {
		errs = append(errs, n.close())
	}
	errs = append(errs, removeAll(l.prefix), l.lock.remove())
	return errors.Join(errs...)
}

// Keep leaves the lab up when this process ends: Remove removes it then. The
// processes of the lab go on, servers inside this process do not. The lab is of
// no use to the caller afterwards.
func (l *Lab) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("lab %s is closed", l.prefix)
	}
	if err := l.lock.keep(); err != nil {
		return err
	}
	l.closed = true
	for _, n := range l.spaces {
		n.letGo()
	}
	return l.lock.release()
}

// Leftovers names what is left of a lab: namespaces, processes in them, files.
// After Close it is empty.
func (l *Lab) Leftovers() []string {
	left := leftovers(l.prefix)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.spaces {
		for _, pid := range processesIn(n.net.ID()) {
			left = append(left, fmt.Sprintf("process %d in %s", pid, n.Name))
		}
	}
	return left
}

// checkName keeps names to what is safe in a path and an interface list.
func checkName(name string, limit int) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	if name == "" || len(name) > limit || strings.Trim(name, allowed) != "" {
		return fmt.Errorf("%q is not a name of 1 to %d letters, digits, - and _", name, limit)
	}
	return nil
}
