package main

import (
	"fmt"
	"slices"
	"strings"
)

// Severity says how bad a problem is.
type Severity string

// The severities, worst first.
const (
	Error   Severity = "error"   // something asked for does not work
	Warning Severity = "warning" // it works, worse or less safely than it could
	Note    Severity = "note"    // good to know
)

// Problem is one thing that an operator should know, in words.
type Problem struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // stable, for scripts
	Text     string   `json:"text"`
}

// findings collects problems.
type findings []Problem

func (f *findings) add(severity Severity, code, format string, args ...any) {
	*f = append(*f, Problem{severity, code, fmt.Sprintf(format, args...)})
}

// problems names what is wrong with s, worst first.
func problems(s *Status, c ConfigReport) []Problem {
	f := findings{}
	f.port(s)
	f.widePorts(s)
	f.weavePort(s)
	f.containers(s)
	f.pending(c)
	f.transports(s)
	f.targets(s)
	f.attempts(s)
	f.neighbours(s)
	f.mesh(s)
	f.relayed(s)
	f.macs(s)
	f.encryption(s, c)
	f.exposure(c)
	rank := map[Severity]int{Error: 0, Warning: 1, Note: 2}
	slices.SortStableFunc(f, func(a, b Problem) int { return rank[a.Severity] - rank[b.Severity] })
	return f
}

// pending reports settings that are in the file and not in force.
func (f *findings) pending(c ConfigReport) {
	if len(c.NeedRestart) > 0 {
		f.add(Warning, "needs-restart", "%s changed in %s and not in force until a restart: %s",
			count(len(c.NeedRestart), "setting"), c.File, strings.Join(c.NeedRestart, "; "))
	}
}
