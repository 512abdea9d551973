package main

import (
	"fmt"
	"strconv"
	"strings"
)

// figure is one line of what meshd has to reach.
type figure struct {
	text string
	// needed and aim are the least, or the most where below is set.
	needed, aim float64
	below       bool
	unit        string
	reach       func(r *results) (v float64, ok bool)
	names       []string // of the variants that it takes
}

// ratioFigure compares two variants in one value.
func ratioFigure(text string, needed, aim float64, a, b query) figure {
	return figure{
		text: text, needed: needed, aim: aim, unit: "x",
		reach: func(r *results) (float64, bool) { return r.ratio(a, b) },
		names: []string{a.variant, b.variant},
	}
}

// atMost is the figure with its bounds the other way round.
func (f figure) atMost() figure {
	f.below = true
	return f
}

// figures are the figures to reach, medians on the default underlay unless the
// text says another.
func figures() []figure {
	tcp := func(name string) query { return of(name, mTCP, vBPS) }
	wired := func(name string) query { return tcp(name).over(onWire, normal) }
	rr := func(name string) query { return of(name, mRR, vP50) }
	cpu := func(name string) query { return of(name, mTCP, vDaemonCPU) }
	out := []figure{
		ratioFigure("sleeve plain, 1 TCP stream, to kernel VXLAN", 0.35, 0.50, tcp(sleeveName), tcp(vxlanName)),
		ratioFigure("the same on real 1500-byte packets, sleeve to VXLAN", 0.60, 0.80, wired(sleeveName), wired(vxlanName)),
		ratioFigure("sleeve plain to a stock router's sleeve", 14, 20, tcp(sleeveName), tcp(stockName)),
		ratioFigure("sleeve with password to stock with password", 5, 8, tcp(sleevePWName), tcp(stockPWName)),
		ratioFigure("punch, 1 TCP stream, to newest wireguard-go", 1.8, 2.5, tcp(punchName), tcp(wireguardName)),
		ratioFigure("the same on real 1500-byte packets, punch to wireguard-go", 1.6, 2.0, wired(punchName), wired(wireguardName)),
		ratioFigure("quic, 1 TCP stream, to newest wireguard-go", 0.5, 1.0, tcp(quicName), tcp(wireguardName)),
		ratioFigure("punch to kernel VXLAN, which encrypts nothing", 0.25, 0.35, tcp(punchName), tcp(vxlanName)),
	}
	for _, name := range []string{punchName, sleeveName} {
		out = append(out, packetFigure(name))
	}
	for _, name := range []string{punchName, sleeveName} {
		out = append(out, ratioFigure("TCP request/response, median, "+name+" to kernel VXLAN, not above", 3, 2, rr(name), rr(vxlanName)).atMost())
	}
	out = append(out, ratioFigure("CPU seconds per GB, punch to wireguard-go, not above", 0.5, 0.35, cpu(punchName), cpu(wireguardName)).atMost())
	for _, name := range []string{punchName, sleeveName} {
		out = append(out, plainFigure("memory of a daemon with 3 peers, "+name+", MB, not above", 32, 16, 1e-6, of(name, mMemory, vRSS4)))
	}
	for _, name := range []string{punchName, sleeveName} {
		// What a daemon allocates at rest varies by about this much.
		out = append(out, plainFigure("allocations per frame, "+name+", 0 but for what goes on beside", 0.01, 0.01, 1, of(name, mPPS, vAllocs)))
	}
	return out
}

// packetFigure compares the small-packet rate with the best user-space peer's.
func packetFigure(name string) figure {
	return figure{
		text:   "small packets per second, " + name + ", to the best user-space peer",
		needed: 1.5, aim: 2.5, unit: "x", names: []string{name},
		reach: func(r *results) (float64, bool) {
			best, ok := r.bestPeer()
			if !ok {
				return 0, false
			}
			return r.ratio(of(name, mPPS, vPPS), of(best, mPPS, vPPS))
		},
	}
}

// bestPeer is the other user-space overlay with the highest small-packet rate.
func (r *results) bestPeer() (name string, ok bool) {
	most := 0.0
	for _, e := range r.Variants {
		if e.Kind != others {
			continue
		}
		if v, found := r.median(of(e.Name, mPPS, vPPS)); found && v > most {
			name, most, ok = e.Name, v, true
		}
	}
	return name, ok
}

// plainFigure is a value by itself, not above its bounds.
func plainFigure(text string, needed, aim, factor float64, q query) figure {
	return figure{
		text: text, needed: needed, aim: aim, below: true, names: []string{q.variant},
		reach: func(r *results) (float64, bool) {
			v, ok := r.median(q)
			return v * factor, ok
		},
	}
}

// verdict judges a value.
func (f figure) verdict(v float64) string {
	reached := func(bound float64) bool {
		if f.below {
			return v <= bound
		}
		return v >= bound
	}
	switch {
	case reached(f.aim):
		return "aim"
	case reached(f.needed):
		return "pass"
	}
	return "MISSED"
}

// figureTable is needed, reached and verdict of each figure whose variants the
// run was to measure.
func (r *results) figureTable() table {
	t := table{head: []string{"figure to reach", "needed", "aim", "reached", ""}}
	for _, f := range figures() {
		if !r.chose(f.names) {
			continue
		}
		row := []string{f.text, bound(f.needed) + f.unit, bound(f.aim) + f.unit, "-", ""}
		if v, ok := f.reach(r); ok {
			row[3], row[4] = significant(v)+f.unit, f.verdict(v)
		} else {
			row[4] = "not measured: " + r.gap(f)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

func bound(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func (r *results) chose(names []string) bool {
	for _, name := range names {
		if _, ok := r.entry(name); !ok {
			return false
		}
	}
	return true
}

// gap tells what is missing for a figure.
func (r *results) gap(f figure) string {
	var out []string
	for _, name := range f.names {
		e, _ := r.entry(name)
		if e.Missing != "" || len(r.rounds(of(name, mTCP, vBPS))) == 0 {
			out = append(out, r.why(name))
		}
	}
	if len(out) == 0 {
		return "a part of the run was left out"
	}
	return strings.ReplaceAll(strings.Join(out, "; "), "\n", " ")
}

// summary is the end of the run for people.
func (r *results) summary() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\nveth underlay, MTU %d (medians; ratios of each round's own; RTT p50/p99)\n%s", normal, r.mainTable().text())
	for _, u := range underlays {
		if t := r.underlayTable(u.underlay, u.mtu); len(t.rows) > 0 {
			fmt.Fprintf(&out, "\n%s\n%s", u.title, t.text())
		}
	}
	if t := r.figureTable(); len(t.rows) > 0 {
		fmt.Fprintf(&out, "\n%s", t.text())
	}
	if faults := r.faults(); len(faults) > 0 {
		fmt.Fprintf(&out, "\nwhat did not work:\n  %s\n", strings.Join(faults, "\n  "))
	}
	return out.String()
}

// underlays are those other than the main table's.
var underlays = []struct {
	title    string
	underlay string
	mtu      int
}{
	{"underlay without segmentation offload (as a wire), MTU 1500", onWire, normal},
	{"the same without GRO at the receiver either, MTU 1500", onWireNoGRO, normal},
	{"veth underlay, MTU 9000", onVeth, jumbo},
	{"underlay without segmentation offload, MTU 9000", onWire, jumbo},
}
