package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func testReport() *weaveReport {
	s := newStatus(healthyReport(), now)
	return newWeaveReport(&s)
}

func TestFormatReport(t *testing.T) {
	tests := []struct{ name, source, want string }{
		{"field", "{{.Router.Name}}", "02:00:00:00:00:01"},
		{"json of a list", "{{json .Router.Targets}}", `["10.142.130.17"]`},
		{"json of text", "{{json .Router.NickName}}", `"weave01"`},
		{"loop", `{{range .Router.Connections}}{{.State}} {{end}}`, "established established "},
		{"loop over nothing", `{{range .Router.TrustedSubnets}}x{{else}}none{{end}}`, "none"},
		{"condition", `{{if .Router.Encryption}}on{{else}}off{{end}}`, "on"},
		{"with", `{{with .DNS}}dns{{else}}no dns{{end}}`, "no dns"},
		{"attribute", `{{(index .Router.Connections 0).Attrs.mtu}}`, "1414"},
		{"print functions", `{{printf "%s %05.1f" "a" 1.5}}{{println}}{{print 1 2}}`, "a 001.5\n1 2"},
		{"defined template", `{{define "p"}}<{{.}}>{{end}}{{range .Router.Targets}}{{template "p" .}}{{end}}`, "<10.142.130.17>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := formatReport(t.Context(), testReport(), tt.source)
			if err != nil || string(got) != tt.want {
				t.Errorf("formatReport(%q) = %q, %v, want %q", tt.source, got, err, tt.want)
			}
		})
	}
}

func TestFormatFaults(t *testing.T) {
	doubling := `{{$x := "aaaaaaaaaaaaaaaa"}}` + strings.Repeat(`{{$x = print $x $x}}`, 40)
	tests := []struct{ name, source, want string }{
		{"syntax", "{{.Router", "parse template"},
		{"unknown field", "{{.Nothing}}", "execute template"},
		{"unknown function", "{{nothing}}", "parse template"},
		{"too long", strings.Repeat("a", maxTemplate+1), "longer than"},
		{"endless output", "{{range 1000000000}}" + strings.Repeat("a", 8<<10) + "{{end}}", errTooMuch.Error()},
		{"doubling", doubling, errTooMuch.Error()},
		{"doubling by printf", strings.ReplaceAll(doubling, "print $x $x", `printf "%s%s" $x $x`), errTooMuch.Error()},
		{"doubling by println", strings.ReplaceAll(doubling, "print ", "println "), errTooMuch.Error()},
		{"wide verb", `{{printf "%999999d" 1}}`, errWidth.Error()},
		{"width from an argument", `{{printf "%*d" 999999 1}}`, errWidth.Error()},
		{"endless recursion", `{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, "execute template"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := formatReport(t.Context(), testReport(), tt.source)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("formatReport = %.40q, %v, want an error with %q", got, err, tt.want)
			}
		})
	}
}

// Templates that print nothing and never end, each in its own way.
func TestFormatEndsWithContext(t *testing.T) {
	twice := `{{define "t0"}}{{end}}`
	for _, level := range "123456789abcdefghijklmnopqrstuvwxyz" {
		below := string(level - 1)
		if level == 'a' {
			below = "9"
		}
		twice += `{{define "t` + string(level) + `"}}{{template "t` + below + `"}}{{template "t` + below + `"}}{{end}}`
	}
	tests := []struct{ name, source string }{
		{"loop", `{{range 1000000000000000}}{{end}}`},
		{"loop over a UID", `{{range (index .Router.Peers 0).UID}}{{range 1000000000000000}}{{end}}{{end}}`},
		{"loop within a condition", `{{if true}}{{with 1}}{{range 1000000000000000}}{{end}}{{end}}{{end}}`},
		{"loop in an else", `{{if false}}{{else}}{{range 1000000000000000}}{{end}}{{end}}`},
		{"templates that call each other", twice + `{{template "tz"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := formatReport(ctx, testReport(), tt.source); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("formatReport = %v, want the deadline", err)
			}
		})
	}
}

func TestFormatOfCancelledRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := formatReport(ctx, testReport(), "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("formatReport = %v", err)
	}
}

func FuzzFormatReport(f *testing.F) {
	for _, s := range []string{
		"", "{{.Router.Name}}", "{{json .}}", "{{range .Router.Peers}}{{.Name}}{{end}}", "{{", "{{end}}",
		`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, `{{printf "%d" 1}}`, "{{tick}}", "{{break}}",
		"{{range $i, $p := .Router.Peers}}{{if $i}}{{continue}}{{end}}{{break}}{{end}}",
		`{{block "b" .}}{{.Ready}}{{end}}`, "{{/* c */}}", `{{slice "abc" 5}}`, `{{index .Router.Peers 9}}`, `{{call .Ready}}`,
	} {
		f.Add(s)
	}
	r := testReport()
	f.Fuzz(func(t *testing.T, source string) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		out, err := formatReport(ctx, r, source)
		if err == nil && len(out) > maxTemplateOutput {
			t.Errorf("%d bytes of output", len(out))
		}
	})
}
