package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unknown is how a figure that is not known is printed.
const unknown = "-"

// humanBytes prints bytes in IEC units with three significant figures.
func humanBytes(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + "B"
	}
	value, unit := float64(n), -1
	for value >= 1024 {
		value /= 1024
		unit++
	}
	digits := 2
	switch {
	case value >= 99.95:
		digits = 0
	case value >= 9.995:
		digits = 1
	}
	return strconv.FormatFloat(value, 'f', digits, 64) + string("KMGTPE"[unit]) + "iB"
}

// seconds prints a duration in whole seconds, minutes, hours or days.
func seconds(d time.Duration) string {
	s := int(math.Ceil(d.Seconds()))
	switch {
	case s < 0:
		return "0 s"
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%d h", s/3600)
	}
	return fmt.Sprintf("%d days", s/86400)
}

// percent prints a share of 1.
func percent(share float64) string {
	return strconv.FormatFloat(share*100, 'f', 1, 64) + "%"
}

// figure prints *v, unknown for nil.
func figure[T any](v *T) string {
	if v == nil {
		return unknown
	}
	return fmt.Sprint(*v)
}

// orUnknown prints s, unknown where it is empty.
func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// rttText prints a path's round-trip time; ~ marks one of the control
// connection's TCP_INFO, which delayed acknowledgements make too large.
func rttText(p *Path) string {
	if p.RTT == nil {
		return unknown
	}
	text := strconv.FormatFloat(*p.RTT, 'f', 2, 64) + "ms"
	if p.RTTSource == "tcp_info" {
		return "~" + text
	}
	return text
}

func lossText(p *Path) string {
	if p.Loss == nil {
		return unknown
	}
	return percent(*p.Loss)
}

// dropsText lists a direction's drops by reason, 0 where there were none.
func dropsText(drops map[string]uint64) string {
	if len(drops) == 0 {
		return "0"
	}
	var out []string
	for reason, n := range drops {
		out = append(out, fmt.Sprintf("%s=%d", reason, n))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}
