package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// watchFor runs watch for a while; print is told how often it was called before.
func watchFor(t *testing.T, d time.Duration, blocks bool, print func(n int, w io.Writer) error) (out, errs string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var o, e bytes.Buffer
		n := 0
		err = watch(ctx, &o, &e, blocks, func(w io.Writer) error {
			n++
			return print(n-1, w)
		})
		out, errs = o.String(), e.String()
	})
	return out, errs, err
}

func TestWatchAppendsBlocks(t *testing.T) {
	print := func(n int, w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d\n", n)
		return err
	}
	out, _, err := watchFor(t, 2500*time.Millisecond, true, print)
	if out != "0\n\n1\n\n2\n" || err != nil {
		t.Errorf("watch = %q, %v", out, err)
	}
	out, _, err = watchFor(t, 2500*time.Millisecond, false, print)
	if out != "0\n1\n2\n" || err != nil {
		t.Errorf("watch without blocks = %q, %v", out, err)
	}
}

func TestWatchFirstFault(t *testing.T) {
	_, _, err := watchFor(t, time.Minute, true, func(int, io.Writer) error { return errRefused })
	if !errors.Is(err, errRefused) {
		t.Errorf("watch = %v", err)
	}
}

func TestWatchSurvivesRestart(t *testing.T) {
	out, errs, err := watchFor(t, 3500*time.Millisecond, true, func(n int, w io.Writer) error {
		if n == 1 {
			return errRefused
		}
		_, err := fmt.Fprintf(w, "%d\n", n)
		return err
	})
	if out != "0\n\n2\n\n3\n" || errs != "meshd: refused for a test\n" || err != nil {
		t.Errorf("watch = %q, %q, %v", out, errs, err)
	}
}

func TestWatchEndsWhereNobodyReads(t *testing.T) {
	err := watch(t.Context(), failingWriter{}, io.Discard, true, func(w io.Writer) error {
		_, err := io.WriteString(w, "x\n")
		return err
	})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("watch = %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestScreen(t *testing.T) {
	tests := []struct {
		name  string
		block string
		size  terminal
		want  string
	}{
		{"fits", "a\nb\n", terminal{80, 24}, "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J"},
		{"just fits", "a\nb\nc\n", terminal{80, 4}, "\x1b[Ha\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J"},
		{"too high", "a\nb\nc\nd\n", terminal{80, 4}, "\x1b[Ha\x1b[K\nb\x1b[K\n... 2 more lines\x1b[K\n\x1b[J"},
		{"unknown height", strings.Repeat("a\n", 3), terminal{}, "\x1b[Ha\x1b[K\na\x1b[K\na\x1b[K\n\x1b[J"},
		{"wraps and fits", "aéa\nb\n", terminal{2, 4}, "\x1b[Haéa\x1b[K\nb\x1b[K\n\x1b[J"},
		{"wraps and is too high", "aaaaa\nb\nc\n", terminal{2, 5}, "\x1b[Haaaaa\x1b[K\n... 2 more lines\x1b[K\n\x1b[J"},
		{"one line is too long", "aaaaaaaaa\n", terminal{2, 4}, "\x1b[H... 1 more line\x1b[K\n\x1b[J"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := string(screen([]byte(tt.block), tt.size))
			if got != tt.want {
				t.Errorf("screen = %q, want %q", got, tt.want)
			}
			if lines := strings.Count(got, "\n"); tt.size.height > 0 && lines >= tt.size.height {
				t.Errorf("%d lines scroll a terminal of %d", lines, tt.size.height)
			}
		})
	}
}
