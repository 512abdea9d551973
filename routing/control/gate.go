package control

import (
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// gate bounds the handshakes that strangers can keep us busy with: how fast they
// come (the rate of a stock router), how many are unfinished, and how many of
// those come from one address.
type gate struct {
	rate *rate.Limiter

	mu     sync.Mutex // guards below
	total  int
	source map[netip.Addr]int
}

func newGate() *gate {
	return &gate{rate: rate.NewLimiter(acceptPerSecond, acceptBurst), source: map[netip.Addr]int{}}
}

// enter takes a place; false: there is none for this address now.
func (g *gate) enter(from netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= maxHandshakes || g.source[from] >= maxPerSource {
		return false
	}
	g.total++
	g.source[from]++
	return true
}

// leave gives the place back.
func (g *gate) leave(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.source[from]--; g.source[from] == 0 {
		delete(g.source, from)
	}
}
