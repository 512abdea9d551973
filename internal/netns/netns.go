// Package netns runs code in network namespaces. A namespace is a thread's, and
// goroutines change threads: what is done to a thread here, it takes to its end.
package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// own is the calling thread's network namespace.
const own = "/proc/thread-self/ns/net"

// ErrKind says that a file is no network namespace.
var ErrKind = errors.New("the file is not a network namespace")

// EnterError says that a namespace could not be entered: nothing was done there.
type EnterError struct{ Err error }

func (e *EnterError) Error() string { return fmt.Sprintf("enter the network namespace: %v", e.Err) }
func (e *EnterError) Unwrap() error { return e.Err }

// ID tells namespaces apart: the device and inode number of their file. That of a
// namespace which is gone may be given to another.
type ID struct{ Dev, Ino uint64 }

// Namespace is a network namespace that is open: it exists even if all its processes have
// ended. Its methods may be called concurrently, but for Close.
type Namespace struct {
	fd int
	id ID
}

// Current opens the namespace of the calling thread.
func Current() (*Namespace, error) {
	n, err := Open(own)
	if err != nil {
		return nil, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	return n, nil
}

// Open opens the namespace that a file stands for, such as /run/netns/NAME or
// /proc/PID/ns/net. Errors wrap ErrKind where it is none.
func Open(path string) (*Namespace, error) {
	// Not blocking, should it be a pipe.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return FromFD(fd)
}

// FromFD takes over the open file of a namespace, and closes it on error.
func FromFD(fd int) (*Namespace, error) {
	typ, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	var s unix.Stat_t
	if err != nil || typ != unix.CLONE_NEWNET {
		err = ErrKind
	} else if err = unix.Fstat(fd, &s); err != nil {
		err = os.NewSyscallError("fstat", err)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &Namespace{fd: fd, id: idOf(&s)}, nil
}

// ID tells which namespace it is.
func (n *Namespace) ID() ID { return n.id }

// FD is the open file, for the kernel's interfaces that take one; -1 after Close. It stays
// n's.
func (n *Namespace) FD() int { return n.fd }

// Close closes the namespace. After it nothing is done there: Do, and Close again, are
// errors that wrap EBADF.
func (n *Namespace) Close() error {
	fd := n.fd
	n.fd = -1 // the next file that is opened gets the same number
	return os.NewSyscallError("close", unix.Close(fd))
}

// CurrentID tells which namespace the calling thread is in.
func CurrentID() (ID, error) { return IDAt(unix.AT_FDCWD, own) }

// IDAt tells which namespace a file stands for, as openat(2) finds it. Errors are the
// kernel's.
func IDAt(dir int, path string) (ID, error) {
	var s unix.Stat_t
	err := unix.Fstatat(dir, path, &s, 0)
	return idOf(&s), err
}

func idOf(s *unix.Stat_t) ID { return ID{Dev: s.Dev, Ino: s.Ino} }

// Do calls f on a thread that is in the namespace, and returns what it returns, or an
// *EnterError. f must not start goroutines that rely on it; sockets that it opens stay
// in the namespace. Where that is the process's own, no privilege is needed.
func (n *Namespace) Do(f func() error) error {
	return OnOwnThread(func() error {
		if here, err := CurrentID(); err != nil || here != n.id || n.fd < 0 {
			if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
				return &EnterError{err}
			}
		}
		return f()
	})
}

// OnOwnThread calls f on an OS thread that ends afterwards, so that whatever f does to
// it stays without consequence. A panic of f comes out of the call.
func OnOwnThread(f func() error) error {
	type outcome struct {
		err      error
		panicked any
	}
	done := make(chan outcome, 1) // one send
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		var o outcome
		defer func() { o.panicked = recover(); done <- o }()
		if unix.Gettid() == os.Getpid() {
			// The first thread stands for the process in /proc and cannot end:
			// leave it as it is. It is ours meanwhile, so the next is another.
			defer runtime.UnlockOSThread()
			o.err = OnOwnThread(f)
			return
		}
		o.err = f()
	}()
	o := <-done
	if o.panicked != nil {
		panic(o.panicked)
	}
	return o.err
}
