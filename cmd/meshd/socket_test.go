package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// shortDir is a directory whose name leaves room for a socket's: t.TempDir may be
// longer than a socket's path may be.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "meshd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// startServer serves d on a socket until the test ends.
func startServer(t *testing.T, d Daemon) (path string) {
	t.Helper()
	path = filepath.Join(shortDir(t), "meshd.sock")
	s, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	serveUntilEnd(t, s, newAPI(d, discard()).local())
	return path
}

func serveUntilEnd(t *testing.T, l net.Listener, h http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, h, discard()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestSocketModeAndDirectory(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			dir := filepath.Join(shortDir(t), "a")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			old := syscall.Umask(umask)
			s, err := listenSocket(filepath.Join(dir, "meshd.sock"))
			syscall.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			info, err := os.Stat(s.path)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode(); got != os.ModeSocket|0o660 {
				t.Errorf("mode = %v, want a socket with 0660", got)
			}
		})
	}
	s, err := listenSocket(filepath.Join(shortDir(t), "made", "here", "meshd.sock"))
	if err != nil {
		t.Fatalf("with a directory that is not there: %v", err)
	}
	s.Close()
}

func TestSocketIsRemoved(t *testing.T) {
	path := filepath.Join(shortDir(t), "meshd.sock")
	s, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestSocketOfAnotherIsNotRemoved(t *testing.T) {
	path := filepath.Join(shortDir(t), "meshd.sock")
	first, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // as an operator may
		t.Fatal(err)
	}
	second, err := listenSocket(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	first.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("closing the first removed the second's socket: %v", err)
	}
}

func TestStaleSocketIsTakenOver(t *testing.T) {
	path := filepath.Join(shortDir(t), "meshd.sock")
	leaveStale(t, path)
	s, err := listenSocket(path)
	if err != nil {
		t.Fatalf("listenSocket = %v", err)
	}
	defer s.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// leaveStale leaves a socket as a killed daemon does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestLiveSocketIsRefused(t *testing.T) {
	path := startServer(t, newFakeDaemon(healthyReport()))
	_, err := listenSocket(path)
	if err == nil {
		t.Fatal("two daemons listen on one socket")
	}
	for _, want := range []string{path, fmt.Sprintf("(pid %d)", os.Getpid()), "another meshd"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	if _, err := newClient(path).status(t.Context()); err != nil {
		t.Errorf("the first daemon no longer answers: %v", err)
	}
}

func TestOnlySocketsAreRemoved(t *testing.T) {
	path := filepath.Join(shortDir(t), "meshd.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(path); err == nil || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("listenSocket on a file = %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "precious" {
		t.Errorf("the file is now %q", got)
	}
}

// Many daemons that start at once over one stale socket: one gets it, and it
// stays with that one.
func TestStaleSocketRace(t *testing.T) {
	path := filepath.Join(shortDir(t), "meshd.sock")
	leaveStale(t, path)
	const daemons = 8
	won := make(chan *socket, daemons) // one send each, nil for a loser
	var wg sync.WaitGroup
	for range daemons {
		wg.Go(func() {
			s, err := listenSocket(path)
			if err != nil {
				s = nil
			}
			won <- s
		})
	}
	wg.Wait()
	close(won)
	var winners []*socket
	for s := range won {
		if s != nil {
			winners = append(winners, s)
			t.Cleanup(func() { s.Close() })
		}
	}
	if len(winners) != 1 {
		t.Fatalf("%d of %d daemons have the socket, want 1", len(winners), daemons)
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(now, winners[0].file) {
		t.Errorf("the socket is not the winner's: %v", err)
	}
}

func TestSocketLockIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lock that is not given back")
	}
	dir := shortDir(t)
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := listenSocket(filepath.Join(dir, "meshd.sock")); err == nil || !strings.Contains(err.Error(), "lock the directory") {
		t.Errorf("listenSocket = %v, want an error about the lock", err)
	}
}

func TestPeerPIDOfOtherConnections(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if pid := peerPID(a); pid != 0 {
		t.Errorf("peerPID of a pipe = %d", pid)
	}
}

func TestLimitListener(t *testing.T) {
	inner, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	const limit = 2
	l := newLimitListener(inner, limit)
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn
		}
	}()
	for range limit + 1 {
		c, err := net.Dial("unix", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, second := <-accepted, <-accepted
	defer second.Close()
	// The listener holds no third connection: its slots are taken.
	if got := len(l.slots); got != limit {
		t.Errorf("%d slots taken, want %d", got, limit)
	}
	select {
	case <-accepted:
		t.Fatal("a connection beyond the limit was accepted")
	default:
	}
	first.Close()
	first.Close() // a second Close gives no second slot
	third := <-accepted
	defer third.Close()
	// Accept waits for a slot now; Close ends it.
	l.Close()
	if err := <-ended; err == nil {
		t.Error("Accept after Close = nil")
	}
}
