package nattest

import (
	"net/netip"
	"time"
)

// mappingTable is a NAT as RFC 4787 describes it: an outside port belongs to one
// mapping.
type mappingTable struct {
	b        Behaviour
	ports    ports
	mappings map[mappingKey]*mapping
	byPort   map[uint16]*mapping
}

// mappingKey is a socket and what matters of where it sends to.
type mappingKey struct{ inside, remote netip.AddrPort }

type mapping struct {
	mappingKey
	port uint16
	expiry
	contacts map[netip.AddrPort]*expiry // by what matters of who may send
}

func newMappingTable(b Behaviour, p ports) *mappingTable {
	return &mappingTable{b, p, map[mappingKey]*mapping{}, map[uint16]*mapping{}}
}

// of is what matters of an address.
func (d Dependence) of(remote netip.AddrPort) netip.AddrPort {
	switch d {
	case EndpointIndependent:
		return netip.AddrPort{}
	case AddressDependent:
		return netip.AddrPortFrom(remote.Addr(), 0)
	}
	return remote
}

func (t *mappingTable) out(now time.Time, inside, remote netip.AddrPort) (uint16, bool) {
	key := mappingKey{inside, t.b.Mapping.of(remote)}
	m := t.mappings[key]
	if m == nil || !m.live(now) {
		t.drop(m)
		if m = t.add(now, key); m == nil {
			return 0, false
		}
	}
	m.prolong(now, t.b.Lifetime, t.b.Answered, false)
	who := t.b.Filtering.of(remote)
	if m.contacts[who] == nil {
		m.contacts[who] = &expiry{}
	}
	m.contacts[who].prolong(now, t.b.Lifetime, t.b.Answered, false)
	return m.port, true
}

// add makes a mapping; nil: no port is free.
func (t *mappingTable) add(now time.Time, key mappingKey) *mapping {
	port, ok := t.ports.choose(key.inside.Port(), func(p uint16) bool {
		m := t.byPort[p]
		return m == nil || !m.live(now)
	})
	if !ok {
		return nil
	}
	t.drop(t.byPort[port])
	m := &mapping{mappingKey: key, port: port, contacts: map[netip.AddrPort]*expiry{}}
	t.mappings[key], t.byPort[port] = m, m
	return m
}

func (t *mappingTable) drop(m *mapping) {
	if m != nil {
		delete(t.mappings, m.mappingKey)
		delete(t.byPort, m.port)
	}
}

func (t *mappingTable) in(now time.Time, port uint16, remote netip.AddrPort) (netip.AddrPort, bool) {
	m := t.byPort[port]
	if m == nil || !m.live(now) {
		return netip.AddrPort{}, false
	}
	contact := m.contacts[t.b.Filtering.of(remote)]
	if t.b.Filtering != EndpointIndependent && (contact == nil || !contact.live(now)) {
		return netip.AddrPort{}, false
	}
	m.prolong(now, t.b.Lifetime, t.b.Answered, true)
	if contact != nil {
		contact.prolong(now, t.b.Lifetime, t.b.Answered, true)
	}
	return m.inside, true
}
