package main

import (
	"io"
	"strings"
	"testing"
)

func TestTexts(t *testing.T) {
	reports := map[string]Report{"healthy": healthyReport(), "broken": brokenReport(), "open": openReport(), "relayed": relayedReport(), "empty": {}}
	views := map[string]func(io.Writer, *Status) error{
		"status":      printStatus,
		"connections": printConnections,
		"macs":        printMACs,
		"routes":      printRoutes,
		"stats":       printStats,
		"transports":  printTransports,
	}
	for reportName, r := range reports {
		s := newStatus(r, now)
		for viewName, print := range views {
			name := reportName + "-" + viewName + ".txt"
			t.Run(name, func(t *testing.T) {
				var out strings.Builder
				if err := print(&out, &s); err != nil {
					t.Fatal(err)
				}
				golden(t, name, out.String())
			})
		}
	}
}

func TestTable(t *testing.T) {
	tests := []struct {
		name string
		rows [][]string
		want string
	}{
		{"aligned", [][]string{{"a", "1", ""}, {"long", "1000", ""}},
			"NAME     N\na        1\nlong  1000\n"},
		{"last column shown where one row has it", [][]string{{"a", "1", ""}, {"b", "2", "why"}},
			"NAME  N  NOTE\na     1\nb     2  why\n"},
		{"letters of several bytes", [][]string{{"日本é", "1", ""}, {"x", "2", ""}},
			"NAME  N\n日本é   1\nx     2\n"},
		{"no rows", nil, "NAME  N  NOTE\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable("NAME", ">N", "NOTE")
			for _, r := range tt.rows {
				table.row(r...)
			}
			var out strings.Builder
			if err := table.write(&out); err != nil {
				t.Fatal(err)
			}
			if out.String() != tt.want {
				t.Errorf("got\n%q\nwant\n%q", out.String(), tt.want)
			}
		})
	}
}
