package punch

import (
	"net/netip"
	"time"
)

// A path that works may move to another address of the neighbour that is better:
//
//	we           ── frames ──► old address       the neighbour
//	Move(new)    ── probe, frames ──► new address
//	             ◄── frames it sent before ── old    newer than all: not followed
//	                                                 follows the newest datagram
//	it followed  ◄── frames ── new address
//
// Nothing is lost: both ends take datagrams at all their addresses, and each begins to
// send to the other one when it has reason to believe that it is reached there. Should
// nothing come from the new address within moveTime, datagrams from the old one are
// followed again.

// move is a move of ours that the neighbour has not followed yet.
type move struct {
	to    netip.AddrPort // where to, as Move was told; not valid: nowhere, or Run has seen it
	left  netip.AddrPort // where from
	until time.Time      // how long it may take
}

// refuses reports whether a datagram from an address was under way as we moved.
func (m *move) refuses(now time.Time, from netip.AddrPort) bool {
	return from == m.left && now.Before(m.until)
}

// Move sends to another address of the neighbour, if the path is up: checks between our
// data socket and its one just went both ways there.
func (p *path) Move(to netip.AddrPort) {
	p.mu.Lock()
	p.moving.to = to
	p.mu.Unlock()
	p.Rouse()
}

// move does what Move was told. The kernel is asked for the route first, so that no frame
// is refused as too large for it.
func (p *path) move(now time.Time) {
	p.mu.Lock()
	to := p.moving.to
	p.moving.to = netip.AddrPort{}
	p.mu.Unlock()
	if !to.IsValid() {
		return
	}
	socket := p.t.mux.Socket(to)
	if socket == nil {
		return
	}
	mtu, err := socket.PathMTU(to)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || !p.Life.Up || p.addr == to {
		return
	}
	p.moving.left, p.moving.until = p.addr, now.Add(moveTime)
	p.home = p.addr                 // a second chance, should the path go down
	p.rx.sentFrom(netip.AddrPort{}) // whatever comes next says where the neighbour sends from
	p.goLocked(now, to, socket, mtu)
	p.Prober.Hurry() // also where no frames go
}
