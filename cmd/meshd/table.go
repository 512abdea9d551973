package main

import (
	"io"
	"strings"
	"unicode/utf8"
)

// table aligns rows for a terminal: columns are two spaces apart, figures at the
// right of theirs. A column that is empty in all rows is left out.
type table struct {
	head []string // a '>' in front aligns the column to the right
	rows [][]string
}

func newTable(head ...string) *table { return &table{head: head} }

// row adds a row with a cell per column.
func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// write prints the table. Lines have no trailing space.
func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.head))
	for i := range t.head {
		for _, r := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(r[i]))
		}
		if widths[i] > 0 || len(t.rows) == 0 {
			widths[i] = max(widths[i], len(strings.TrimPrefix(t.head[i], ">")))
		}
	}
	var b strings.Builder
	titles := make([]string, len(t.head))
	for i, h := range t.head {
		titles[i] = strings.TrimPrefix(h, ">")
	}
	for _, r := range append([][]string{titles}, t.rows...) {
		var line strings.Builder
		for i, cell := range r {
			if widths[i] == 0 {
				continue
			}
			if line.Len() > 0 {
				line.WriteString("  ")
			}
			fill := strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell)))
			if strings.HasPrefix(t.head[i], ">") {
				line.WriteString(fill + cell)
			} else {
				line.WriteString(cell + fill)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
