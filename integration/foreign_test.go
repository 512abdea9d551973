package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"meshd/internal/lab"
	"meshd/nat"
	"meshd/nat/nattest"
)

// coturn is a STUN server that no meshd runs, with two addresses.
type coturn struct {
	addrs []netip.Addr
	proc  *lab.Process
}

// The ports of a coturn.
const (
	coturnPort  = 3478
	coturnOther = 3479
)

// coturn starts the server at a public site of its own; the test is skipped without it.
func (w *natWorld) coturn() *coturn {
	w.Helper()
	path, err := exec.LookPath("turnserver")
	if err != nil {
		w.Skip("turnserver is not installed (Debian package coturn)")
	}
	site, err := w.net.Site("coturn", lab.SiteConfig{Addresses: 2})
	w.must(err)
	h := site.Host()
	file := func(name string) string { return filepath.Join(w.lab.Dir(), name) }
	args := []string{
		"-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--simple-log",
		"--listening-port", fmt.Sprint(coturnPort), "--alt-listening-port", fmt.Sprint(coturnOther),
		"--pidfile", file("coturn.pid"), "--log-file", file("coturn.log"), "--userdb", file("coturn.db"),
	}
	for _, a := range h.IPv4 {
		args = append(args, "--listening-ip", a.String())
	}
	p, err := h.Start(lab.Command{Path: path, Args: args, Log: file("coturn.out")})
	w.must(err)
	return &coturn{h.IPv4, p}
}

// server is the address to ask it at.
func (c *coturn) server() string { return netip.AddrPortFrom(c.addrs[0], coturnPort).String() }

// survey asks `meshd nat` until it answers as check wants.
func (h *host) survey(what string, check func(r natReport) error, args ...string) {
	h.w.Helper()
	h.w.eventually(what, func(ctx context.Context) error {
		out, err := h.Command(ctx, append([]string{"nat", "--json"}, args...)...)
		if err != nil {
			return err
		}
		var r natReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			return lab.Final(err)
		}
		return check(r)
	})
}

// TestForeignServer: the only neighbour that two hosts behind NATs have in common cannot
// be asked what it sees them as; a foreign STUN server can. The NAT of b has given its
// port to another host, so that nobody could guess it.
//
//	a ── NAT ── Internet ── NAT ─┬─ b
//	     coturn ──┘ └── weave01  └─ neighbour
func TestForeignServer(t *testing.T) {
	once(t)
	w := newNATWorld(t)
	server := w.coturn()
	w.public.Args = []string{"--nat-listen", ""}
	w.nft(w.public.Host, `
table inet nostun {
	chain in { type filter hook input priority 0; udp dport 6785 drop; }
}`)
	w.public.up()
	a, siteA := w.behind("a", lab.SiteConfig{NAT: lab.NATPortRestricted})
	siteB, err := w.net.Site("siteb", lab.SiteConfig{NAT: lab.NATFullCone, Hosts: []string{"b", "neighbour"}})
	w.must(err)
	w.occupy(siteB.Hosts[1], server)
	b := w.siteHost(siteB.Hosts[0], "b")
	for _, h := range []*host{a, b} {
		h.Args = []string{"--nat-stun-servers", server.server()}
		h.start(w.target)
	}
	w.direct(a, b)
	w.direct(b, a)
	w.answers(w.boxes(a, b)...)
	for h, outside := range map[*host]netip.Addr{a: siteA.Outside, b: siteB.Outside} {
		h.survey(h.NickName+" knows its NAT from coturn", func(r natReport) error {
			var seen []netip.AddrPort
			for _, x := range r.IPv4.Answers {
				if x.Server == server.server() && x.Mapped.Addr() == outside {
					seen = append(seen, x.Mapped)
				}
			}
			i := slices.IndexFunc(r.Candidates, func(c nat.Candidate) bool { return c.Kind == nat.Reflexive && slices.Contains(seen, c.Addr) })
			if r.IPv4.Mapping != nat.EndpointIndependent || len(seen) == 0 || i < 0 || (h == a) != (r.Candidates[i].Addr.Port() == 6785) {
				return fmt.Errorf("%+v; offered %v", r.IPv4, r.Candidates)
			}
			return nil
		})
	}
}

// occupy makes a NAT give the port of meshd's sockets to a host.
func (w *natWorld) occupy(h *lab.SiteHost, server *coturn) {
	w.Helper()
	c, err := h.ListenPacket("udp4", ":6785")
	w.must(err)
	_, err = c.WriteTo([]byte{0}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server.addrs[0], coturnPort)))
	w.must(err)
}

// TestNATAlone: `meshd nat --server`, without a daemon, tells the class of all NATs in
// the kernel with nothing but one coturn.
func TestNATAlone(t *testing.T) {
	once(t)
	w := newNATWorld(t)
	server := w.coturn()
	for _, kind := range lab.NATKinds() {
		x, _ := w.behind("x-"+string(kind), lab.SiteConfig{NAT: kind})
		want := natClass(kind)
		x.survey(string(kind)+" is known", func(r natReport) error {
			if b := r.IPv4; b.Mapping != want.Mapping || b.Filtering != want.Filtering || b.Blocked != want.Blocked || r.DoubleNAT != nat.Unknown {
				return fmt.Errorf("%+v, want %+v", r, want)
			}
			if b := r.IPv4; nattest.Kind(kind).Seen().Translated && !b.Blocked && b.Hairpin != nat.No {
				return fmt.Errorf("hairpin %q", b.Hairpin)
			}
			return nil
		}, "--server", server.server())
	}
	select {
	case <-server.proc.Done():
		t.Errorf("coturn has ended: %v", server.proc.Err())
	default:
	}
}
