package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
)

// What the networks of an Internet are made of. The public ranges are those for
// documentation (RFC 5737, RFC 3849): no program takes them for private ones.
var (
	linkRange     = netip.MustParsePrefix("203.0.113.0/24")  // in /29: a gateway and its provider
	publicRange   = netip.MustParsePrefix("198.51.100.0/24") // in /29: hosts without NAT
	carrierRange  = netip.MustParsePrefix("100.64.0.0/10")   // in /24: RFC 6598
	privateRange  = netip.MustParsePrefix("192.168.0.0/16")  // in /24
	site6Range    = netip.MustParsePrefix("2001:db8::/33")   // in /64
	link6Range    = netip.MustParsePrefix("2001:db8:8000::/33")
	privateRanges = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), privateRange, carrierRange,
	}
	all4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	all6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// hostLink is the interface of a site's host.
const hostLink = "eth0"

// Internet is a router in the middle with sites around it:
//
//	host ── gateway ── Internet ── gateway ── host
//	                      └── Carrier ── gateway ── host
//
// It has no way to private addresses, and drops what is sent there.
type Internet struct{ *provider }

// Carrier is a provider's network that is behind a NAT itself.
type Carrier struct {
	*provider
	NAT *NAT
}

// provider is a router that sites are connected to. Its methods may be called
// concurrently.
type provider struct {
	*Namespace
	lab      *Lab
	links    netip.Prefix // of its links to gateways
	bits     int          // of each
	attached atomic.Int64 // links
	counts   *counts

	parent *provider // nil: it is the Internet itself
	up     uplink    // to the parent, through the provider's NAT
}

// counts is what all providers of an Internet number together.
type counts struct{ sites, links6 atomic.Int64 }

// uplink is a gateway's connection to its provider.
type uplink struct {
	addr4, addr6 netip.Addr // the gateway's; not valid: none
	port         string     // the provider's interface
}

// Internet adds a router that sites can be connected to.
func (l *Lab) Internet(name string) (*Internet, error) {
	n, err := l.Router(name)
	if err != nil {
		return nil, err
	}
	p := &provider{Namespace: n, lab: l, links: linkRange, bits: 29, counts: new(counts)}
	for _, r := range privateRanges {
		if err := n.Blackhole(r); err != nil {
			return nil, err
		}
	}
	return &Internet{p}, nil
}

// Carrier adds a carrier's network whose NAT is of a kind: what is connected to
// it is behind that NAT, besides its own. IPv6 is routed.
func (i *Internet) Carrier(name string, kind NATKind) (*Carrier, error) {
	if kind == NATNone {
		return nil, fmt.Errorf("carrier %s has no NAT", name)
	}
	t, err := i.lab.NAT(name, kind)
	if err != nil {
		return nil, err
	}
	up, err := i.connect(t.Namespace, true, true)
	if err != nil {
		return nil, err
	}
	return &Carrier{NAT: t, provider: &provider{
		Namespace: t.Namespace, lab: i.lab, parent: i.provider, up: up, counts: i.counts,
		links: carrierRange, bits: 24,
	}}, nil
}

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
	NAT NATKind // "": NATNone
	// Hosts are the names of the hosts on the site's LAN; none: one that is named
	// as the site.
	Hosts []string
	// Addresses is how many IPv4 addresses each host has; 0: one.
	Addresses int
	// LAN is the site's IPv4 network, /29 or larger; two sites behind NATs may
	// have the same. Not valid: one of the site's own, private where there is a
	// NAT and public where not.
	LAN    netip.Prefix
	IPv6   IPv6
	NoIPv4 bool // IPv6 only
}

// Site is a LAN with a gateway that is connected to a provider. The gateway is
// named as the site with "-gw" after it.
type Site struct {
	Hosts   []*SiteHost
	Gateway *NAT
	Carrier *NAT // the second NAT of NATDouble, named with "-carrier"; else nil
	LAN     *Switch
	// Outside is the IPv4 address that others see; not valid where there is no NAT:
	// they see the hosts' own.
	Outside netip.Addr
}

// SiteHost is a machine on a site's LAN, on its interface eth0.
type SiteHost struct {
	*Namespace
	IPv4 []netip.Addr
	IPv6 netip.Addr // not valid without
}

// Host is the site's first host.
func (s *Site) Host() *SiteHost { return s.Hosts[0] }

// Inside is the first address of the first host, IPv4 if it has that.
func (s *Site) Inside() netip.Addr {
	if h := s.Host(); len(h.IPv4) > 0 {
		return h.IPv4[0]
	}
	return s.Host().IPv6
}

// Reboot makes all NATs of the site forget their mappings.
func (s *Site) Reboot() error {
	if s.Carrier == nil {
		return s.Gateway.Reboot()
	}
	return errors.Join(s.Gateway.Reboot(), s.Carrier.Reboot())
}

// Site adds a site of the Internet. NATDouble is a NATPortRestricted in front of
// a carrier's NAT that is another.
func (i *Internet) Site(name string, c SiteConfig) (*Site, error) {
	if c.NAT != NATDouble {
		return i.site(name, c)
	}
	c.NAT = NATPortRestricted
	carrier, err := i.Carrier(name+"-carrier", NATPortRestricted)
	if err != nil {
		return nil, err
	}
	s, err := carrier.Site(name, c)
	if err != nil {
		return nil, err
	}
	s.Carrier = carrier.NAT
	return s, nil
}

// Site adds a site of the carrier's.
func (c *Carrier) Site(name string, s SiteConfig) (*Site, error) { return c.site(name, s) }

func (p *provider) site(name string, c SiteConfig) (*Site, error) {
	if c.NAT == "" {
		c.NAT = NATNone
	}
	gw, err := p.lab.gateway(name+"-gw", c.NAT, c.IPv6 == FirewalledIPv6)
	if err != nil {
		return nil, err
	}
	up, err := p.connect(gw.Namespace, !c.NoIPv4, c.IPv6 != NoIPv6)
	if err != nil {
		return nil, err
	}
	lan, err := p.lab.Switch(name + "-lan")
	if err != nil {
		return nil, err
	}
	s := &Site{Gateway: gw, LAN: lan}
	plan, err := p.plan(c)
	if err != nil {
		return nil, err
	}
	if err := plan.reachable(p, up); err != nil {
		return nil, err
	}
	switch {
	case p.parent != nil:
		s.Outside = p.up.addr4
	case c.NAT != NATNone:
		s.Outside = up.addr4
	}
	if err := lan.Plug(gw.Namespace, NATInside, plan.gateway()...); err != nil {
		return nil, err
	}
	names := c.Hosts
	if len(names) == 0 {
		names = []string{name}
	}
	for _, n := range names {
		h, err := s.add(p.lab, n, &plan, max(c.Addresses, 1))
		if err != nil {
			return nil, err
		}
		s.Hosts = append(s.Hosts, h)
	}
	return s, nil
}

// add adds a host to the site's LAN.
func (s *Site) add(l *Lab, name string, plan *lanPlan, addresses int) (*SiteHost, error) {
	n, err := l.Namespace(name)
	if err != nil {
		return nil, err
	}
	h := &SiteHost{Namespace: n}
	var own []netip.Prefix
	if plan.v4.IsValid() {
		for range addresses {
			a, err := plan.next4()
			if err != nil {
				return nil, err
			}
			h.IPv4 = append(h.IPv4, a)
			own = append(own, netip.PrefixFrom(a, plan.v4.Bits()))
		}
	}
	if plan.v6.IsValid() {
		h.IPv6 = plan.next6()
		own = append(own, netip.PrefixFrom(h.IPv6, plan.v6.Bits()))
	}
	if err := s.LAN.Plug(n, hostLink, own...); err != nil {
		return nil, err
	}
	for _, g := range plan.gateway() {
		all := all4
		if g.Addr().Is6() {
			all = all6
		}
		if err := n.AddRoute(all, g.Addr(), hostLink); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// lanPlan gives out the addresses of a LAN, the first of each family to the
// gateway. A family that the site does not have is not valid.
type lanPlan struct {
	public bool // IPv4 addresses are not translated
	v4, v6 netip.Prefix
	last4  netip.Addr
	last6  netip.Addr
}

func (p *provider) plan(c SiteConfig) (l lanPlan, err error) {
	number := int(p.counts.sites.Add(1)) - 1
	l.public = c.NAT == NATNone
	if c.IPv6 != NoIPv6 {
		if l.v6, err = subnet(site6Range, 64, number); err != nil {
			return l, err
		}
		l.last6 = l.v6.Addr().Next()
	}
	if c.NoIPv4 {
		return l, nil
	}
	switch {
	case c.LAN.IsValid():
		l.v4 = c.LAN.Masked()
	case !l.public:
		l.v4, err = subnet(privateRange, 24, number+10) // not those that machines really have
	case p.parent != nil:
		l.v4, err = subnet(carrierRange, 24, number+1<<13) // not those of its links
	default:
		l.v4, err = subnet(publicRange, 29, number)
	}
	l.last4 = l.v4.Addr().Next()
	return l, err
}

// subnet is the network of that number and length in a range.
func subnet(of netip.Prefix, bits, number int) (netip.Prefix, error) {
	if number>>(bits-of.Bits()) != 0 {
		return netip.Prefix{}, fmt.Errorf("%v has no room for %d networks", of, number+1)
	}
	b := of.Addr().AsSlice()
	for at := bits - 1; number != 0; at-- {
		b[at/8] |= byte(number&1) << (7 - at%8)
		number >>= 1
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits), nil
}

// gateway is the gateway's addresses.
func (l *lanPlan) gateway() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []netip.Prefix{l.v4, l.v6} {
		if p.IsValid() {
			out = append(out, netip.PrefixFrom(p.Addr().Next(), p.Bits()))
		}
	}
	return out
}

func (l *lanPlan) next4() (netip.Addr, error) {
	l.last4 = l.last4.Next()
	if !l.v4.Contains(l.last4.Next()) { // the last address is that of broadcasts
		return netip.Addr{}, fmt.Errorf("%v has no room for another host", l.v4)
	}
	return l.last4, nil
}

func (l *lanPlan) next6() netip.Addr {
	l.last6 = l.last6.Next()
	return l.last6
}

// reachable adds the routes to the LAN, as far as its addresses are public.
func (l *lanPlan) reachable(p *provider, up uplink) error {
	if l.v4.IsValid() && l.public {
		if err := p.route(l.v4, up.addr4, up.port); err != nil {
			return err
		}
	}
	if l.v6.IsValid() {
		return p.route(l.v6, up.addr6, up.port)
	}
	return nil
}

// route adds a route to a customer's network here and, if there is no NAT in
// between, further up.
func (p *provider) route(to netip.Prefix, via netip.Addr, port string) error {
	if err := p.AddRoute(to, via, port); err != nil {
		return err
	}
	if p.parent == nil || to.Addr().Is4() {
		return nil
	}
	return p.parent.route(to, p.up.addr6, p.up.port)
}

// connect lays a cable from a gateway's outside to the provider, which everything
// is routed to.
func (p *provider) connect(gw *Namespace, v4, v6 bool) (uplink, error) {
	number := int(p.attached.Add(1)) - 1
	up := uplink{port: fmt.Sprintf("gw%d", number)}
	if err := Connect(gw, NATOutside, p.Namespace, up.port); err != nil {
		return up, err
	}
	if v4 {
		link, err := subnet(p.links, p.bits, number)
		if err != nil {
			return up, err
		}
		if up.addr4, err = p.join(gw, up.port, link); err != nil {
			return up, err
		}
	}
	if v6 {
		link, err := subnet(link6Range, 64, int(p.counts.links6.Add(1))-1)
		if err != nil {
			return up, err
		}
		if up.addr6, err = p.join(gw, up.port, link); err != nil {
			return up, err
		}
	}
	return up, nil
}

// join gives both ends of a link their addresses, and the gateway its way out.
func (p *provider) join(gw *Namespace, port string, link netip.Prefix) (netip.Addr, error) {
	ours := link.Addr().Next()
	theirs := ours.Next()
	all := all4
	if ours.Is6() {
		all = all6
	}
	return theirs, errors.Join(
		p.AddAddress(port, netip.PrefixFrom(ours, link.Bits())),
		gw.AddAddress(NATOutside, netip.PrefixFrom(theirs, link.Bits())),
		gw.AddRoute(all, ours, NATOutside),
	)
}
