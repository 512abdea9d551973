package integration

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
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
	var err error
	w.net, err = w.lab.Internet("core")
	w.must(err)
	site := w.site("weave01", lab.SiteConfig{Addresses: 2, IPv6: lab.OpenIPv6})
	w.public, w.target, w.target6 = w.sited(site), site.Inside().String(), site.Host().IPv6.String()
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
	nick := s.Name[strings.LastIndex(s.Name, "-")+1:]
	node, err := peer.New(s.Namespace, peer.Config{
		Binary: suite.binary, Dir: filepath.Join(w.lab.Dir(), nick),
		Name:     fmt.Sprintf("02:00:00:00:00:%02x", len(w.hosts)+1),
		NickName: nick,
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
