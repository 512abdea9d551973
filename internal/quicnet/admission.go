package quicnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"
)

// Bounds of connections that others open to us.
const (
	maxConns     = 1024 // in all
	maxPerSource = 32   // from one IPv4 address, or one /64 of IPv6
	maxHalfOpen  = 256  // whose handshake is not done
	retryAbove   = 16   // half-open ones; with more, who comes has to show its address (RFC 9000, section 8.1)
	sourceBits   = 64   // of an IPv6 address: what one host usually has
)

var errTooMany = errors.New("too many connections")

// admission decides which connections others may open. Its methods may be called
// concurrently.
type admission struct {
	mu       sync.Mutex // guards below
	all      int
	halfOpen int
	sources  map[netip.Prefix]int
}

// guest is a connection that was admitted.
type guest struct {
	a      *admission
	source netip.Prefix
	half   bool // guarded by a.mu, as is gone
	gone   bool
}

type guestKey struct{}

func newAdmission() *admission { return &admission{sources: map[netip.Prefix]int{}} }

// unverified reports whether who claims to be at an address has to show it: while
// there are many half-open connections, forged addresses fill no table.
func (a *admission) unverified(net.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.halfOpen >= retryAbove
}

// enter admits a connection or refuses it. ctx is done when the connection is.
func (a *admission) enter(ctx context.Context, c *quic.ClientInfo) (context.Context, error) {
	g := &guest{a: a, source: sourceOf(c.RemoteAddr), half: true}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= maxConns || a.halfOpen >= maxHalfOpen || a.sources[g.source] >= maxPerSource {
		return nil, errTooMany
	}
	a.all++
	a.halfOpen++
	a.sources[g.source]++
	context.AfterFunc(ctx, g.leave)
	return context.WithValue(ctx, guestKey{}, g), nil
}

// settle notes that a connection's handshake is done.
func (g *guest) settle() {
	g.a.mu.Lock()
	defer g.a.mu.Unlock()
	g.settleLocked()
}

func (g *guest) settleLocked() {
	if g.half {
		g.half = false
		g.a.halfOpen--
	}
}

// leave notes that a connection is gone.
func (g *guest) leave() {
	g.a.mu.Lock()
	defer g.a.mu.Unlock()
	if g.gone {
		return
	}
	g.gone = true
	g.settleLocked()
	g.a.all--
	if g.a.sources[g.source]--; g.a.sources[g.source] == 0 {
		delete(g.a.sources, g.source)
	}
}

// sourceOf is what counts as one source.
func sourceOf(addr net.Addr) netip.Prefix {
	u, ok := addr.(*net.UDPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := unmap(u.AddrPort()).Addr().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = sourceBits
	}
	p, _ := ip.Prefix(bits) // bits fit the family
	return p
}
