package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

// natWorld is a mesh around a public host, with hosts behind NATs.
//
//	a ── NAT ── Internet ── NAT ── b
//	               └── weave01
type natWorld struct {
	*world
	net    *lab.Internet
	public *host
	target string // the public host's address
}

func newNATWorld(t *testing.T) *natWorld {
	t.Helper()
	w := &natWorld{world: newWorld(t)}
	var err error
	w.net, err = w.lab.Internet("core")
	w.must(err)
	site := w.site("weave01", lab.SiteConfig{Addresses: 2})
	w.public, w.target = w.sited(site), site.Inside().String()
	return w
}

func (w *natWorld) site(name string, c lab.SiteConfig) *lab.Site {
	w.Helper()
	s, err := w.net.Site(name, c)
	w.must(err)
	return s
}

// sited prepares meshd on a site's first host.
func (w *natWorld) sited(s *lab.Site) *host { return w.onHost(s.Host()) }

func (w *natWorld) onHost(s *lab.SiteHost) *host {
	w.Helper()
	node, err := peer.New(s.Namespace, peer.Config{
		Binary: suite.binary, Dir: filepath.Join(w.lab.Dir(), s.Name),
		Name:     fmt.Sprintf("02:00:00:00:00:%02x", len(w.hosts)+1),
		NickName: s.Name,
		Args:     []string{"--log-level", "debug"},
	})
	w.must(err)
	h := &host{Peer: node, w: w.world}
	w.hosts = append(w.hosts, h)
	return h
}

// direct waits until a has a path of its own to b.
func (w *natWorld) direct(a, b *host) {
	w.Helper()
	w.eventually(fmt.Sprintf("%s goes to %s directly", a.NickName, b.NickName), func(ctx context.Context) error {
		r, err := a.Report(ctx)
		if err != nil {
			return err
		}
		if c, ok := r.Active(b.Name); !ok {
			return fmt.Errorf("%s is reached over %q", b.NickName, r.Via(b.Name))
		} else {
			w.Logf("over %s, carrier %s", c.Transport, c.Carrier)
		}
		return nil
	})
}

func TestPunchKinds(t *testing.T) {
	for _, k := range []lab.NATKind{lab.NATPortRestricted, lab.NATPortRestrictedOpen, lab.NATFullCone, lab.NATAddressRestricted, lab.NATDouble, lab.NATShortLived, lab.NATNone} {
		t.Run(string(k), func(t *testing.T) {
			w := newNATWorld(t)
			a := w.sited(w.site("a", lab.SiteConfig{NAT: k}))
			b := w.sited(w.site("b", lab.SiteConfig{NAT: lab.NATPortRestricted}))
			w.public.up()
			begin := time.Now()
			a.start(w.target)
			b.start(w.target)
			a.ready()
			b.ready()
			boxes := w.boxes(a, b)
			w.answers(boxes...)
			t.Log("first frame", time.Since(begin))
			w.direct(a, b)
			w.direct(b, a)
			t.Log("direct", time.Since(begin))
		})
	}
}
