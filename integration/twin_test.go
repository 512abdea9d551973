package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// TestTwin: a host with the name of another one, and a key of its own, joins the mesh at a
// peer that has no connection with the first. The path that two hosts behind NATs have found
// stays, and loses no frame; both neighbours of the first one say that there are two, and
// refuse the second, what it announces and when it connects.
//
//	      b ── NAT ──┐
//	      a ── NAT ── Internet ── NAT ── twin, named as a
//	weave01, weave02 ┘
//
// a and weave02 cannot reach each other, nor can twin and weave01 at first.
func TestTwin(t *testing.T) {
	once(t)
	t.Parallel()
	w := newNATWorld(t)
	second, site := w.behind("weave02", lab.SiteConfig{})
	a, _ := w.behind("a", lab.SiteConfig{NAT: lab.NATPortRestricted})
	b, _ := w.behind("b", lab.SiteConfig{NAT: lab.NATPortRestricted})
	twin, home := w.behind("twin", lab.SiteConfig{NAT: lab.NATPortRestricted})
	twin.Name = a.Name
	apart := func(h *host, addr string) {
		h.block("apart", fmt.Sprintf("ip saddr %[1]s drop; ip daddr %[1]s drop;", addr))
	}
	apart(a, site.Inside().String())
	apart(twin, w.target)
	w.public.up()
	for _, h := range []*host{second, a, b} {
		h.start(w.target)
	}
	w.reach(w.public, second, a, b)
	boxes := w.boxes(a, b)
	w.answers(boxes...)
	w.direct(a, b)
	w.direct(b, a)
	before, err := b.connection(w.within(patience), a)
	w.must(err)

	p := boxes[0].pings(boxes[1])
	twin.start(site.Inside().String())
	w.reach(second, twin)
	for _, h := range []*host{b, w.public} {
		h.warns("name-claimed", "two hosts have the peer name of "+a.Name+"(a)", "twin", "weave02", "give one of them another `name`")
	}
	for _, name := range []string{"meshd_name_claims_refused_total", "meshd_signals_refused_total"} {
		n, err := b.Metric(w.within(patience), name)
		w.must(err)
		if n == 0 {
			t.Errorf("%s of b is 0", name)
		}
	}
	twin.unblock("apart")
	_, err = twin.Command(w.within(patience), "connect", w.target)
	w.must(err)
	w.eventually("twin is told why it is refused", func(ctx context.Context) error {
		r, err := twin.Report(ctx)
		if err == nil && !slices.ContainsFunc(r.Connections, func(c peer.Connection) bool {
			return strings.Contains(c.Error, "the peer refuses us: two hosts have the peer name "+a.Name)
		}) {
			err = fmt.Errorf("%+v", r.Connections)
		}
		return err
	})
	w.public.warns("name-claimed", "connects from "+home.Outside.String(), "is known to weave02")

	if s := p.end(); s.Lost() > 0 {
		t.Errorf("%d pings between a and b were lost", s.Lost())
	}
	after, err := b.connection(w.within(patience), a)
	w.must(err)
	if after.UID != before.UID || after.Transport != before.Transport || len(after.Paths) == 0 || after.Paths[0].Address != before.Paths[0].Address {
		t.Errorf("the connection to a was %+v and is %+v", before, after)
	}
}

// warns waits until status has a problem of a code with all these texts.
func (h *host) warns(code string, texts ...string) {
	h.w.Helper()
	h.w.eventually(fmt.Sprintf("%s warns of %s", h.NickName, code), func(ctx context.Context) error {
		r, err := h.Report(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Problems, func(p peer.Problem) bool { return p.Code == code })
		if i < 0 {
			return fmt.Errorf("problems: %+v", r.Problems)
		}
		for _, text := range texts {
			if !strings.Contains(r.Problems[i].Text, text) {
				return fmt.Errorf("%q has no %q", r.Problems[i].Text, text)
			}
		}
		return nil
	})
}
