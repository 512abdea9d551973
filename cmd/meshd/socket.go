package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	socketMode   = 0o660
	probeTimeout = 2 * time.Second // for another daemon's socket, and for the lock
)

// socket is the daemon's unix socket. Close removes its file, unless another
// file has taken the place.
type socket struct {
	*net.UnixListener
	path string
	file fs.FileInfo
}

// listenSocket makes the unix socket at path, and its directory if there is
// none. A socket that nobody listens on is taken over; the error names who
// listens on another.
func listenSocket(path string) (*socket, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the API socket: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearStale(path); err != nil {
		return nil, err
	}
	return bindSocket(path)
}

// lockDir keeps two daemons that start at once from taking over the same stale
// socket. The lock is on the directory, so that no file is left behind.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of the API socket: %w", err)
	}
	for deadline := time.Now().Add(probeTimeout); ; time.Sleep(10 * time.Millisecond) {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { d.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			d.Close()
			return nil, fmt.Errorf("lock the directory %s of the API socket: %w", dir, err)
		}
	}
}

// clearStale removes the socket of a daemon that died. It never removes
// anything but a socket.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the API socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket: remove it, or set api.socket to another path", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		defer conn.Close()
		return fmt.Errorf("another meshd%s listens on %s: stop it with `meshd --socket %s down`, or set api.socket to another path",
			byPID(peerPID(conn)), path, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("find out who listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket of a daemon that died: %w", err)
	}
	return nil
}

func bindSocket(path string) (*socket, error) {
	// A socket's mode before bind is that of its file: nobody else can connect
	// at any moment.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }), err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the API socket: %w", err)
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	// The umask took its bits away.
	if err := os.Chmod(path, socketMode); err != nil {
		ul.Close()
		return nil, fmt.Errorf("set the mode of the API socket: %w", err)
	}
	file, err := os.Lstat(path)
	if err != nil {
		ul.Close()
		return nil, fmt.Errorf("look at the API socket: %w", err)
	}
	return &socket{UnixListener: ul, path: path, file: file}, nil
}

// Close stops listening and removes the file, if it is still ours.
func (s *socket) Close() error {
	err := s.UnixListener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if now, e := os.Lstat(s.path); e == nil && os.SameFile(now, s.file) {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}

// peerPID is the process at the other end of a unix connection, as far as it is
// in our PID namespace; 0: unknown.
func peerPID(conn net.Conn) int {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

func byPID(pid int) string {
	if pid == 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}
