package control

import (
	"maps"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of unfinished handshakes and of how often one address may begin one.
const (
	maxHandshakes   = 256
	maxPerSource    = 16
	sourceBurst     = 20 // the rate of a stock router, but for each address
	sourcePerSecond = 20
	maxSources      = 4096 // addresses whose rate is known
)

// gate bounds the handshakes that strangers can keep us busy with: how many are
// unfinished, and how many of those and how fast they come from one address. So
// no single address keeps others out.
type gate struct {
	mu      sync.Mutex // guards below
	total   int
	sources map[netip.Addr]*source
}

type source struct {
	open int
	rate *rate.Limiter
}

func newGate() *gate { return &gate{sources: map[netip.Addr]*source{}} }

// enter takes a place; false: there is none for this address now.
func (g *gate) enter(from netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sourceLocked(network(from), now)
	if s == nil || g.total >= maxHandshakes || s.open >= maxPerSource || !s.rate.AllowN(now, 1) {
		return false
	}
	g.total++
	s.open++
	return true
}

// sourceLocked finds or makes what is known of an address; nil: no room.
func (g *gate) sourceLocked(from netip.Addr, now time.Time) *source {
	s := g.sources[from]
	if s != nil {
		return s
	}
	if len(g.sources) >= maxSources {
		maps.DeleteFunc(g.sources, func(_ netip.Addr, s *source) bool {
			return s.open == 0 && s.rate.TokensAt(now) >= sourceBurst
		})
		if len(g.sources) >= maxSources {
			return nil
		}
	}
	s = &source{rate: rate.NewLimiter(sourcePerSecond, sourceBurst)}
	g.sources[from] = s
	return s
}

// leave gives the place back.
func (g *gate) leave(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if s := g.sources[network(from)]; s != nil {
		s.open--
	}
}

// network is what counts as one address: an IPv6 host has a /64 to itself.
func network(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
