package nattest

import (
	"net/netip"
	"slices"
	"time"
)

// poisonTime is how long a NAT without a firewall remembers a datagram that was
// for itself: net.netfilter.nf_conntrack_udp_timeout.
const poisonTime = 30 * time.Second

// flowTable is Linux's connection tracking with masquerade: an outside port is
// taken for one remote at a time, and two flows of a socket share a port only as
// long as nothing is in the way.
type flowTable struct {
	b      Behaviour
	ports  ports
	flows  map[netip.AddrPort][]*flow // by socket, the newest last
	tuples map[tuple]*flow
}

// tuple is how a flow is known outside.
type tuple struct {
	port   uint16
	remote netip.AddrPort
}

type flow struct {
	tuple
	inside netip.AddrPort // not valid: it is the NAT's own
	expiry
}

func newFlowTable(b Behaviour, p ports) *flowTable {
	return &flowTable{b, p, map[netip.AddrPort][]*flow{}, map[tuple]*flow{}}
}

func (t *flowTable) out(now time.Time, inside, remote netip.AddrPort) (uint16, bool) {
	own := slices.DeleteFunc(t.flows[inside], func(f *flow) bool { return !f.live(now) })
	t.flows[inside] = own
	for _, f := range own {
		if f.remote == remote {
			f.prolong(now, t.b.Lifetime, t.b.Answered, false)
			return f.port, true
		}
	}
	port, ok := t.choose(now, inside, remote, own)
	if !ok {
		return 0, false
	}
	f := &flow{tuple: tuple{port, remote}, inside: inside}
	f.prolong(now, t.b.Lifetime, t.b.Answered, false)
	t.flows[inside] = append(own, f)
	t.tuples[f.tuple] = f
	return port, true
}

// choose takes the port that the socket's newest flow has, if it is free for
// remote, else what the settings ask for (nf_nat_core.c, get_unique_tuple).
func (t *flowTable) choose(now time.Time, inside, remote netip.AddrPort, own []*flow) (uint16, bool) {
	free := func(port uint16) bool {
		f := t.tuples[tuple{port, remote}]
		return f == nil || !f.live(now)
	}
	if len(own) > 0 {
		if port := own[len(own)-1].port; free(port) {
			return port, true
		}
	}
	return t.ports.choose(inside.Port(), free)
}

func (t *flowTable) in(now time.Time, port uint16, remote netip.AddrPort) (netip.AddrPort, bool) {
	f := t.tuples[tuple{port, remote}]
	switch {
	case f != nil && f.live(now) && f.inside.IsValid():
		f.prolong(now, t.b.Lifetime, t.b.Answered, true)
		return f.inside, true
	case t.b.InputPoisons:
		if f == nil || !f.live(now) {
			f = &flow{tuple: tuple{port, remote}}
			t.tuples[f.tuple] = f
		}
		f.at = now.Add(poisonTime)
	}
	return netip.AddrPort{}, false
}
