package nattest

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// NAT is a NAT in front of hosts and of further NATs, which Host and NAT add
// behind it. It translates IPv4, and routes IPv6.
type NAT struct {
	*realm    // inside
	Behaviour // not to be changed
	// Addr is the outside address.
	Addr  netip.Addr
	outer *realm

	table table
	asked map[[2]netip.AddrPort]expiry // inside and outside IPv6 addresses of conversations
}

// table is what a NAT remembers of what passed it.
type table interface {
	// out finds or makes the outside port of a socket for what it sends to remote;
	// false: no port is free.
	out(now time.Time, inside, remote netip.AddrPort) (port uint16, ok bool)
	// in finds the socket that has the port and may get what remote sends to it.
	in(now time.Time, port uint16, remote netip.AddrPort) (inside netip.AddrPort, ok bool)
}

// Reboot makes the NAT forget all mappings.
func (n *NAT) Reboot() {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	n.rebootLocked()
}

func (n *NAT) rebootLocked() {
	n.asked = map[[2]netip.AddrPort]expiry{}
	p := ports{rng: n.net.rng, preserve: n.PortPreserving, step: n.PortStep}
	if n.Mapping == EndpointIndependent && (n.PerFlow || n.InputPoisons) {
		n.table = newFlowTable(n.Behaviour, p)
	} else {
		n.table = newMappingTable(n.Behaviour, p)
	}
}

// routes tells whether an address behind the NAT is the same outside.
func (n *NAT) routes(a netip.Addr) bool { return a.Is6() || n.Router }

// outLocked takes a datagram from the inside.
func (n *NAT) outLocked(d Datagram) {
	switch {
	case n.Blocked:
		return
	case n.routes(d.To.Addr()):
		n.askLocked(d.From, d.To)
	default:
		port, ok := n.table.out(time.Now(), d.From, d.To)
		if !ok {
			return
		}
		d.From = netip.AddrPortFrom(n.Addr, port)
	}
	n.outer.enterLocked(d)
}

// inLocked takes a datagram from outside.
func (n *NAT) inLocked(d Datagram) {
	switch {
	case n.Blocked:
		return
	case n.routes(d.To.Addr()):
		if n.Firewall6 && d.To.Addr().Is6() && !n.answersLocked(d) {
			return
		}
	default:
		inside, ok := n.table.in(time.Now(), d.To.Port(), d.From)
		if !ok {
			return
		}
		d.To = inside
	}
	n.forwardLocked(d)
}

// hairpinLocked takes a datagram from the inside to the NAT's outside address.
func (n *NAT) hairpinLocked(d Datagram) {
	if !n.Hairpin || n.Blocked {
		return
	}
	if port, ok := n.table.out(time.Now(), d.From, d.To); ok {
		d.From = netip.AddrPortFrom(n.Addr, port)
		n.inLocked(d)
	}
}

// askLocked notes that an answer may come.
func (n *NAT) askLocked(inside, outside netip.AddrPort) {
	key := [2]netip.AddrPort{inside, outside}
	e := n.asked[key]
	e.prolong(time.Now(), linuxLifetime, linuxAnswered, false)
	n.asked[key] = e
}

// answersLocked tells whether d is an answer.
func (n *NAT) answersLocked(d Datagram) bool {
	key, now := [2]netip.AddrPort{d.To, d.From}, time.Now()
	e := n.asked[key]
	if !e.live(now) {
		return false
	}
	e.prolong(now, linuxLifetime, linuxAnswered, true)
	n.asked[key] = e
	return true
}

// expiry is until when something is remembered. The zero value is past.
type expiry struct {
	answered bool
	at       time.Time
	never    bool
}

func (e expiry) live(now time.Time) bool { return e.never || now.Before(e.at) }

// prolong notes a datagram, which is an answer or not. first and answered are
// Behaviour.Lifetime and Answered.
func (e *expiry) prolong(now time.Time, first, answered time.Duration, isAnswer bool) {
	if !e.live(now) {
		*e = expiry{}
	}
	e.answered = (e.answered || isAnswer) && answered > 0
	switch {
	case first == 0:
		e.never = true
	case e.answered:
		e.at = now.Add(answered)
	case !isAnswer:
		e.at = now.Add(first)
	}
}

// ports chooses outside ports.
type ports struct {
	rng      *rand.Rand
	preserve bool
	step     int
	last     uint16 // 0: none yet
}

// The range of outside ports that are not preserved.
const firstPort, portCount = 1024, 1<<16 - 1024

// choose finds a port for a socket whose own port is given.
func (p *ports) choose(own uint16, free func(uint16) bool) (uint16, bool) {
	if p.preserve && free(own) {
		return own, true
	}
	at, step := p.rng.IntN(portCount), 1
	if p.step != 0 {
		step = p.step
		if p.last != 0 {
			at = int(p.last) - firstPort + step
		}
	}
	for range portCount {
		at = (at%portCount + portCount) % portCount
		if port := uint16(firstPort + at); free(port) {
			p.last = port
			return port, true
		}
		at += step
	}
	return 0, false
}
