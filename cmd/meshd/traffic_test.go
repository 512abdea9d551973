package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"meshd/transport"
)

func TestHumanRate(t *testing.T) {
	for x, want := range map[float64]string{
		0: "0", 0.5: "0.50", 96.5: "96.5", 999.4: "999", 999.6: "1.00k", 11_460_000: "11.5M", 9.4e9: "9.40G", 3e15: "3000T",
	} {
		if got := humanRate(x); got != want {
			t.Errorf("humanRate(%v) = %s, want %s", x, got, want)
		}
	}
}

func TestSumRates(t *testing.T) {
	one, two := &transport.Rate{Frames: 1, Bits: 8}, &transport.Rate{Frames: 2, Bits: 16}
	for _, tt := range []struct{ a, b, want *transport.Rate }{
		{nil, nil, nil}, {one, nil, one}, {nil, two, two}, {one, two, &transport.Rate{Frames: 3, Bits: 24}},
	} {
		if got := sumRates(tt.a, tt.b); fmt.Sprint(figure(got)) != fmt.Sprint(figure(tt.want)) {
			t.Errorf("sumRates(%v, %v) = %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// A sum shares no map with what it was made of.
func TestSumFlows(t *testing.T) {
	a := transport.FlowStats{Frames: 1, Bytes: 2, Datagrams: 3, Drops: map[string]uint64{"auth": 1}}
	b := transport.FlowStats{Frames: 10, Bytes: 20, Datagrams: 30, Drops: map[string]uint64{"auth": 10, "rate": 5}}
	got := sumFlows(sumFlows(transport.FlowStats{}, a), b)
	if got.Frames != 11 || got.Bytes != 22 || got.Datagrams != 33 || !maps.Equal(got.Drops, map[string]uint64{"auth": 11, "rate": 5}) {
		t.Errorf("sum = %+v", got)
	}
	if a.Drops["auth"] != 1 || b.Drops["auth"] != 10 || dropCount(got) != 16 {
		t.Errorf("summands are now %+v and %+v, %d drops in all", a, b, dropCount(got))
	}
}

// The tables fit a terminal of 120 columns, but for reasons in words at their end.
func TestStatsFitATerminal(t *testing.T) {
	for name, r := range map[string]Report{"healthy": healthyReport(), "open": openReport()} {
		s := newStatus(r, now)
		var out strings.Builder
		if err := printStats(&out, &s); err != nil {
			t.Fatal(err)
		}
		if err := printTransports(&out, &s); err != nil {
			t.Fatal(err)
		}
		words := math.MaxInt // where the last column of transport list begins
		for line := range strings.Lines(out.String()) {
			figures := strings.TrimSuffix(line, "\n")
			if at := strings.Index(figures, "OFFLOAD"); at >= 0 {
				words = at
			}
			if n := utf8.RuneCountInString(figures); min(n, words) > 120 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
	}
}

// Scripts find rates as numbers with units in their names, null while unknown.
func TestRatesInJSON(t *testing.T) {
	t.Setenv(socketEnv, startServer(t, newFakeDaemon(healthyReport())))
	for _, command := range []string{"stats", "list"} {
		stdout, stderr, code := runCLI(t.Context(), "transport", command, "--json")
		var rows []map[string]any
		if err := json.Unmarshal([]byte(stdout), &rows); err != nil || code != exitOK {
			t.Fatalf("%s = %d %s, %v", command, code, stderr, err)
		}
		rate, _ := rows[0]["tx_rate"].(map[string]any)
		if rate["frames_per_second"] != 1042.0 || rate["bits_per_second"] != 11_460_000.0 {
			t.Errorf("%s: tx_rate = %v", command, rows[0]["tx_rate"])
		}
		if command == "stats" && rows[1]["rx_rate"] != nil {
			t.Errorf("rx_rate that is not known = %v, want null", rows[1]["rx_rate"])
		}
		for _, key := range []string{"tx_rate", "rx_rate", "handshakes", "rekeys"} {
			if !slices.Contains(slices.Collect(maps.Keys(rows[0])), key) {
				t.Errorf("%s: no %s in %v", command, key, rows[0])
			}
		}
	}
}

// The README shows what is really printed.
func TestReadmeShowsStats(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStatus(openReport(), now)
	var out strings.Builder
	if err := printStats(&out, &s); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```\n"+out.String()+"```\n") {
		t.Errorf("README.md does not have\n%s", out.String())
	}
}
