package nattest

import (
	"fmt"
	"net/netip"
	"slices"
)

// IPv6 is what a site has of it.
type IPv6 int

// A site has none, addresses that anybody may send to, or addresses behind a
// firewall that lets only answers in.
const (
	NoIPv6 IPv6 = iota
	OpenIPv6
	FirewalledIPv6
)

// SiteConfig says how a site is made. The zero value is one public host.
type SiteConfig struct {
	Kind  Kind // "": None
	Hosts int  // on the site's LAN; 0: one
	// Addresses is how many IPv4 addresses each host has; 0: one.
	Addresses int
	// LAN is the site's private network of 256 addresses, which two sites may have
	// the same; not valid: one of the site's own.
	LAN    netip.Prefix
	IPv6   IPv6
	NoIPv4 bool // IPv6 only
}

// Site is hosts behind the NATs of a kind.
type Site struct {
	Hosts []*Host
	NATs  []*NAT // the hosts' own first; none where there is nothing between
	// Outside is the IPv4 address that others see; not valid where there is no NAT:
	// they see the hosts' own.
	Outside netip.Addr
}

// Reboot makes all NATs of the site forget their mappings.
func (s *Site) Reboot() {
	for _, n := range s.NATs {
		n.Reboot()
	}
}

// The ranges that sites' addresses are of, those that internal/lab has too. The
// public ones are for documentation (RFC 5737, RFC 3849): no program takes them
// for private ones.
var (
	natRange     = netip.MustParsePrefix("203.0.113.0/24")
	publicRange  = netip.MustParsePrefix("198.51.100.0/24") // of hosts without NAT
	carrierRange = netip.MustParsePrefix("100.64.0.0/10")   // between two NATs, RFC 6598
	privateRange = netip.MustParsePrefix("192.168.0.0/16")
	site6Range   = netip.MustParsePrefix("2001:db8::/32")
)

// maxSites is for how many the ranges suffice.
const maxSites = 200

// Site adds a site to the Internet. It panics after 200 sites, or if there are
// more addresses than there is room for.
func (n *Network) Site(c SiteConfig) *Site {
	plan := n.plan(&c)
	s := &Site{}
	inside, bs := n.realm, c.Kind.NATs()
	if len(bs) == 0 && c.IPv6 == FirewalledIPv6 {
		bs = []Behaviour{{Router: true}}
	}
	for i, b := range slices.Backward(bs) {
		b.Firewall6 = i == 0 && c.IPv6 == FirewalledIPv6
		outside := plan.outside(len(bs) - 1 - i)
		if i == len(bs)-1 && !b.Router {
			s.Outside = outside
		}
		nat := inside.NAT(b, outside)
		s.NATs = slices.Insert(s.NATs, 0, nat)
		inside = nat.realm
	}
	for range c.Hosts {
		s.Hosts = append(s.Hosts, inside.Host(plan.next(c)...))
	}
	return s
}

// sitePlan gives out the addresses of a site.
type sitePlan struct {
	number       byte
	last4, last6 netip.Addr
}

// plan plans a site, after it has replaced the config's zeros by what they mean.
func (n *Network) plan(c *SiteConfig) sitePlan {
	c.Hosts, c.Addresses = max(c.Hosts, 1), max(c.Addresses, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sites == maxSites {
		panic(fmt.Sprintf("nattest: more than %d sites", maxSites))
	}
	p := sitePlan{number: byte(n.sites)}
	n.sites++
	p.last6 = with(site6Range, 7, p.number)
	switch {
	case c.LAN.IsValid():
		p.last4 = c.LAN.Masked().Addr().Next() // the gateway's
	case len(c.Kind.NATs()) > 0:
		p.last4 = with(privateRange, 2, p.number+10).Next()
	case !c.NoIPv4:
		p.last4 = n.public
		for range c.Hosts * c.Addresses {
			n.public = n.public.Next()
		}
		if !publicRange.Contains(n.public) {
			panic(fmt.Sprintf("nattest: more public hosts than %v has addresses", publicRange))
		}
	}
	return p
}

// with is the range's first address with another byte at an index.
func with(p netip.Prefix, at int, b byte) netip.Addr {
	bytes := p.Addr().AsSlice()
	bytes[at] = b
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

// outside is the address of a NAT with so many others between it and the
// Internet.
func (p *sitePlan) outside(depth int) netip.Addr {
	if depth == 0 {
		return with(natRange, 3, p.number+1)
	}
	return with(carrierRange, 2, p.number).Next()
}

// next is the addresses of one more host.
func (p *sitePlan) next(c SiteConfig) (out []netip.Addr) {
	if !c.NoIPv4 {
		for range c.Addresses {
			p.last4 = p.last4.Next()
			out = append(out, p.last4)
		}
	}
	if c.IPv6 != NoIPv6 {
		p.last6 = p.last6.Next()
		out = append(out, p.last6)
	}
	return out
}
