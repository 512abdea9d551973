package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
)

// internet is one where there is nft.
func internet(t *testing.T, l *Lab) *Internet {
	t.Helper()
	if _, err := nft(); err != nil {
		t.Skip(err)
	}
	i, err := l.Internet("internet")
	must(t, err)
	return i
}

// sited is an Internet or a Carrier.
type sited interface {
	Site(string, SiteConfig) (*Site, error)
}

func site(t *testing.T, at sited, name string, c SiteConfig) *Site {
	t.Helper()
	s, err := at.Site(name, c)
	must(t, err)
	return s
}

func TestSubnet(t *testing.T) {
	for _, tt := range []struct {
		of           string
		bits, number int
		want         string
	}{
		{"203.0.113.0/24", 29, 0, "203.0.113.0/29"},
		{"203.0.113.0/24", 29, 31, "203.0.113.248/29"},
		{"203.0.113.0/24", 29, 32, "invalid Prefix"},
		{"192.168.0.0/16", 24, 10, "192.168.10.0/24"},
		{"100.64.0.0/10", 24, 1<<13 + 3, "100.96.3.0/24"},
		{"2001:db8::/33", 64, 0x1234, "2001:db8:0:1234::/64"},
		{"2001:db8:8000::/33", 64, 0x51234, "2001:db8:8005:1234::/64"},
	} {
		got, err := subnet(pfx(tt.of), tt.bits, tt.number)
		if got.String() != tt.want || (err == nil) != got.IsValid() {
			t.Errorf("subnet(%s, %d, %d) = %v, %v, want %s", tt.of, tt.bits, tt.number, got, err, tt.want)
		}
	}
}

// TestSiteHops counts the routers between two sites.
//
//	a ── a-gw ── internet ── b-gw ── b
//	     c-gw ── c-carrier ─┘
func TestSiteHops(t *testing.T) {
	t.Parallel()
	i := internet(t, newLab(t))
	b := site(t, i, "b", SiteConfig{})
	conn, err := b.Host().ListenPacket("udp4", netip.AddrPortFrom(b.Inside(), 0).String())
	must(t, err)
	p := ipv4.NewPacketConn(conn)
	must(t, p.SetControlMessage(ipv4.FlagTTL, true))
	must(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	for name, tt := range map[string]struct {
		kind NATKind
		hops int
	}{"a": {NATPortRestricted, 3}, "c": {NATDouble, 4}} {
		s := site(t, i, name, SiteConfig{NAT: tt.kind})
		c, err := s.Host().Dial(t.Context(), "udp4", conn.LocalAddr().String())
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte("x"))
		must(t, err)
		_, m, from, err := p.ReadFrom(make([]byte, 100))
		must(t, err)
		if got := 64 - m.TTL; got != tt.hops {
			t.Errorf("from a host behind %s are %d hops, want %d", tt.kind, got, tt.hops)
		}
		if got := from.(*net.UDPAddr).AddrPort().Addr(); got != s.Outside {
			t.Errorf("a host behind %s sends from %v, want %v", tt.kind, got, s.Outside)
		}
	}
}

// TestSiteTwoHosts: two hosts behind one NAT that use the same port have
// different ones outside, and reach each other on their LAN.
//
//	a ┬ home-gw ── internet ── server-gw ── server
//	b ┘
func TestSiteTwoHosts(t *testing.T) {
	const port = 6785
	for _, kind := range []NATKind{
		NATFullCone, NATAddressRestricted, NATPortRestricted, NATPortRestrictedOpen, NATSymmetric, NATDouble, NATShortLived,
	} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			i := internet(t, newLab(t))
			server := site(t, i, "server", SiteConfig{})
			home := site(t, i, "home", SiteConfig{NAT: kind, Hosts: []string{"a", "b"}})
			s := listen(t, server.Host().Namespace, at(server.Inside()))
			var ends [2]end
			var seen [2]netip.AddrPort
			for n, h := range home.Hosts {
				ends[n] = listen(t, h.Namespace, netip.AddrPortFrom(h.IPv4[0], port))
				var ok bool
				if seen[n], ok = ends[n].reaches(t, s, s.LocalAddr()); !ok || seen[n].Addr() != home.Outside {
					t.Fatalf("%s sends from %v, %v", h.Name, seen[n], ok)
				}
			}
			if seen[0] == seen[1] {
				t.Errorf("both hosts send from %v", seen[0])
			}
			for n := range ends {
				if _, ok := s.reaches(t, ends[n], seen[n]); !ok {
					t.Errorf("an answer to %v does not reach host %d", seen[n], n)
				}
			}
			if from, ok := ends[0].reaches(t, ends[1], ends[1].LocalAddr()); !ok || from != ends[0].LocalAddr() {
				t.Errorf("on the LAN b got a datagram from %v, %v, want %v", from, ok, ends[0].LocalAddr())
			}
		})
	}
}

// TestSitePrivate: two sites may have the same private addresses, which lead
// nowhere outside.
//
//	a 192.168.1.2 ── a-gw ── internet ── b-gw ── 192.168.1.2 b
//	c 192.168.12.2 ── c-gw ───┘
func TestSitePrivate(t *testing.T) {
	t.Parallel()
	i := internet(t, newLab(t))
	lan := pfx("192.168.1.0/24")
	a := site(t, i, "a", SiteConfig{NAT: NATFullCone, LAN: lan})
	b := site(t, i, "b", SiteConfig{NAT: NATFullCone, LAN: lan})
	c := site(t, i, "c", SiteConfig{NAT: NATFullCone})
	if a.Inside() != b.Inside() || a.Outside == b.Outside {
		t.Fatalf("a is %v, %v, b is %v, %v", a.Inside(), a.Outside, b.Inside(), b.Outside)
	}
	from, to := listen(t, c.Host().Namespace, at(c.Inside())), listen(t, b.Host().Namespace, at(b.Inside()))
	if as, ok := from.reaches(t, to, to.LocalAddr()); ok {
		t.Errorf("b got a datagram to its private address, from %v", as)
	}
	// Nor through its gateway: whoever is next to that can try.
	must(t, i.AddRoute(netip.PrefixFrom(b.Inside(), 32), b.Outside, "gw1"))
	if as, ok := from.reaches(t, to, to.LocalAddr()); ok {
		t.Errorf("b got a datagram to its private address through its gateway, from %v", as)
	}
}

// TestSiteCarrier: two sites of one carrier have one address outside; a phone is
// connected to the carrier without a NAT of its own.
//
//	a ── a-gw ────┐
//	b ── b-gw ── carrier ── internet ── server-gw ── server
//	phone ─ gw ───┘
func TestSiteCarrier(t *testing.T) {
	t.Parallel()
	i := internet(t, newLab(t))
	server := site(t, i, "server", SiteConfig{})
	s := listen(t, server.Host().Namespace, at(server.Inside()))
	carrier, err := i.Carrier("carrier", NATSymmetric)
	must(t, err)
	outside := map[netip.Addr]bool{}
	for name, kind := range map[string]NATKind{"a": NATPortRestricted, "b": NATFullCone, "phone": NATNone} {
		home := site(t, carrier, name, SiteConfig{NAT: kind, IPv6: OpenIPv6})
		h := listen(t, home.Host().Namespace, at(home.Inside()))
		seen, ok := h.reaches(t, s, s.LocalAddr())
		if !ok || seen.Addr() != home.Outside {
			t.Fatalf("%s sends from %v, %v, want %v", name, seen, ok, home.Outside)
		}
		if _, ok := s.reaches(t, h, seen); !ok {
			t.Errorf("an answer does not reach %s", name)
		}
		outside[seen.Addr()] = true
	}
	if len(outside) != 1 {
		t.Errorf("the carrier's sites have the addresses %v, want one", outside)
	}
	if _, err := i.Carrier("none", NATNone); err == nil {
		t.Error("a carrier without a NAT = nil, want an error")
	}
}

// TestSiteIPv6: addresses are the hosts' own, and a firewall lets only answers in.
//
//	a (open) ── a-gw ──────┐
//	b (firewall) ── b-gw ── internet
//	c (IPv6 only) ── c-gw ─┘
func TestSiteIPv6(t *testing.T) {
	t.Parallel()
	i := internet(t, newLab(t))
	carrier, err := i.Carrier("carrier", NATPortRestricted)
	must(t, err)
	sites := []*Site{
		site(t, i, "a", SiteConfig{NAT: NATSymmetric, IPv6: OpenIPv6}),
		site(t, i, "b", SiteConfig{NAT: NATPortRestricted, IPv6: FirewalledIPv6, Hosts: []string{"b", "b2"}}),
		site(t, i, "c", SiteConfig{IPv6: OpenIPv6, NoIPv4: true}),
		site(t, carrier, "d", SiteConfig{IPv6: FirewalledIPv6}),
		site(t, i, "e", SiteConfig{NAT: NATUDPBlocked, IPv6: OpenIPv6}),
	}
	if c := sites[2]; c.Inside() != c.Host().IPv6 || c.Host().IPv4 != nil || c.Outside.IsValid() {
		t.Errorf("the IPv6-only site is %+v, outside %v", c.Host(), c.Outside)
	}
	seen := map[netip.Addr]bool{}
	ends := make([]end, len(sites))
	for n, s := range sites {
		for _, h := range s.Hosts {
			if seen[h.IPv6] || !h.IPv6.Is6() {
				t.Errorf("%s has the address %v", h.Name, h.IPv6)
			}
			seen[h.IPv6] = true
		}
		ends[n] = listen(t, s.Host().Namespace, at(s.Host().IPv6))
	}
	const a, b, c, d, blocked = 0, 1, 2, 3, 4
	for _, tt := range []struct {
		from, to int
		want     bool
	}{
		{a, c, true}, {c, a, true},
		{a, b, false}, {b, a, true}, {a, b, true}, {c, b, false},
		{c, d, false}, {d, c, true}, {c, d, true},
		{a, blocked, false}, {blocked, a, false},
	} {
		from, ok := ends[tt.from].reaches(t, ends[tt.to], ends[tt.to].LocalAddr())
		if ok != tt.want || ok && from != ends[tt.from].LocalAddr() {
			t.Errorf("from site %d to site %d: %v, seen as %v, want %v", tt.from, tt.to, ok, from, tt.want)
		}
	}
	l, err := sites[1].Host().Listen("tcp", netip.AddrPortFrom(sites[1].Host().IPv6, 0).String())
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), quiet)
	defer cancel()
	if _, err := sites[0].Host().Dial(ctx, "tcp", l.Addr().String()); err == nil {
		t.Error("a firewall lets TCP in")
	}
	if _, err := sites[4].Host().PingOnce(within(t, 5*time.Second), sites[0].Host().IPv6); err != nil {
		t.Errorf("ping: %v", err)
	}
}

// TestSiteRoom: what does not fit is an error.
func TestSiteRoom(t *testing.T) {
	i := internet(t, newLab(t))
	if _, err := i.Site("a", SiteConfig{Addresses: 6}); err == nil {
		t.Error("a site with 6 addresses in a /29 = nil, want an error")
	}
	for n := range 32 {
		_, err := i.Site(fmt.Sprintf("site%d", n), SiteConfig{NAT: NATNone, IPv6: OpenIPv6})
		if last := n == 31; (err != nil) != last {
			t.Fatalf("site %d: %v", n, err)
		}
	}
}
