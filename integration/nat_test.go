package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"meshd/internal/lab"
)

// natWorld is a mesh around a public host, with hosts behind NATs.
//
//	a ── NAT ── Internet ── NAT ── b
//	               └── weave01
type natWorld struct {
	*world
	net     *lab.Internet
	public  *host
	target  string // the public host's IPv4 address
	target6 string // and IPv6
}

func newNATWorld(t *testing.T) *natWorld {
	t.Helper()
	w := &natWorld{world: newWorld(t)}
	w.net = w.internet()
	public, site := w.site(w.net, "weave01", lab.SiteConfig{Addresses: 2, IPv6: lab.OpenIPv6})
	w.public, w.target, w.target6 = public, site.Inside().String(), site.Host().IPv6.String()
	return w
}

// behind adds a host at a site of its own.
func (w *natWorld) behind(nick string, c lab.SiteConfig) (*host, *lab.Site) {
	w.Helper()
	return w.site(w.net, nick, c)
}

// meet has two hosts join by the public one, and waits until their containers reach each
// other directly.
func (w *natWorld) meet(a, b *host) []*box {
	w.Helper()
	w.public.up()
	a.start(w.target)
	b.start(w.target)
	w.joined(w.public, a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	w.direct(a, b)
	return boxes
}

// direct waits until a has a path of its own to b.
func (w *natWorld) direct(a, b *host) {
	w.Helper()
	w.eventually(fmt.Sprintf("%s goes to %s directly", a.NickName, b.NickName), func(ctx context.Context) error {
		answer, text, err := a.why(ctx, b)
		if err == nil && answer.Path != "direct" {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
}

// TestPunchAlone: hosts behind NATs whose only transport is punch have their session
// over QUIC all the same.
func TestPunchAlone(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	a, _ := w.behind("a", lab.SiteConfig{NAT: lab.NATPortRestricted})
	b, _ := w.behind("b", lab.SiteConfig{NAT: lab.NATPortRestricted})
	for _, h := range []*host{w.public, a, b} {
		h.Args = append(h.Args, "--transports", "punch")
	}
	w.public.up()
	a.start(w.target)
	b.start(w.target)
	w.joined(w.public, a, b)
	w.answers(w.boxes(w.public, a, b)...)
	w.direct(a, b)
	if c, ok := a.report().Active(b.Name); !ok || c.Carrier != "quic" || c.Transport != "punch" {
		t.Errorf("the connection is %+v", c)
	}
}

// TestSameNAT: two hosts behind one NAT, with the same port, are direct with each other,
// over their LAN, and with a host behind another NAT.
//
//	a1 ──┬── NAT ── Internet ── NAT ── b
//	a2 ──┘             └── weave01
func TestSameNAT(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	site, err := w.net.Site("a", lab.SiteConfig{NAT: lab.NATPortRestricted, Hosts: []string{"a1", "a2"}})
	w.must(err)
	a1, a2 := w.siteHost(site.Hosts[0], "a1"), w.siteHost(site.Hosts[1], "a2")
	b, _ := w.behind("b", lab.SiteConfig{NAT: lab.NATPortRestricted})
	w.public.up()
	for _, h := range []*host{a1, a2, b} {
		h.start(w.target)
	}
	w.joined(w.public, a1, a2, b)
	w.answers(w.boxes(w.public, a1, a2, b)...)
	for _, x := range [][2]*host{{a1, a2}, {a2, a1}, {a1, b}, {a2, b}} {
		w.direct(x[0], x[1])
	}
	if c, _ := a1.report().Active(a2.Name); !strings.HasPrefix(c.Address, site.Hosts[1].IPv4[0].String()) {
		t.Errorf("a1 reaches a2 at %s, want an address of its LAN, %v", c.Address, site.Hosts[1].IPv4)
	}
}
