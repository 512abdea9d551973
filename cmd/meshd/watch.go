package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const watchInterval = time.Second

// watch prints again every second until ctx is done, then returns nil: on a
// terminal over what was there, elsewhere one block after another, apart by an
// empty line if blocks is set. The first print must work; later ones may fail for
// a while, as when the daemon is restarted.
func watch(ctx context.Context, out, errs io.Writer, blocks bool, print func(io.Writer) error) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		var block bytes.Buffer
		err := print(&block)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && first:
			return err
		}
		if err := showBlock(out, errs, block.Bytes(), err, blocks && !first); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func showBlock(out, errs io.Writer, block []byte, problem error, apart bool) error {
	if isTerminal(out) {
		if problem != nil {
			block = fmt.Appendf(nil, "meshd: %v\n", problem)
		}
		_, err := out.Write(screen(block, size(out)))
		return err
	}
	if problem != nil {
		_, err := fmt.Fprintf(errs, "meshd: %v\n", problem)
		return err
	}
	if apart {
		block = append([]byte("\n"), block...)
	}
	_, err := out.Write(block)
	return err
}

// terminal is a terminal's size in characters; 0: not known.
type terminal struct{ width, height int }

// rows is how many rows a line takes; the terminal wraps it. A letter counts as one
// column, an escape sequence does not occur.
func (t terminal) rows(line []byte) int {
	if t.width <= 0 {
		return 1
	}
	return max(1, (utf8.RuneCount(line)+t.width-1)/t.width)
}

// fitting is how many of the lines fit in so many rows.
func (t terminal) fitting(lines [][]byte, rows int) int {
	for i, line := range lines {
		if rows -= t.rows(line); rows < 0 {
			return i
		}
	}
	return len(lines)
}

// screen draws a block from the upper left corner, without clearing first, which
// would flicker. What does not fit the terminal is left out, since it would
// scroll.
func screen(block []byte, t terminal) []byte {
	lines := bytes.Split(bytes.TrimSuffix(block, []byte("\n")), []byte("\n"))
	more := 0
	if t.height > 2 && t.fitting(lines, t.height-1) < len(lines) {
		n := t.fitting(lines, t.height-2)
		more, lines = len(lines)-n, lines[:n]
	}
	out := []byte("\x1b[H")
	for _, line := range lines {
		out = append(out, line...)
		out = append(out, "\x1b[K\n"...)
	}
	if more > 0 {
		out = fmt.Appendf(out, "... %s\x1b[K\n", count(more, "more line"))
	}
	return append(out, "\x1b[J"...)
}

func size(w io.Writer) terminal {
	f, ok := w.(*os.File)
	if !ok {
		return terminal{}
	}
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return terminal{}
	}
	return terminal{width, height}
}

func printJSON(w io.Writer, v any, indent bool) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if indent {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	return nil
}
