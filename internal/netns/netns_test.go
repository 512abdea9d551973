package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unprivileged is set in the process of TestDoWithoutPrivileges, to the descriptor of
// another namespace.
const unprivileged = "MESHD_NETNS_UNPRIVILEGED"

// other makes a namespace.
func other(t *testing.T) *Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	var n *Namespace
	must(t, OnOwnThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n, err = Current()
		}
		return err
	}))
	t.Cleanup(func() { n.Close() })
	return n
}

func current(t *testing.T) ID {
	t.Helper()
	id, err := CurrentID()
	must(t, err)
	return id
}

func TestDo(t *testing.T) {
	n, here := other(t), current(t)
	if n.ID() == here {
		t.Fatalf("the other namespace is this one, %v", here)
	}
	var l net.Listener
	tid := 0
	must(t, n.Do(func() (err error) {
		tid = unix.Gettid()
		if id, err := CurrentID(); err != nil || id != n.ID() {
			t.Errorf("inside it is %v, %v, want %v", id, err, n.ID())
		}
		if l, err = net.Listen("tcp", ":0"); err != nil {
			return err
		}
		return n.Do(func() error { return nil }) // in each other
	}))
	defer l.Close()
	if got := current(t); got != here {
		t.Errorf("afterwards it is %v, want %v", got, here)
	}
	if conn, err := net.DialTimeout("tcp", l.Addr().String(), time.Second); err == nil {
		conn.Close()
		t.Error("the socket is in this namespace")
	}
	wantEnded(t, tid)
	want := errors.New("of f")
	if err := n.Do(func() error { return want }); err != want {
		t.Errorf("Do = %v, want %v", err, want)
	}
}

// wantEnded waits until a thread has gone.
func wantEnded(t *testing.T, tid int) {
	t.Helper()
	task := filepath.Join("/proc/self/task", strconv.Itoa(tid))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(task); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("thread %d goes on", tid)
		}
	}
}

// TestThreadsStayClean: whatever many calls at once did, no goroutine gets a thread
// that is elsewhere, and the process's first thread was not touched.
func TestThreadsStayClean(t *testing.T) {
	n, here := other(t), current(t)
	const many = 64
	var wg sync.WaitGroup
	for range many {
		wg.Go(func() {
			err := n.Do(func() error {
				if unix.Gettid() == os.Getpid() {
					t.Error("f runs on the first thread")
				}
				return unix.Unshare(unix.CLONE_NEWNET) // so that the way back is lost
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	leave := make(chan struct{}) // closed once all threads are looked at
	var looked, left sync.WaitGroup
	looked.Add(many)
	for range many {
		left.Go(func() { // each on another thread, as all hold theirs
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if id, err := CurrentID(); err != nil || id != here {
				t.Errorf("a thread is in %v, %v, want %v", id, err, here)
			}
			looked.Done()
			<-leave
		})
	}
	looked.Wait()
	close(leave)
	left.Wait()
	if id, err := IDAt(unix.AT_FDCWD, "/proc/self/ns/net"); err != nil || id != here {
		t.Errorf("the process is in %v, %v, want %v", id, err, here)
	}
}

func TestPanic(t *testing.T) {
	defer func() {
		if got := recover(); got != "of f" {
			t.Errorf("panic %v, want that of f", got)
		}
	}()
	OnOwnThread(func() error { panic("of f") })
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, unix.Mkfifo(file+"2", 0o600))
	for path, want := range map[string]error{
		file: ErrKind, file + "2": ErrKind, "/proc/self/ns/mnt": ErrKind, "/proc": ErrKind, file + "3": fs.ErrNotExist,
	} {
		if n, err := Open(path); !errors.Is(err, want) {
			t.Errorf("Open(%s) = %v, %v, want %v", path, n, err, want)
		}
	}
}

// TestClosed: the number of a closed file is the next one's, which may be another
// namespace.
func TestClosed(t *testing.T) {
	n, m := other(t), other(t)
	fd := n.FD()
	must(t, n.Close())
	must(t, unix.Dup3(m.FD(), fd, unix.O_CLOEXEC))
	defer unix.Close(fd)
	err := n.Do(func() error { t.Error("f was called"); return nil })
	if _, ok := errors.AsType[*EnterError](err); !ok || !errors.Is(err, unix.EBADF) {
		t.Errorf("Do = %v, want an EnterError of EBADF", err)
	}
	if err := n.Close(); !errors.Is(err, unix.EBADF) {
		t.Errorf("Close = %v, want EBADF", err)
	}
	var own *Namespace
	must(t, OnOwnThread(func() (err error) { own, err = Current(); return err }))
	must(t, own.Close())
	if err := own.Do(func() error { return nil }); !errors.Is(err, unix.EBADF) {
		t.Errorf("Do in a closed one of its own = %v, want EBADF", err)
	}
}

// TestDoWithoutPrivileges: nobody may enter another namespace, and everybody work in his.
func TestDoWithoutPrivileges(t *testing.T) {
	if fd, err := strconv.Atoi(os.Getenv(unprivileged)); err == nil {
		n, err := Current()
		must(t, err)
		must(t, n.Do(func() error { return nil }))
		there, err := FromFD(fd)
		must(t, err)
		err = there.Do(func() error { t.Error("f was called"); return nil })
		if _, ok := errors.AsType[*EnterError](err); !ok || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Do elsewhere = %v, want an EnterError of permission", err)
		}
		return
	}
	n := other(t)
	exe, err := os.Executable()
	must(t, err)
	self, err := os.ReadFile(exe)
	must(t, err)
	copied := filepath.Join("/dev/shm", fmt.Sprintf("meshd-netns-%d", os.Getpid())) // nobody cannot read ours
	must(t, os.WriteFile(copied, self, 0o755))
	defer os.Remove(copied)
	fd, err := unix.Dup(n.FD())
	must(t, err)
	file := os.NewFile(uintptr(fd), "namespace")
	defer file.Close()
	cmd := exec.Command(copied, "-test.run=^TestDoWithoutPrivileges$", "-test.v")
	cmd.Env = append(os.Environ(), unprivileged+"=3")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
