package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"meshd/routing/measure"
)

// Bench is what `meshd bench` found; its JSON is the schema of --json and of the
// answer to POST /v1/bench. A figure that is not known is null.
type Bench struct {
	BenchWay
	// Changed: frames went another way at the end than at the beginning, which is
	// the one that is shown.
	Changed    bool    `json:"way_changed"`
	Seconds    float64 `json:"seconds"`
	FrameBytes int     `json:"frame_bytes"` // of each frame, Ethernet header included
	// Highest is the highest rate at which less than 1% was lost; null: there was
	// none. LimitedBy says what is above it: "path", "sender" (this host sends no
	// faster), or "" where the time was too short to find out.
	Highest   *BenchRate `json:"highest"`
	LimitedBy string     `json:"limited_by"`
	Sustained BenchHeld  `json:"sustained"`
	Idle      BenchRTT   `json:"rtt_idle"`
	Loaded    BenchRTT   `json:"rtt_loaded"`
}

// BenchWay is the way that frames to a peer take.
type BenchWay struct {
	Peer     string `json:"peer"`
	NickName string `json:"nickname"`
	// The rest describes the path to the first neighbour on the way, Via, which is
	// the peer itself where Direct.
	Direct        bool   `json:"direct"`
	Via           string `json:"via"`
	ViaNickName   string `json:"via_nickname"`
	Transport     string `json:"transport"`
	Address       string `json:"address,omitempty"`
	MTU           *int   `json:"mtu"`
	Encrypted     bool   `json:"encrypted"`
	Authenticated bool   `json:"authenticated"`
}

// BenchRate is a rate of frames.
type BenchRate struct {
	Frames float64 `json:"frames_per_second"`
	Bits   float64 `json:"bits_per_second"`
}

// BenchHeld is what came of the time in which one rate was held.
type BenchHeld struct {
	BenchRate          // as frames arrived
	Seconds    float64 `json:"seconds"`
	Sent       uint64  `json:"sent"`     // frames
	Received   uint64  `json:"received"` // frames
	OutOfOrder uint64  `json:"out_of_order"`
	Loss       float64 `json:"loss"` // 0 to 1
}

// BenchRTT is what a number of echoes told.
type BenchRTT struct {
	Sent     int      `json:"sent"`
	Received int      `json:"received"`
	P50      *float64 `json:"p50_ms"`
	P99      *float64 `json:"p99_ms"`
}

// first takes the connection to the first neighbour on the way.
func (w *BenchWay) first(c Connection) {
	w.Via, w.ViaNickName, w.Direct = c.Name, c.NickName, pathBy(w.Peer, c.Name) == pathDirect
	w.Transport, w.MTU = c.Transport, c.MTU
	if p := c.activePath(); p != nil {
		w.Address, w.Encrypted, w.Authenticated = p.Address, p.Encrypted, p.Authenticated
	}
}

func newBench(r measure.Result, before, after BenchWay) Bench {
	held := r.Held.Rate()
	b := Bench{
		BenchWay:   before,
		Changed:    before.Via != after.Via || before.Transport != after.Transport || before.Address != after.Address,
		Seconds:    r.Took.Seconds(),
		FrameBytes: r.FrameBytes,
		LimitedBy:  string(r.Limit),
		Sustained: BenchHeld{
			BenchRate: BenchRate(held), Seconds: r.Held.Time.Seconds(),
			Sent: r.Held.Sent, Received: r.Held.Received, OutOfOrder: r.Held.OutOfOrder, Loss: r.Held.Loss(),
		},
		Idle:   newBenchRTT(r.Idle),
		Loaded: newBenchRTT(r.Loaded),
	}
	if r.Highest.Frames > 0 {
		highest := BenchRate(r.Highest)
		b.Highest = &highest
	}
	return b
}

func newBenchRTT(r measure.RTT) BenchRTT {
	return BenchRTT{Sent: r.Sent, Received: r.Received, P50: milliseconds(r.P50), P99: milliseconds(r.P99)}
}

// printBench writes a measurement for people.
func printBench(w io.Writer, b *Bench) error {
	var out strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&out, "%-11s"+format+"\n", append([]any{label}, args...)...)
	}
	line("peer", "%s(%s)", b.Peer, b.NickName)
	line("way", "%s", wayText(b))
	highest := "no rate found at which less than 1% is lost"
	if b.Highest != nil {
		highest = rateText(*b.Highest) + " with less than 1% lost" + limitText(b.LimitedBy)
	}
	line("highest", "%s", highest)
	s := &b.Sustained
	line("sustained", "%s for %.1f s, %s lost, %s out of order",
		rateText(s.BenchRate), s.Seconds, finePercent(s.Loss), finePercent(share(s.OutOfOrder, s.Received)))
	line("frames", "of %d bytes", b.FrameBytes)
	line("RTT idle", "%s", benchRTTText(&b.Idle))
	line("RTT loaded", "%s", benchRTTText(&b.Loaded))
	_, err := io.WriteString(w, out.String())
	return err
}

func wayText(b *Bench) string {
	text := "direct"
	if !b.Direct {
		text = fmt.Sprintf("relayed, first by %s(%s)", b.Via, b.ViaNickName)
	}
	encryption := "not encrypted"
	switch {
	case b.Encrypted && b.Authenticated:
		encryption = "encrypted"
	case b.Encrypted:
		encryption = "encrypted, " + unauthenticated
	}
	text += fmt.Sprintf(", over %s to %s, MTU %s, %s", orUnknown(b.Transport), orUnknown(b.Address), figure(b.MTU), encryption)
	if b.Changed {
		text += "; CHANGED while measuring"
	}
	return text
}

func limitText(by string) string {
	switch measure.Limit(by) {
	case measure.LimitPath:
		return ""
	case measure.LimitSender:
		return " (this host sends no faster)"
	}
	return " (not enough time to find the limit)"
}

// rateText prints a rate with three significant figures.
func rateText(r BenchRate) string {
	bits, bitsPrefix := siText(r.Bits)
	frames, framesPrefix := siText(r.Frames)
	return fmt.Sprintf("%s %sbit/s, %s%s frames/s", bits, bitsPrefix, frames, framesPrefix)
}

// siText prints a figure, and the prefix that its unit gets.
func siText(v float64) (text, prefix string) {
	for _, p := range []string{"k", "M", "G", "T"} {
		if v < 999.5 {
			break
		}
		v, prefix = v/1000, p
	}
	digits := 2
	switch {
	case v >= 99.95:
		digits = 0
	case v >= 9.995:
		digits = 1
	}
	return strconv.FormatFloat(v, 'f', digits, 64), prefix
}

// finePercent prints a share of 1 with two digits, and tells little from nothing.
func finePercent(share float64) string {
	if share > 0 && share < 0.0001 {
		return "<0.01%"
	}
	return strconv.FormatFloat(share*100, 'f', 2, 64) + "%"
}

func share(part, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return float64(part) / float64(of)
}

func benchRTTText(r *BenchRTT) string {
	if r.P50 == nil || r.P99 == nil {
		return fmt.Sprintf("unknown: none of %s was answered", count(r.Sent, "echo"))
	}
	return fmt.Sprintf("%s median, %s p99, %d of %d lost", millisText(*r.P50), millisText(*r.P99), r.Sent-r.Received, r.Sent)
}

func millisText(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	if d < time.Millisecond {
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
	return strconv.FormatFloat(ms, 'f', 2, 64) + " ms"
}
