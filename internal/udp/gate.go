package udp

import "time"

const (
	gateMost  = 1000             // ICMP errors in a second
	gateQuiet = 10 * time.Second // without any, once there were more
)

// gate decides when there are so many ICMP errors that none is to be listened
// to. Anybody can send them: they cost time, and room in the receive buffer.
type gate struct {
	since  time.Time // begin of the second
	count  int       // errors since then
	closed bool
	until  time.Time // when it is opened again, if closed
}

// pass counts an error and reports whether the gate is to be closed.
func (g *gate) pass(now time.Time) (shut bool) {
	if now.Sub(g.since) > time.Second {
		g.since, g.count = now, 0
	}
	if g.count++; g.count <= gateMost {
		return false
	}
	*g = gate{closed: true, until: now.Add(gateQuiet)}
	return true
}

// open reports whether a closed gate is to be opened.
func (g *gate) open(now time.Time) bool {
	if !g.closed || now.Before(g.until) {
		return false
	}
	*g = gate{}
	return true
}
