package integration

import (
	"fmt"
	"testing"
	"time"
)

// moveWithin is the longest that a flow stands still when the transport it uses
// is blocked.
const moveWithin = 3 * time.Second

// moving is two hosts on one LAN, which a flow goes between while transports are blocked
// and freed again.
//
//	weave01 ── lan ── weave02
type moving struct {
	*world
	a, b  *host
	boxes []*box
	flow  *flow // nil: not started yet
}

// newMoving starts the hosts, after prepare; nil: there is nothing to prepare.
func newMoving(t *testing.T, prepare func(a, b *host)) *moving {
	t.Helper()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	m := &moving{world: w, a: w.host("weave01", lan.at("10.0.0.1/24")), b: w.host("weave02", lan.at("10.0.0.2/24"))}
	if prepare != nil {
		prepare(m.a, m.b)
	}
	w.mesh(m.a, m.b)
	m.boxes = w.boxes(m.a, m.b)
	w.answers(m.boxes...)
	return m
}

// use waits until frames go over a transport in both directions.
func (m *moving) use(transport string) {
	m.Helper()
	m.a.uses(m.b, transport)
	m.b.uses(m.a, transport)
}

// move does something, waits until frames go over a transport and the session rides on a
// carrier, any if it is empty, and sees that the flow stood still for no longer than it may.
func (m *moving) move(what string, do func(), transport, carrier string) {
	m.Helper()
	if m.flow == nil {
		m.flow = m.boxes[0].flow(m.boxes[1])
	}
	m.Log(what)
	do()
	m.use(transport)
	if carrier != "" {
		m.a.rides(m.b, carrier)
		m.b.rides(m.a, carrier)
	}
	m.flow.runs()
	if stall := m.flow.longest(); stall > moveWithin {
		m.Errorf("%s: the flow stood still for %v, want at most %v", what, stall, moveWithin)
	}
}

// alone starts three hosts whose network passes only what rules do not block, over IPv4 and
// over IPv6: they are a full mesh whose frames go over a transport and whose sessions ride
// on a carrier. target6 is how fd00::1, the first one's address, is named over IPv6.
//
//	weave01 ──┐
//	weave02 ──┼── lan
//	weave03 ──┘
func alone(t *testing.T, rules, transport, carrier, target6 string, env ...string) {
	t.Helper()
	for _, underlay := range []struct{ name, addr, length, target string }{
		{"IPv4", "10.0.0.", "/24", "10.0.0.1"},
		{"IPv6", "fd00::", "/64", target6},
	} {
		t.Run(underlay.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.needNFT()
			lan := w.lan("lan")
			var hosts []*host
			for i := range 3 {
				h := w.host(fmt.Sprint("weave0", i+1), lan.at(fmt.Sprint(underlay.addr, i+1, underlay.length)))
				h.Env = append([]string{"MESHD_PASSWORD=a long enough password for a test"}, env...)
				h.block("blocked", rules)
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
						a.uses(b, transport)
						a.rides(b, carrier)
					}
				}
			}
			everySize(w, boxes)
			transfers(w, boxes)
		})
	}
}
