package demo

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func hosts() []*host {
	var out []*host
	for _, p := range plan {
		out = append(out, &host{hostPlan: p})
	}
	return out
}

func TestMatrixLines(t *testing.T) {
	h := hosts()
	m := matrix{
		pair{h[0].inside(), h[1].inside()}: {1234 * time.Microsecond, 5 * time.Millisecond},
		pair{h[1].inside(), h[0].inside()}: {time.Millisecond, 12345 * time.Microsecond},
	}
	want := []string{
		"ping / HTTP      192.168.99.10        192.168.99.21",
		"192.168.99.10    -                    1.23 ms / 5.00 ms",
		"192.168.99.21    1.00 ms / 12.35 ms   -",
	}
	got := m.lines(h[:2])
	for i := range got {
		got[i] = strings.TrimRight(got[i], " ")
	}
	if !slices.Equal(got, want) {
		t.Errorf("lines =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := m.rtt(h[0], h[2]); got != "-" {
		t.Errorf("rtt of a pair that was not measured = %q, want -", got)
	}
}

func TestPrinterColor(t *testing.T) {
	for _, color := range []bool{false, true} {
		var out bytes.Buffer
		p := printer{out: &out, color: color}
		p.title(1, 2, "begin")
		p.text("a", "b")
		p.ok("good")
		p.bad("not good")
		if got := strings.Contains(out.String(), "\x1b"); got != color {
			t.Errorf("color %v: escape sequences %v in %q", color, got, out.String())
		}
		if !strings.Contains(out.String(), "  a\n  b\n") {
			t.Errorf("output = %q, want indented lines", out.String())
		}
	}
}

// TestPlan keeps the reference story: what the README and the issue name.
func TestPlan(t *testing.T) {
	router := map[int]netip.Prefix{}
	for i, v := range vlans {
		router[i] = v.gateway.Masked()
	}
	for _, p := range plan {
		if p.addr.Masked() != router[p.vlan] {
			t.Errorf("%s: %v is not on %v", p.nick, p.addr, router[p.vlan])
		}
		if p.nick != "weave01" && !slices.Equal(p.targets, []string{"10.142.130.16"}) {
			t.Errorf("%s: targets %v, want weave01's address alone", p.nick, p.targets)
		}
	}
}

func TestServe(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, "127.0.0.1:0", "hello") }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v, want nil after its context is done", err)
	}
	if err := Serve(t.Context(), "127.0.0.1:notaport", "x"); err == nil {
		t.Error("Serve on a bad address = nil, want an error")
	}
}
