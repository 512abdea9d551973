package lab

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/nat/nattest"
)

// patience is how long a datagram may take in the kernel. What does not come is
// waited for as long.
const patience = 300 * time.Millisecond

// internet is one with nft there.
func internet(t *testing.T, l *Lab) *Internet {
	t.Helper()
	if _, err := nft(); err != nil {
		t.Skip(err)
	}
	i, err := l.Internet("internet")
	must(t, err)
	return i
}

func site(t *testing.T, at interface {
	Site(string, SiteConfig) (*Site, error)
}, name string, c SiteConfig) *Site {
	t.Helper()
	s, err := at.Site(name, c)
	must(t, err)
	return s
}

// socket opens a UDP socket in a namespace; port 0 is any.
func socket(n *Namespace, at netip.Addr, port uint16) (mux.Socket, error) {
	var c *udp.Conn
	err := n.Do(func() (err error) {
		c, err = udp.Listen(netip.AddrPortFrom(at, port), udp.Offload{})
		return err
	})
	return c, err
}

// remotes opens two ports at each of a host's two addresses.
func remotes(t *testing.T, h *SiteHost) (out [2][2]mux.Socket) {
	t.Helper()
	for a := range out {
		for p := range out[a] {
			s, err := socket(h.Namespace, h.IPv4[a], uint16(3478+p))
			must(t, err)
			out[a][p] = s
		}
	}
	return out
}

func TestNATKindsAreNattests(t *testing.T) {
	var here, there []string
	for _, k := range NATKinds() {
		here = append(here, string(k))
	}
	for _, k := range nattest.Kinds() {
		there = append(there, string(k))
	}
	if !slices.Equal(here, there) {
		t.Errorf("kinds here are %q, nattest's are %q", here, there)
	}
	for _, k := range []NATKind{"", "nat"} {
		if _, err := natRules(k, false); err == nil {
			t.Errorf("natRules(%q) = nil, want an error", k)
		}
	}
}

// TestNATKinds sees what each kind does, and that it is what nattest's does.
//
//	home ── home-gw (── home-carrier) ── internet ── server-gw ── server, 2 addresses
func TestNATKinds(t *testing.T) {
	for _, kind := range NATKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			i := internet(t, newLab(t))
			server := site(t, i, "server", SiteConfig{Addresses: 2})
			home := site(t, i, "home", SiteConfig{NAT: kind})
			open := func() (mux.Socket, error) { return socket(home.Host().Namespace, home.Inside(), 0) }
			got, err := nattest.Observe(open, remotes(t, server.Host()), patience)
			if want := nattest.Kind(kind).Seen(); err != nil || got != want {
				t.Errorf("%s is %+v, %v\nwant %+v", kind, got, err, want)
			}
		})
	}
}
