package main

import (
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// Sizes of the chart in pixels.
const (
	chartWidth  = 860
	chartLeft   = 260 // where the bars begin
	chartRight  = 790 // where the longest one ends; its number needs room
	chartTop    = 78
	chartRow    = 40
	chartBar    = 14
	chartBottom = 34
)

var chartColours = map[kind]string{kernel: "#8a8f98", meshd: "#1f7a5c", stock: "#b5532a", others: "#3f6fb5"}

// bar is a variant's ratios to VXLAN; NaN where there is none.
type bar struct {
	title      string
	colour     string
	veth, wire float64
}

func (r *results) bars() (out []bar) {
	ratio := func(name, underlay string) float64 {
		q := func(n string) query { return of(n, mTCP, vBPS).over(underlay, normal) }
		if v, ok := r.ratio(q(name), q(vxlanName)); ok {
			return v
		}
		return math.NaN()
	}
	for _, e := range r.measured() {
		b := bar{e.Title, chartColours[e.Kind], ratio(e.Name, onVeth), ratio(e.Name, onWire)}
		if !math.IsNaN(b.veth) || !math.IsNaN(b.wire) {
			out = append(out, b)
		}
	}
	return out
}

// chart draws one TCP stream as bars, ratio to VXLAN, on both underlays.
func (r *results) chart() string {
	bars := r.bars()
	height := chartTop + len(bars)*chartRow + chartBottom
	longest := 1.0
	for _, b := range bars {
		for _, v := range []float64{b.veth, b.wire} {
			if v > longest { // false for NaN
				longest = v
			}
		}
	}
	scale := (chartRight - chartLeft) / longest
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="13">`+"\n", chartWidth, height, chartWidth, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", chartWidth, height)
	text(&out, 16, 26, "start", "#111111", `font-size="16" font-weight="bold"`, "One TCP stream between containers, as a ratio to kernel VXLAN in the same round")
	text(&out, 16, 46, "start", "#444444", "", fmt.Sprintf("solid: veth underlay, which passes 64 KiB packets whole; pale: no segmentation offload, as on a wire; MTU %d", normal))
	text(&out, 16, 64, "start", "#444444", "", fmt.Sprintf("%s, %s, %d CPUs for both hosts, %s", r.Kernel, r.CPU, r.CPUs, r.Date.Format("2006-01-02")))
	one := chartLeft + scale
	fmt.Fprintf(&out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#bbbbbb" stroke-dasharray="3 3"/>`+"\n", one, chartTop-6, one, height-chartBottom+4)
	text(&out, one, height-chartBottom+20, "middle", "#444444", "", "VXLAN = 1")
	for i, b := range bars {
		y := chartTop + i*chartRow
		text(&out, chartLeft-10, y+chartRow/2, "end", "#111111", "", b.title)
		drawBar(&out, y+3, b.veth, scale, b.colour, 1)
		drawBar(&out, y+3+chartBar+1, b.wire, scale, b.colour, 0.45)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

func drawBar(out *strings.Builder, y int, v, scale float64, colour string, opacity float64) {
	if math.IsNaN(v) {
		return
	}
	width := max(v*scale, 1)
	fmt.Fprintf(out, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s" fill-opacity="%.2f"/>`+"\n", chartLeft, y, width, chartBar, colour, opacity)
	text(out, chartLeft+width+5, y+chartBar-3, "start", "#111111", `font-size="11"`, significant(v))
}

func text(out *strings.Builder, x float64, y int, anchor, colour, more, s string) {
	if more != "" {
		more = " " + more
	}
	fmt.Fprintf(out, `<text x="%.1f" y="%d" text-anchor="%s" fill="%s"%s>`, x, y, anchor, colour, more)
	xml.EscapeText(out, []byte(s)) // a strings.Builder takes all
	out.WriteString("</text>\n")
}
