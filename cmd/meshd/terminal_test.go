package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal makes a terminal of so many lines: user is what a person sees,
// program is what a program prints to.
func openTerminal(t *testing.T, lines uint16) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { user.Close() })
	fd := int(user.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	t.Cleanup(func() { program.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: 80}); err != nil {
		t.Fatal(err)
	}
	return user, program
}

// readUntil reads what a person sees until it ends in end.
func readUntil(t *testing.T, user io.Reader, end string) string {
	t.Helper()
	var seen strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(seen.String(), end); {
		if _, err := user.Read(b); err != nil {
			t.Fatalf("after %q: %v", seen.String(), err)
		}
		seen.Write(b)
	}
	return seen.String()
}

func TestLogOnTerminal(t *testing.T) {
	user, program := openTerminal(t, 24)
	newLogger(program, slog.LevelInfo).Info("shown", "peer", testName(1))
	if got := readUntil(t, user, "\n"); !strings.Contains(got, "level=INFO msg=shown peer=02:00:00:00:00:01") {
		t.Errorf("log = %q", got)
	}
}

func TestWatchOnTerminal(t *testing.T) {
	user, program := openTerminal(t, 4)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	n := 0
	go func() {
		ended <- watch(ctx, program, io.Discard, true, func(w io.Writer) error {
			n++
			if n == 2 {
				return errRefused
			}
			_, err := fmt.Fprint(w, "1\n2\n3\n4\n")
			return err
		})
	}()
	const full = "\x1b[H1\x1b[K\r\n2\x1b[K\r\n... 2 more lines\x1b[K\r\n\x1b[J"
	if got := readUntil(t, user, "\x1b[J"); got != full {
		t.Errorf("first screen = %q, want %q", got, full)
	}
	if got, want := readUntil(t, user, "\x1b[J"), "\x1b[Hmeshd: refused for a test\x1b[K\r\n\x1b[J"; got != want {
		t.Errorf("second screen = %q, want %q", got, want)
	}
	if got := readUntil(t, user, "\x1b[J"); got != full {
		t.Errorf("third screen = %q, want %q", got, full)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("watch = %v", err)
	}
}
