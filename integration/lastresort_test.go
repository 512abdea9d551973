package integration

import "testing"

// blockUDP drops all UDP of the underlay.
const blockUDP = "meta l4proto udp drop;"

// TestTCPAlone: three hosts whose network passes no UDP are a full mesh over TCP.
func TestTCPAlone(t *testing.T) {
	alone(t, blockUDP, "tcp", "tcp", "fd00::1")
}

// TestLastResort: two hosts between which no UDP passes use tcp. When it does, frames
// go over punch, and back to tcp when it is blocked again: a running TCP connection
// stands still for no longer than 3 s.
//
//	weave01 ── lan ── weave02
func TestLastResort(t *testing.T) {
	once(t)
	t.Parallel()
	m := newMoving(t, func(a, _ *host) { a.block("blocked", blockUDP) })
	m.use("tcp")
	if s := m.boxes[0].pings(m.boxes[1]).end(); s.Lost() > 0 {
		t.Errorf("%d pings were lost over tcp", s.Lost())
	}
	transfers(m.world, m.boxes)
	m.move("UDP is free", func() { m.a.unblock("blocked") }, "punch", "")
	m.move("UDP is blocked", func() { m.a.block("blocked", blockUDP) }, "tcp", "")
	m.move("UDP is free again", func() { m.a.unblock("blocked") }, "punch", "")
	m.flow.end()
}

// TestTCPForSomeOnly: a host that does not know tcp, as earlier versions, shares the
// other transports with one that does.
//
//	weave01 ── lan ── weave02 without tcp
func TestTCPForSomeOnly(t *testing.T) {
	once(t)
	t.Parallel()
	m := newMoving(t, func(a, b *host) {
		a.Env = []string{"MESHD_TRANSPORTS=tcp,sleeve,quic,punch"}
		b.Env = []string{"MESHD_TRANSPORTS=punch,quic,sleeve"}
	})
	m.a.uses(m.b, "sleeve")
	m.b.uses(m.a, "punch")
	m.b.block("punch", blockPunch)
	m.b.uses(m.a, "quic")
	m.answers(m.boxes...)
}

// TestDeadTCP: a connection that no packet of gets through any more, without a word,
// is noticed in time: a running flow goes on over sleeve within 3 s, and over tcp
// again when that passes.
//
//	weave01 ── lan ── weave02
func TestDeadTCP(t *testing.T) {
	once(t)
	t.Parallel()
	m := newMoving(t, func(a, b *host) {
		for _, h := range []*host{a, b} {
			h.Env = []string{"MESHD_TRANSPORTS=tcp,sleeve"}
		}
	})
	m.use("tcp")
	m.move("TCP is blocked", func() { m.a.block("blocked", blockSession) }, "sleeve", "")
	m.move("TCP is free", func() { m.a.unblock("blocked") }, "tcp", "")
	m.flow.end()
}
