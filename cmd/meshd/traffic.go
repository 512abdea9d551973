package main

import (
	"fmt"
	"io"
	"maps"
	"strconv"

	"meshd/transport"
)

// printTraffic writes, after an empty line, a line per path and direction; nothing
// where there is no path.
func printTraffic(w io.Writer, s *Status) error {
	t := newTable("PEER", "NICKNAME", "TRANSPORT", "DIRECTION", ">FRAMES/S", ">BIT/S", ">FRAMES", ">BYTES", ">DATAGRAMS", "DROPS")
	for i := range s.Connections {
		c := &s.Connections[i]
		for j := range c.Paths {
			p := &c.Paths[j]
			t.row(trafficRow(c, p, "tx", p.TxRate, p.Tx)...)
			t.row(trafficRow(c, p, "rx", p.RxRate, p.Rx)...)
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return t.write(w)
}

func trafficRow(c *Connection, p *Path, direction string, r *transport.Rate, f transport.FlowStats) []string {
	return []string{
		c.Name, orUnknown(c.NickName), p.Transport, direction, framesText(r), bitsText(r),
		fmt.Sprint(f.Frames), humanBytes(f.Bytes), fmt.Sprint(f.Datagrams), dropsText(f.Drops),
	}
}

func framesText(r *transport.Rate) string {
	if r == nil {
		return unknown
	}
	return humanRate(r.Frames)
}

func bitsText(r *transport.Rate) string {
	if r == nil {
		return unknown
	}
	return humanRate(r.Bits)
}

// humanRate prints how often something happens per second.
func humanRate(x float64) string {
	if x == 0 {
		return "0"
	}
	text, prefix := siText(x)
	return text + prefix
}

// minRTTText prints the smallest round-trip time that probes have had lately.
func minRTTText(p *Path) string {
	if p.MinRTT == nil {
		return unknown
	}
	return strconv.FormatFloat(*p.MinRTT, 'f', 2, 64) + "ms"
}

// keysText prints handshakes and, after a plus, how often keys were changed since.
func keysText(p *Path) string { return fmt.Sprintf("%d+%d", p.Handshakes, p.Rekeys) }

// sumFlows adds up two readings.
func sumFlows(a, b transport.FlowStats) transport.FlowStats {
	sum := transport.FlowStats{
		Frames: a.Frames + b.Frames, Bytes: a.Bytes + b.Bytes, Datagrams: a.Datagrams + b.Datagrams, Drops: maps.Clone(a.Drops),
	}
	for reason, n := range b.Drops {
		if sum.Drops == nil {
			sum.Drops = map[string]uint64{}
		}
		sum.Drops[reason] += n
	}
	return sum
}

// sumRates adds up two rates, of which those that are not known do not count.
func sumRates(a, b *transport.Rate) *transport.Rate {
	if a == nil || b == nil {
		if a == nil {
			a = b
		}
		return a
	}
	return &transport.Rate{Frames: a.Frames + b.Frames, Bits: a.Bits + b.Bits}
}

// dropCount is how many frames and datagrams were dropped in one direction.
func dropCount(f transport.FlowStats) (n uint64) {
	for _, d := range f.Drops {
		n += d
	}
	return n
}
