package integration

import (
	"fmt"
	"testing"
)

// blockUDP drops all UDP of the underlay.
const blockUDP = "meta l4proto udp drop;"

// TestTCPAlone: three hosts whose network passes no UDP are a full mesh over TCP.
//
//	weave01 ──┐
//	weave02 ──┼── lan, where UDP is blocked
//	weave03 ──┘
func TestTCPAlone(t *testing.T) {
	for _, underlay := range []struct{ name, addr, length, target string }{
		{"IPv4", "10.0.0.", "/24", "10.0.0.1"},
		{"IPv6", "fd00::", "/64", "fd00::1"},
	} {
		t.Run(underlay.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.needNFT()
			lan := w.lan("lan")
			var hosts []*host
			for i := range 3 {
				h := w.host(fmt.Sprint("weave0", i+1), lan.at(fmt.Sprint(underlay.addr, i+1, underlay.length)))
				h.Env = []string{"MESHD_PASSWORD=a long enough password for a test"}
				h.block("blocked", blockUDP)
				hosts = append(hosts, h)
			}
			hosts[0].start()
			hosts[1].start(underlay.target)
			hosts[2].start(underlay.target)
			w.joined(hosts...)
			boxes := w.boxes(hosts...)
			w.answers(boxes...)
			for _, a := range hosts {
				for _, b := range hosts {
					if a != b {
						a.uses(b, "tcp")
						a.rides(b, "tcp")
					}
				}
			}
			everySize(w, boxes)
			transfers(w, boxes)
		})
	}
}

// TestLastResort: two hosts between which no UDP passes use tcp. When it does, frames
// go over punch, and back to tcp when it is blocked again: a running TCP connection
// stands still for no longer than 3 s.
//
//	weave01 ── lan ── weave02
func TestLastResort(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	a.block("blocked", blockUDP)
	w.mesh(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	both := func(f func(h, other *host)) { f(a, b); f(b, a) }
	both(func(h, other *host) { h.uses(other, "tcp") })
	p := boxes[0].pings(boxes[1])
	if s := p.end(); s.Lost() > 0 {
		t.Errorf("%d pings were lost over tcp", s.Lost())
	}
	transfers(w, boxes)

	f := boxes[0].flow(boxes[1])
	move := func(what string, do func(), uses string) {
		t.Helper()
		w.Log(what)
		do()
		both(func(h, other *host) { h.uses(other, uses) })
		f.runs()
		if stall := f.longest(); stall > moveWithin {
			t.Errorf("%s: the flow stood still for %v, want at most %v", what, stall, moveWithin)
		}
	}
	move("UDP is free", func() { a.unblock("blocked") }, "punch")
	move("UDP is blocked", func() { a.block("blocked", blockUDP) }, "tcp")
	move("UDP is free again", func() { a.unblock("blocked") }, "punch")
	f.end()
}

// TestTCPForSomeOnly: a host that does not know tcp, as earlier versions, shares the
// other transports with one that does.
//
//	weave01 ── lan ── weave02 without tcp
func TestTCPForSomeOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	a.Env = []string{"MESHD_TRANSPORTS=tcp,sleeve,quic,punch"}
	b.Env = []string{"MESHD_TRANSPORTS=punch,quic,sleeve"}
	w.mesh(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	a.uses(b, "sleeve")
	b.uses(a, "punch")
	b.block("punch", blockPunch)
	b.uses(a, "quic")
	w.answers(boxes...)
}

// TestDeadTCP: a connection that no packet of gets through any more, without a word,
// is noticed in time: a running flow goes on over sleeve within 3 s, and over tcp
// again when that passes.
//
//	weave01 ── lan ── weave02
func TestDeadTCP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	for _, h := range []*host{a, b} {
		h.Env = []string{"MESHD_TRANSPORTS=tcp,sleeve"}
	}
	w.mesh(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	a.uses(b, "tcp")
	b.uses(a, "tcp")
	f := boxes[0].flow(boxes[1])
	a.block("blocked", blockSession)
	a.uses(b, "sleeve")
	b.uses(a, "sleeve")
	f.runs()
	if stall := f.longest(); stall > moveWithin {
		t.Errorf("the flow stood still for %v, want at most %v", stall, moveWithin)
	}
	a.unblock("blocked")
	a.uses(b, "tcp")
	b.uses(a, "tcp")
	f.runs()
	if stall := f.longest(); stall > moveWithin {
		t.Errorf("the flow stood still for %v when tcp was back, want at most %v", stall, moveWithin)
	}
	f.end()
}
