package integration

import (
	"net/netip"
	"testing"

	"meshd/internal/lab"
)

// internet makes a router that sites can be put around; the test is skipped
// without nft.
func (w *world) internet() *lab.Internet {
	w.Helper()
	w.needNFT()
	i, err := w.lab.Internet("internet")
	w.must(err)
	return i
}

// site adds a site with one host, weave01 for example, that may run meshd. at is
// an Internet or a Carrier.
func (w *world) site(at interface {
	Site(string, lab.SiteConfig) (*lab.Site, error)
}, nick string, c lab.SiteConfig) (*host, *lab.Site) {
	w.Helper()
	s, err := at.Site(nick, c)
	w.must(err)
	return w.siteHost(s.Host(), nick), s
}

// siteHost makes a site's host one that may run meshd.
func (w *world) siteHost(h *lab.SiteHost, nick string) *host {
	w.Helper()
	p := plug{}
	for _, a := range h.IPv4 {
		p.addrs = append(p.addrs, netip.PrefixFrom(a, a.BitLen()))
	}
	if h.IPv6.IsValid() {
		p.addrs = append(p.addrs, netip.PrefixFrom(h.IPv6, h.IPv6.BitLen()))
	}
	return w.machine(h.Namespace, nick, []plug{p})
}

// TestBehindNATs: hosts behind NATs are one mesh as long as they all reach one
// that is public, which relays between those that do not reach each other.
//
//	weave01 ── internet ── weave02-gw (── weave02-carrier) ── weave02
//	              └─────── weave03-gw ── weave03
func TestBehindNATs(t *testing.T) {
	once(t)
	for _, kind := range []lab.NATKind{lab.NATPortRestricted, lab.NATSymmetric, lab.NATDouble} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			i := w.internet()
			public, _ := w.site(i, "weave01", lab.SiteConfig{})
			a, _ := w.site(i, "weave02", lab.SiteConfig{NAT: kind})
			b, _ := w.site(i, "weave03", lab.SiteConfig{NAT: lab.NATSymmetric})
			public.start()
			a.start(public.addr())
			b.start(public.addr())
			w.reach(public, a, b)
			w.answers(w.boxes(public, a, b)...)
		})
	}
}
