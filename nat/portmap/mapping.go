package portmap

import (
	"fmt"
	"net/netip"
	"time"
)

// The protocols, as Mapping names them.
const (
	NATPMP = "nat-pmp"
	UPnP   = "upnp"
)

// Mapping is a UDP port of the gateway that is forwarded to us. The zero Mapping
// is none.
type Mapping struct {
	// External is where the gateway says that we are reached.
	External netip.AddrPort
	Protocol string // NATPMP or UPnP
	Gateway  netip.Addr
	// Expires is when the gateway forgets the mapping if it is not renewed; the
	// zero time is never, where a gateway knows permanent mappings only.
	Expires time.Time
	// DoubleNAT says that External is no address on the internet, most often
	// because the gateway is behind another NAT: no peer is to be told of it.
	DoubleNAT bool
}

// same tells whether peers need not know the difference between two mappings.
func (m Mapping) same(o Mapping) bool {
	m.Expires, o.Expires = time.Time{}, time.Time{}
	return m == o
}

// special are the IPv4 networks, beyond those that package netip knows, whose
// addresses nobody on the internet reaches (IANA's special-purpose registry).
// The documentation networks are missing: test networks play the internet with
// them.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "no host's address"},
	{netip.MustParsePrefix("192.0.0.0/24"), "one between a host and its provider's NAT (RFC 7335)"},
	{netip.MustParsePrefix("198.18.0.0/15"), "one for benchmarks (RFC 2544)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
}

var carrierNAT = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// useless says why an external address that a gateway names is of no use to
// peers; empty: it is of use.
func useless(external netip.Addr) string {
	switch {
	case external.IsPrivate():
		return "a private address: there is another NAT before it (double NAT)"
	case carrierNAT.Contains(external):
		return "one of a provider's NAT (100.64.0.0/10, double NAT)"
	case external.IsLoopback():
		return "a loopback address"
	case external.IsMulticast():
		return "a multicast address"
	case external.IsLinkLocalUnicast():
		return "a link-local address"
	}
	for _, s := range special {
		if s.prefix.Contains(external) {
			return s.what
		}
	}
	return ""
}

// judge builds the mapping of a lease, and says why it is of no use, if so.
func (m *Mapper) judge(g Gateway, a asker, l lease, now time.Time) (Mapping, string) {
	out := Mapping{External: l.external, Protocol: a.protocol(), Gateway: g.Addr}
	if l.lifetime > 0 {
		out.Expires = now.Add(l.lifetime)
	}
	addr := l.external.Addr()
	why := useless(addr)
	if why == "" && m.cfg.Refuse != nil {
		why = m.cfg.Refuse(addr)
	}
	if why == "" {
		return out, ""
	}
	out.DoubleNAT = true
	return out, fmt.Sprintf("gateway %s forwards port %d, but its own address %s is of no use to peers: %s",
		g.Addr, m.cfg.Port, addr, why)
}
