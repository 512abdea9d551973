package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// printer writes the story: plain text, some colour on a terminal.
type printer struct {
	out   io.Writer
	color bool
	start time.Time
}

// The escape sequences of ECMA-48, section 8.3.117.
const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

func (p *printer) paint(code, s string) string {
	if !p.color {
		return s
	}
	return code + s + plain
}

// title begins a step.
func (p *printer) title(n, of int, s string) {
	fmt.Fprintf(p.out, "\n%s %s\n", p.paint(bold, fmt.Sprintf("[%d/%d]", n, of)), p.paint(bold, s))
}

// heading begins what is not a step.
func (p *printer) heading(s string) { fmt.Fprintf(p.out, "\n%s\n", p.paint(bold, s)) }

// text writes indented lines.
func (p *printer) text(lines ...string) {
	for _, line := range lines {
		fmt.Fprintln(p.out, strings.TrimRight("  "+line, " "))
	}
}

// ok says what a step has shown.
func (p *printer) ok(s string) { fmt.Fprintf(p.out, "  %s %s\n", p.paint(green, "ok"), s) }

// bad says what went wrong.
func (p *printer) bad(s string) { fmt.Fprintf(p.out, "  %s %s\n", p.paint(red, "!!"), s) }

// elapsed is how long the story has taken.
func (p *printer) elapsed() time.Duration { return time.Since(p.start) }
