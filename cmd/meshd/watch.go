package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

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
		_, err := out.Write(screen(block, height(out)))
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

// screen draws a block from the upper left corner, without clearing first, which
// would flicker. What does not fit the terminal is left out, since it would
// scroll.
func screen(block []byte, height int) []byte {
	lines := bytes.Split(bytes.TrimSuffix(block, []byte("\n")), []byte("\n"))
	more := 0
	if height > 2 && len(lines) > height-1 {
		more = len(lines) - (height - 2)
		lines = lines[:height-2]
	}
	out := []byte("\x1b[H")
	for _, line := range lines {
		out = append(out, line...)
		out = append(out, "\x1b[K\n"...)
	}
	if more > 0 {
		out = fmt.Appendf(out, "... %d more lines\x1b[K\n", more)
	}
	return append(out, "\x1b[J"...)
}

// height is the terminal's number of lines, 0 where it is not known.
func height(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	_, h, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return h
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
