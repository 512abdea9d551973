package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// table is rows of cells under a head.
type table struct {
	head []string
	rows [][]string
}

// text aligns the columns: the first and one without a head to the left, the
// others to the right.
func (t table) text() string {
	widths := make([]int, len(t.head))
	all := append([][]string{t.head}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0:
				line.WriteString(cell + space)
			case t.head[i] == "":
				line.WriteString("  " + cell + space)
			default:
				line.WriteString("  " + space + cell)
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return out.String()
}

// markdown is the table for a page.
func (t table) markdown() string {
	var out strings.Builder
	line := func(cells []string) { out.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	line(t.head)
	rule := make([]string, len(t.head))
	for i := range rule {
		rule[i] = "---:"
	}
	rule[0] = "---"
	line(rule)
	for _, row := range t.rows {
		escaped := make([]string, len(row))
		for i, cell := range row {
			escaped[i] = strings.ReplaceAll(cell, "|", `\|`)
		}
		line(escaped)
	}
	return out.String()
}

// cell is the median of a value times a factor, "-" without one.
func (r *results) cell(q query, factor float64, digits int) string {
	v, ok := r.median(q)
	if !ok {
		return "-"
	}
	return number(v*factor, digits)
}

// pair is two medians with a slash between.
func (r *results) pair(a, b query, factor float64, digits int) string {
	x, y := r.cell(a, factor, digits), r.cell(b, factor, digits)
	if x == "-" && y == "-" {
		return "-"
	}
	return x + "/" + y
}

// over is a ratio, "-" where one side is missing.
func (r *results) over(a, b query) string {
	v, ok := r.ratio(a, b)
	if !ok {
		return "-"
	}
	return significant(v)
}

func number(v float64, digits int) string { return strconv.FormatFloat(v, 'f', digits, 64) }

// significant prints a ratio with about three figures that mean something.
func significant(v float64) string {
	switch {
	case v >= 100:
		return number(v, 0)
	case v >= 10:
		return number(v, 1)
	case v >= 1:
		return number(v, 2)
	}
	return number(v, 3)
}

// mainTable is the default underlay.
func (r *results) mainTable() table {
	t := table{head: []string{
		"", "TCP Gb/s", "/VXLAN", "/wireguard-go", "4 streams", "both ways", "small kpps",
		"TCP RR µs", "loaded", "UDP RTT µs", "CPU s/GB", "machine", "RSS MB",
	}}
	for _, e := range r.measured() {
		tcp := of(e.Name, mTCP, vBPS)
		t.rows = append(t.rows, []string{
			e.Title, r.cell(tcp, 1e-9, 2), r.over(tcp, of(vxlanName, mTCP, vBPS)), r.over(tcp, of(wireguardName, mTCP, vBPS)),
			r.cell(of(e.Name, mTCP4, vBPS), 1e-9, 2), r.cell(of(e.Name, mBidir, vBPS), 1e-9, 2),
			r.packetRate(e.Name),
			r.pair(of(e.Name, mRR, vP50), of(e.Name, mRR, vP99), 1, 0),
			r.pair(of(e.Name, mLoaded, vP50), of(e.Name, mLoaded, vP99), 1, 0),
			r.pair(of(e.Name, mUDPRR, vP50), of(e.Name, mUDPRR, vP99), 1, 0),
			r.cell(of(e.Name, mTCP, vDaemonCPU), 1, 2), r.cell(of(e.Name, mTCP, vMachineCPU), 1, 2),
			r.cell(of(e.Name, mMemory, vRSS), 1e-6, 1),
		})
	}
	return t
}

// packetRate marks a rate at which the sender, not the overlay, was the limit.
func (r *results) packetRate(name string) string {
	rate := r.cell(of(name, mPPS, vPPS), 1e-3, 0)
	if limited, ok := r.median(of(name, mPPS, vLimit)); ok && limited > 0.5 {
		return rate + "+"
	}
	return rate
}

// underlayTable is one TCP stream over an underlay.
func (r *results) underlayTable(underlay string, mtu int) table {
	t := table{head: []string{"", "TCP Gb/s", "/VXLAN", "/wireguard-go", "CPU s/GB", "machine", "bytes/packet"}}
	for _, e := range r.measured() {
		q := func(name, value string) query { return of(name, mTCP, value).over(underlay, mtu) }
		if _, ok := r.median(q(e.Name, vBPS)); !ok {
			continue
		}
		t.rows = append(t.rows, []string{
			e.Title, r.cell(q(e.Name, vBPS), 1e-9, 2),
			r.over(q(e.Name, vBPS), q(vxlanName, vBPS)), r.over(q(e.Name, vBPS), q(wireguardName, vBPS)),
			r.cell(q(e.Name, vDaemonCPU), 1, 2), r.cell(q(e.Name, vMachineCPU), 1, 2), r.cell(q(e.Name, vPacket), 1, 0),
		})
	}
	return t
}

// measured are the variants with samples.
func (r *results) measured() (out []entry) {
	for _, e := range r.Variants {
		for _, s := range r.Samples {
			if s.Variant == e.Name && len(s.Values) > 0 {
				out = append(out, e)
				break
			}
		}
	}
	return out
}

// progress prints what a session found.
func (b *bench) progress(v variant, round, mtu int, took time.Duration) {
	one := *b.results
	one.Samples = nil
	var faults []string
	for _, s := range b.results.Samples {
		if s.Round != round || s.Variant != v.name || s.MTU != mtu {
			continue
		}
		one.Samples = append(one.Samples, s)
		if s.Error != "" {
			faults = append(faults, s.Measure+": "+s.Error)
		}
	}
	tcp := of(v.name, mTCP, vBPS)
	fmt.Fprintf(b.out, "%-16s tcp %5s, wire %5s Gb/s, %4s s/GB", v.name,
		one.cell(tcp.over(onVeth, mtu), 1e-9, 2), one.cell(tcp.over(onWire, mtu), 1e-9, 2),
		one.cell(of(v.name, mTCP, vDaemonCPU).over(onVeth, mtu), 1, 2))
	if mtu == normal {
		fmt.Fprintf(b.out, "; x4 %5s, bidir %5s; %4s kpps; rr %s, loaded %s, udp %s µs; %s MB",
			one.cell(of(v.name, mTCP4, vBPS), 1e-9, 2), one.cell(of(v.name, mBidir, vBPS), 1e-9, 2), one.packetRate(v.name),
			one.pair(of(v.name, mRR, vP50), of(v.name, mRR, vP99), 1, 0),
			one.pair(of(v.name, mLoaded, vP50), of(v.name, mLoaded, vP99), 1, 0),
			one.pair(of(v.name, mUDPRR, vP50), of(v.name, mUDPRR, vP99), 1, 0),
			one.cell(of(v.name, mMemory, vRSS), 1e-6, 1))
	}
	fmt.Fprintf(b.out, " (%.0f s)\n", took.Seconds())
	for _, f := range faults {
		fmt.Fprintf(b.out, "    %s\n", strings.ReplaceAll(f, "\n", "; "))
	}
}
