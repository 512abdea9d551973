package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// manager is a service manager's end of the notification socket.
type manager struct{ conn *net.UnixConn }

// newManager listens at an address: a path, or "@..." for an abstract one.
func newManager(t *testing.T, address string) manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return manager{conn}
}

// next is the next message; empty: none came in time.
func (m manager) next(within time.Duration) string {
	m.conn.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 4096)
	n, err := m.conn.Read(b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

func (m manager) want(t *testing.T, pattern string) {
	t.Helper()
	if got := m.next(20 * time.Second); !regexp.MustCompile("^(?s:" + pattern + ")$").MatchString(got) {
		t.Errorf("the manager was told %q, want %q", got, pattern)
	}
}

// notifyAddresses are of the two kinds that there are.
func notifyAddresses(t *testing.T) map[string]string {
	return map[string]string{
		"path":     filepath.Join(shortDir(t), "notify"),
		"abstract": fmt.Sprintf("@meshd-test-notify-%d", os.Getpid()),
	}
}

func TestNotifier(t *testing.T) {
	for name, address := range notifyAddresses(t) {
		t.Run(name, func(t *testing.T) {
			m := newManager(t, address)
			t.Setenv(notifySocketEnv, address)
			t.Setenv(watchdogEnv, "50000")
			t.Setenv(watchdogPIDEnv, fmt.Sprint(os.Getpid()))
			n := newNotifier(discard())
			if n.watchdog != 50*time.Millisecond {
				t.Errorf("watchdog = %v", n.watchdog)
			}
			if os.Getenv(notifySocketEnv)+os.Getenv(watchdogEnv)+os.Getenv(watchdogPIDEnv) != "" {
				t.Error("children would inherit the manager's variables")
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { n.run(ctx, "weave01", func() {}); close(done) }()
			m.want(t, "READY=1\nSTATUS=weave01")
			m.want(t, "WATCHDOG=1")
			m.want(t, "WATCHDOG=1")
			cancel()
			<-done
		})
	}
}

func TestNotifierWithoutManager(t *testing.T) {
	for _, tt := range []struct {
		name, usec, pid string
		want            time.Duration
	}{
		{"none", "", "", 0},
		{"another process's", "1000000", "1", 0},
		{"nonsense", "soon", "", 0},
		{"negative", "-5", "", 0},
		{"of whoever runs", "1000000", "", time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(notifySocketEnv, "")
			t.Setenv(watchdogEnv, tt.usec)
			t.Setenv(watchdogPIDEnv, tt.pid)
			n := newNotifier(discard())
			if n.watchdog != tt.want {
				t.Errorf("watchdog = %v, want %v", n.watchdog, tt.want)
			}
			// Nobody listens: it returns at once and asks nothing.
			n.run(t.Context(), "", func() { t.Error("was asked whether it is alive") })
			n.stopping()
		})
	}
}

// A manager that has gone away does not hurt.
func TestNotifierNobodyListens(t *testing.T) {
	notifier{socket: filepath.Join(t.TempDir(), "gone"), log: discard()}.stopping()
}

// What is stuck gives no sign of life, is not asked again while it is, and gives one at
// once when it is well again.
func TestNotifierStuck(t *testing.T) {
	address := fmt.Sprintf("@meshd-test-stuck-%d", os.Getpid())
	m := newManager(t, address)
	synctest.Test(t, func(t *testing.T) {
		n := notifier{socket: address, watchdog: 20 * time.Second, log: discard()}
		ctx, cancel := context.WithCancel(t.Context())
		var asked atomic.Int32
		stuck := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			n.run(ctx, "", func() {
				if asked.Add(1) == 2 {
					<-stuck
				}
			})
		}()
		time.Sleep(45 * time.Second) // asked at 0, 10 (stuck), 20, 30, 40
		if got := asked.Load(); got != 2 {
			t.Errorf("asked %d times, want 2", got)
		}
		close(stuck)
		time.Sleep(time.Second)
		cancel()
		<-done
	})
	m.want(t, "READY=1.*")
	m.want(t, "WATCHDOG=1")
	if got := m.next(10 * time.Millisecond); got != "" {
		t.Errorf("the manager was told %q beside one sign of life", got)
	}
}

// A whole daemon: ready when it answers, alive, reloading, ready again, stopping. (An
// abstract address would not reach into the network namespace that it has.)
func TestUpNotifies(t *testing.T) {
	address := filepath.Join(shortDir(t), "notify")
	m := newManager(t, address)
	t.Setenv(notifySocketEnv, address)
	t.Setenv(watchdogEnv, "200000")
	file := filepath.Join(t.TempDir(), "meshd.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := startUp(t, "--config", file)
	t.Setenv(socketEnv, p.socket)
	m.want(t, `READY=1\nSTATUS=02:00:00:00:00:01 \(weave01\) on bridge weave`)
	m.want(t, "WATCHDOG=1")
	if _, stderr, code := runCLI(t.Context(), "reload"); code != exitOK {
		t.Fatal(stderr)
	}
	m.wantLater(t, `RELOADING=1\nMONOTONIC_USEC=\d+`)
	m.wantLater(t, `READY=1\nSTATUS=settings read at \d\d:\d\d:\d\d`)
	m.want(t, "WATCHDOG=1")
	if err := os.WriteFile(file, []byte("peeers: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, code := runCLI(t.Context(), "reload"); code != exitFailure {
		t.Error("a bad file was read")
	}
	m.wantLater(t, "RELOADING=1.*")
	m.wantLater(t, `READY=1\nSTATUS=settings of before: .*`)
	if _, stderr, code := runCLI(t.Context(), "down"); code != exitOK {
		t.Fatal(stderr)
	}
	m.wantLater(t, "STOPPING=1.*")
}

// wantLater is want, after signs of life that came before.
func (m manager) wantLater(t *testing.T, pattern string) {
	t.Helper()
	for {
		got := m.next(20 * time.Second)
		if got == "WATCHDOG=1" {
			continue
		}
		if !regexp.MustCompile("^(?s:" + pattern + ")$").MatchString(got) {
			t.Errorf("the manager was told %q, want %q", got, pattern)
		}
		return
	}
}
