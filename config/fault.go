package config

import (
	"fmt"
	"strconv"
	"strings"
)

// FieldError is one thing that is wrong with one setting. Load joins all of
// them; errors.Join's Unwrap() []error or errors.AsType gets at them.
type FieldError struct {
	Origin  string // the file, the environment variable or the flag
	Line    int    // in the file; 0: unknown
	Field   string // the key, such as "bridge.mtu" or "peers[2]"; empty: the whole file
	Value   string // as it was given; empty: none to show
	Problem string // what is wrong, continuing the value: "is not a number"
	Remedy  string // what to do; may be empty
}

// Error is one line: origin:line: field: value problem (remedy).
func (e *FieldError) Error() string {
	var b strings.Builder
	b.WriteString(e.Origin)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Origin != "" {
		b.WriteString(": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	if e.Value != "" {
		b.WriteString(quoteShort(e.Value) + " ")
	}
	b.WriteString(e.Problem)
	if e.Remedy != "" {
		b.WriteString(" (" + e.Remedy + ")")
	}
	return b.String()
}

// fault makes the part of a FieldError that a check knows.
func fault(value, problem, remedy string) *FieldError {
	return &FieldError{Value: value, Problem: problem, Remedy: remedy}
}

// quoteShort quotes what an operator wrote, at most 64 bytes of it.
func quoteShort(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
