package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Each of these is one sentence that names the socket and what to do.
func TestClientFaults(t *testing.T) {
	tests := []struct {
		name  string
		setup func(t *testing.T, path string)
		want  []string
	}{
		{"no socket", func(*testing.T, string) {}, []string{"no meshd is running here", "does not exist", "`meshd up`", "--socket"}},
		{"daemon died", leaveStale, []string{"no meshd is running here", "nobody listens", "`meshd up`"}},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"is not a socket", "--socket"}},
		{"a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, []string{"is not a socket", "--socket"}},
		{"another program that speaks HTTP", func(t *testing.T, path string) {
			serveUntilEnd(t, listenUnix(t, path), http.NotFoundHandler())
		}, []string{"is not meshd", "--socket"}},
		{"another program", func(t *testing.T, path string) {
			answerAll(t, path, "220 mail.example.net ESMTP\r\n")
		}, []string{"is not meshd", "--socket"}},
		{"a program that hangs up", func(t *testing.T, path string) {
			answerAll(t, path, "")
		}, []string{"closed the connection without an answer"}},
		{"a daemon that hangs", func(t *testing.T, path string) {
			listenUnix(t, path) // the kernel accepts, nobody answers
		}, []string{"does not answer within", "kill"}},
		{"a newer or older daemon", func(t *testing.T, path string) {
			serveUntilEnd(t, listenUnix(t, path), answerWith(404, ""))
		}, []string{"does not know this command", "v9.9.9"}},
		{"an answer that is cut off", func(t *testing.T, path string) {
			serveUntilEnd(t, listenUnix(t, path), answerWith(200, `{"version":`))
		}, []string{"does not fit this version"}},
		{"an error in words", func(t *testing.T, path string) {
			serveUntilEnd(t, listenUnix(t, path), answerWith(400, "no such thing\n"))
		}, []string{"no such thing"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "meshd.sock")
			tt.setup(t, path)
			c := newClient(path)
			c.timeout = 300 * time.Millisecond
			_, err := c.status(t.Context())
			if err == nil {
				t.Fatal("status = nil")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is not one sentence", err)
			}
		})
	}
}

func TestClientPathTooLong(t *testing.T) {
	_, err := newClient("/tmp/" + strings.Repeat("a", 120)).status(t.Context())
	if err == nil || !strings.Contains(err.Error(), "longer than 107 bytes") {
		t.Errorf("error = %v", err)
	}
}

// A refused permission needs a process without root's rights.
func TestClientPermission(t *testing.T) {
	path := startServer(t, newFakeDaemon(healthyReport()))
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		t.Skip("only root may become another user")
	}
	const group = 65533
	if err := os.Chown(path, 0, group); err != nil {
		t.Fatal(err)
	}
	stderr, code := runAsNobody(t, "status", "--socket", path)
	want := "permission to use " + path + " is refused: run this as root, or join the group"
	if code != exitFailure || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, %q, want %d, %q", code, stderr, exitFailure, want)
	}
}

func TestClientOfCancelledContext(t *testing.T) {
	path := startServer(t, newFakeDaemon(healthyReport()))
	if _, err := newClient(path).status(cancelled(t)); err == nil || err.Error() != "context canceled" {
		t.Errorf("error = %v", err)
	}
}

func listenUnix(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// answerAll sends the same text to all who connect, and closes.
func answerAll(t *testing.T, path, text string) {
	t.Helper()
	l := listenUnix(t, path)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, text)
			// What the client sent is read, so that closing does not reset.
			conn.(*net.UnixConn).CloseWrite()
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// answerWith answers as a meshd of another version.
func answerWith(code int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(apiHeader, "v9.9.9")
		w.WriteHeader(code)
		io.WriteString(w, body)
	})
}
