package integration

import (
	"slices"
	"testing"
	"time"
)

// relayOutage is the longest that two hosts may lose each other when the host
// between them drops out.
const relayOutage = 3 * time.Second

// TestOutageOfAThirdHost: in a full mesh the outage of a host costs the others
// nothing, and it comes back under its name.
//
//	weave01 ──┐
//	weave02 ──┼── lan
//	weave03 ──┘
func TestOutageOfAThirdHost(t *testing.T) {
	for _, o := range outages {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o.needs(w)
			lan := w.lan("lan")
			hosts := []*host{
				w.host("weave01", lan.at("10.0.0.1/24")),
				w.host("weave02", lan.at("10.0.0.2/24")),
				w.host("weave03", lan.at("10.0.0.3/24")),
			}
			w.mesh(hosts...)
			boxes := w.boxes(hosts...)
			w.answers(boxes...)
			for i, victim := range hosts {
				a, b := (i+1)%3, (i+2)%3
				w.Logf("%s: %s", victim.NickName, o)
				there, back := boxes[a].pings(boxes[b]), boxes[b].pings(boxes[a])
				o.out(victim)
				w.lost(victim, hosts[a], hosts[b])
				there.more(20)
				o.back(victim)
				w.joined(hosts...)
				w.answers(boxes...)
				for _, x := range []*watched{there, back} {
					if s := x.end(); s.Lost() > 0 || s.Duplicates > 0 {
						t.Errorf("%s %s: pings from %s: %v, want none lost", victim.NickName, o.name, x.name, s)
					}
				}
			}
		})
	}
}

// TestOutageOfARelay: two hosts that cannot reach each other directly lose at
// most 3 s when the host between them drops out, and nothing when the other
// possible relay does.
//
//	a ── lan1 ──┬── b ──┬── lan2 ── d
//	            └── c ──┘
func TestOutageOfARelay(t *testing.T) {
	for _, o := range outages {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o.needs(w)
			lan1, lan2 := w.lan("lan1"), w.lan("lan2")
			a := w.host("a", lan1.at("10.0.1.1/24"))
			b := w.host("b", lan1.at("10.0.1.2/24"), lan2.at("10.0.2.2/24"))
			c := w.host("c", lan1.at("10.0.1.3/24"), lan2.at("10.0.2.3/24"))
			d := w.host("d", lan2.at("10.0.2.4/24"))
			b.start()
			c.start("10.0.1.2", "10.0.2.2")
			a.start("10.0.1.2", "10.0.1.3")
			d.start("10.0.2.2", "10.0.2.3")
			w.joined(a, b, c)
			w.joined(d, b, c)
			w.settled(a, b, c, d)
			boxes := w.boxes(a, d)
			w.answers(boxes...)

			relays := []string{a.report().Via(d.Name), d.report().Via(a.Name)}
			w.Logf("from a to d via %s, back via %s", relays[0], relays[1])
			for _, victim := range []*host{b, c} {
				between := slices.Contains(relays, victim.Name)
				w.Logf("%s, which is between a and d: %v", victim.NickName, between)
				pings := boxes[0].pings(boxes[1])
				o.out(victim)
				w.lost(victim, a, d)
				pings.more(20)
				s := pings.end()
				if !between && s.Lost() > 0 {
					t.Errorf("%v, which was not between: %v, want none lost", o, s)
				}
				if s.Outage > relayOutage {
					t.Errorf("%v, which was between: %v, want an outage of at most %v", o, s, relayOutage)
				}
				o.back(victim)
				w.joined(a, b, c)
				w.joined(d, b, c)
				w.settled(a, b, c, d)
				relays = []string{a.report().Via(d.Name), d.report().Via(a.Name)}
			}
		})
	}
}

// TestRestartAtOnce: a host that is killed and started again before anybody has
// missed it is back under its name.
//
//	weave01 ── lan ── weave02
func TestRestartAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	w.mesh(a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	for _, victim := range []*host{a, b, a, b} {
		pings := boxes[0].pings(boxes[1])
		victim.kill()
		victim.again()
		pings.more(20)
		if s := pings.end(); s.Outage > 5*time.Second {
			t.Errorf("%s restarted: %v, want an outage of at most 5 s", victim.NickName, s)
		}
		w.joined(a, b)
	}
	if got := a.report().Peers; len(got) != 2 {
		t.Errorf("a knows %d peers, want 2: %+v", len(got), got)
	}
}
