package main

import (
	"encoding/xml"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

// sampleResults are three rounds of made-up readings.
func sampleResults() *results {
	r := &results{
		Date: time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC), Kernel: "Linux 6.1", CPU: "CPU <1> & more", CPUs: 2, Go: "go1.26",
		Settings: settings{Time: 3 * time.Second, Rounds: 3, Wide: 1, Measures: allMeasures}, Took: "15m0s",
	}
	for _, v := range variants() {
		e := entry{Name: v.name, Title: v.title, Kind: v.kind, Secret: v.secret, Layer: v.layer, Version: "1"}
		if v.name == "tinc" {
			e.Version, e.Missing = "", "tincd is not installed"
		}
		r.Variants = append(r.Variants, e)
	}
	add := func(round int, q query, value float64) {
		r.Samples = append(r.Samples, sample{
			Round: round, Variant: q.variant, Measure: q.measure, Underlay: q.underlay, MTU: q.mtu, Values: values{q.value: value},
		})
	}
	for round, speed := range []float64{1, 4, 2} { // what the machine gives in this round
		add(round+1, of(vxlanName, mTCP, vBPS), 10e9*speed)
		add(round+1, of(sleeveName, mTCP, vBPS), 4e9*speed)
		add(round+1, of(wireguardName, mTCP, vBPS), 2e9*speed)
		add(round+1, of(vxlanName, mTCP, vBPS).over(onWire, normal), 5e9*speed)
		add(round+1, of(sleeveName, mTCP, vBPS).over(onWire, normal), 1e9*speed)
		add(round+1, of(wireguardName, mPPS, vPPS), 30e3)
		add(round+1, of("nebula", mPPS, vPPS), 60e3)
		add(round+1, of(sleeveName, mPPS, vPPS), 120e3)
		add(round+1, of(sleeveName, mPPS, vLimit), 1)
	}
	add(1, of(sleeveName, mMemory, vRSS4), 20e6)
	r.Samples = append(r.Samples, sample{Round: 2, Variant: "fastd", Measure: "setup", Underlay: onVeth, MTU: normal, Error: "it\nbroke"})
	return r
}

func TestQueries(t *testing.T) {
	r := sampleResults()
	if v, ok := r.median(of(vxlanName, mTCP, vBPS)); v != 20e9 || !ok {
		t.Errorf("median = %v, %v, want 20e9", v, ok)
	}
	if v, ok := r.ratio(of(sleeveName, mTCP, vBPS), of(vxlanName, mTCP, vBPS)); v != 0.4 || !ok {
		t.Errorf("ratio = %v, %v, want 0.4 in each round", v, ok)
	}
	// One side has an outlier in one round: paired ratios keep it there.
	r.Samples = append(r.Samples, sample{Round: 4, Variant: sleeveName, Measure: mTCP, Underlay: onVeth, MTU: normal, Values: values{vBPS: 1}})
	if v, ok := r.ratio(of(sleeveName, mTCP, vBPS), of(vxlanName, mTCP, vBPS)); v != 0.4 || !ok {
		t.Errorf("ratio with a round that only one side has = %v, %v, want 0.4", v, ok)
	}
	if v, ok := r.median(of("tinc", mTCP, vBPS)); ok || !math.IsNaN(v) {
		t.Errorf("median of what was not measured = %v, %v", v, ok)
	}
	if _, ok := r.ratio(of(sleeveName, mTCP, vBPS), of("tinc", mTCP, vBPS)); ok {
		t.Error("a ratio to what was not measured")
	}
	if name, ok := r.bestPeer(); name != "nebula" || !ok {
		t.Errorf("best peer = %q, want nebula: meshd is none", name)
	}
}

func TestWhy(t *testing.T) {
	r := sampleResults()
	for name, want := range map[string]string{
		"tinc": "tinc: tincd is not installed", "fastd": "fastd: it\nbroke", "openvpn": "openvpn was not measured so",
	} {
		if got := r.why(name); got != want {
			t.Errorf("why(%s) = %q, want %q", name, got, want)
		}
	}
	if got := r.faults(); len(got) != 1 || !strings.HasPrefix(got[0], "fastd, setup over veth") {
		t.Errorf("faults = %q", got)
	}
}

func TestFigureTable(t *testing.T) {
	rows := map[string][]string{}
	for _, row := range sampleResults().figureTable().rows {
		rows[row[0]] = row[1:]
	}
	if len(rows) != len(figures()) {
		t.Errorf("%d rows for %d figures: two have the same text", len(rows), len(figures()))
	}
	for text, want := range map[string][]string{
		"sleeve plain, 1 TCP stream, to kernel VXLAN":                   {"0.35x", "0.5x", "0.400x", "pass"},
		"small packets per second, sleeve, to the best user-space peer": {"1.5x", "2.5x", "2.00x", "pass"},
		"memory of a daemon with 3 peers, sleeve, MB, not above":        {"32", "16", "20.0", "pass"},
	} {
		if got := rows[text]; strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if got := rows["punch to kernel VXLAN, which encrypts nothing"]; got[2] != "-" || !strings.HasPrefix(got[3], "not measured: punch") {
		t.Errorf("punch = %q, want that it was not measured", got)
	}
	r := sampleResults()
	r.Variants = r.Variants[:2]
	if got := r.figureTable().rows; len(got) != 0 {
		t.Errorf("figures of variants that were not chosen: %v", got)
	}
}

func TestVerdict(t *testing.T) {
	least, most := figure{needed: 2, aim: 3}, figure{needed: 3, aim: 2, below: true}
	for _, tt := range []struct {
		f    figure
		v    float64
		want string
	}{
		{least, 3, "aim"}, {least, 2.9, "pass"}, {least, 2, "pass"}, {least, 1.9, "MISSED"},
		{most, 2, "aim"}, {most, 2.1, "pass"}, {most, 3, "pass"}, {most, 3.1, "MISSED"},
		{least, math.NaN(), "MISSED"}, {most, math.NaN(), "MISSED"},
	} {
		if got := tt.f.verdict(tt.v); got != tt.want {
			t.Errorf("verdict of %v, needed %v, aim %v = %s, want %s", tt.v, tt.f.needed, tt.f.aim, got, tt.want)
		}
	}
}

func TestTable(t *testing.T) {
	x := table{head: []string{"", "µs", ""}, rows: [][]string{{"a", "12/3", "ok"}, {"bcd", "µ", "a|b"}}}
	const text = "       µs\na    12/3  ok\nbcd     µ  a|b\n"
	if got := x.text(); got != text {
		t.Errorf("text =\n%swant\n%s", got, text)
	}
	const markdown = "|  | µs |  |\n| --- | ---: | ---: |\n| a | 12/3 | ok |\n| bcd | µ | a\\|b |\n"
	if got := x.markdown(); got != markdown {
		t.Errorf("markdown =\n%swant\n%s", got, markdown)
	}
}

func TestCells(t *testing.T) {
	r := sampleResults()
	sleeve := of(sleeveName, mTCP, vBPS)
	if got := r.cell(sleeve, 1e-9, 2); got != "8.00" {
		t.Errorf("cell = %q, want 8.00", got)
	}
	if got := r.cell(of("tinc", mTCP, vBPS), 1, 2) + r.pair(of("tinc", mRR, vP50), of("tinc", mRR, vP99), 1, 0) + r.over(sleeve, of("tinc", mTCP, vBPS)); got != "---" {
		t.Errorf("what is missing = %q, want dashes", got)
	}
	if got := r.packetRate(sleeveName); got != "120+" {
		t.Errorf("rate = %q, want 120+: the sender was the limit", got)
	}
	for v, want := range map[float64]string{123.4: "123", 12.34: "12.3", 1.234: "1.23", 0.1234: "0.123", 0.0123: "0.012"} {
		if got := significant(v); got != want {
			t.Errorf("significant(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestPage(t *testing.T) {
	page := sampleResults().page()
	for _, want := range []string{
		"2026-11-23 20:00 UTC", "Linux 6.1", "benchmarks.svg", "## Figures to reach", "| meshd sleeve | 8.00 | 0.400 | 2.00 |",
		"## Underlay without segmentation offload", "not measured: tincd is not installed", "fastd, setup over veth with MTU 1500: it broke",
		"## Method", "## Caveats",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, "NaN") || strings.Contains(page, "MTU 9000\n\n|") {
		t.Error("the page has figures that were not measured")
	}
}

func TestChart(t *testing.T) {
	r := sampleResults()
	svg := r.chart()
	if err := wellFormed(svg); err != nil {
		t.Errorf("%v in\n%s", err, svg)
	}
	if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Error("a bar of no length")
	}
	for _, want := range []string{">meshd sleeve<", ">0.400<", ">0.200<", "CPU &lt;1&gt; &amp; more"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the chart lacks %s", want)
		}
	}
	// The background, two bars each of VXLAN and sleeve, one of wireguard-go.
	if got := strings.Count(svg, "<rect "); got != 6 {
		t.Errorf("%d rectangles, want 6", got)
	}
	if err := wellFormed((&results{}).chart()); err != nil {
		t.Errorf("without results: %v", err)
	}
}

func wellFormed(s string) error {
	for d := xml.NewDecoder(strings.NewReader(s)); ; {
		if _, err := d.Token(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel("processor\t: 0\nmodel name\t: AMD: EPYC\n"); got != "AMD: EPYC" {
		t.Errorf("cpuModel = %q", got)
	}
	if got := cpuModel("processor : 0\n"); got != "unknown CPU" {
		t.Errorf("cpuModel = %q", got)
	}
}
