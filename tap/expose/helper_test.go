package expose

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"meshd/internal/lab"
)

func dial(ctx context.Context, from *lab.Namespace, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	return from.Dial(ctx, "tcp", to)
}

// sortedLines makes texts equal that differ in the order of lines only.
func sortedLines(s string) string {
	lines := strings.Split(s, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) string {
	var b strings.Builder
	lines := func(mark, s, other string) {
		there := strings.Split(other, "\n")
		for l := range strings.Lines(s) {
			if !slices.Contains(there, strings.TrimSuffix(l, "\n")) {
				b.WriteString("\n" + mark + strings.TrimSuffix(l, "\n"))
			}
		}
	}
	lines("- ", before, after)
	lines("+ ", after, before)
	if b.Len() == 0 {
		return "only in the order of lines"
	}
	return b.String()
}
