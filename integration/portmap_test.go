package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
	"meshd/nat"
	"meshd/nat/portmap"
	"meshd/nat/portmap/portmaptest"
)

// gatewayDevice is a site's gateway that can be asked for mappings, and forwards them in
// the kernel.
type gatewayDevice struct {
	w      *world
	site   *lab.Site
	inside netip.Addr
	table  *portmaptest.Table
	lose   func() // its mappings, as a reboot does
}

// device makes a site's gateway one that may be asked for mappings: speak starts that.
func (w *world) device(site *lab.Site) *gatewayDevice {
	w.Helper()
	d := &gatewayDevice{w: w, site: site, inside: site.Inside().Prev(), table: new(portmaptest.Table)}
	d.table.Changed = d.install
	d.install(nil)
	return d
}

// install makes the kernel forward these mappings, and no others.
func (d *gatewayDevice) install(all map[uint16]portmaptest.Entry) {
	var rules strings.Builder
	rules.WriteString("add table ip portmap\nflush table ip portmap\ntable ip portmap {\n" +
		"\tchain inward {\n\t\ttype nat hook prerouting priority dstnat;\n")
	for port, e := range all {
		fmt.Fprintf(&rules, "\t\tiifname %q udp dport %d dnat to %v\n", lab.NATOutside, port, e.To)
	}
	rules.WriteString("\t}\n}\n")
	if err := nft(d.site.Gateway.Namespace, rules.String()); err != nil {
		d.w.Error(err)
	}
}

// speak starts the server of a protocol: portmap.NATPMP or portmap.UPnP.
func (d *gatewayDevice) speak(protocol string) {
	d.w.Helper()
	gateway := d.site.Gateway.Namespace
	if protocol == portmap.NATPMP {
		pmp := portmaptest.NewNATPMP(d.table, portmaptest.NATPMPSettings{External: d.site.Outside})
		pmp.Age(24 * time.Hour)
		d.lose = pmp.Reboot
		c, err := gateway.ListenPacket("udp4", netip.AddrPortFrom(d.inside, 5351).String())
		d.w.must(err)
		d.serve(c, pmp.Serve)
		return
	}
	d.lose = d.table.Clear
	l, err := gateway.Listen("tcp4", netip.AddrPortFrom(d.inside, 0).String())
	d.w.must(err)
	igd := portmaptest.NewIGD(d.table, portmaptest.IGDSettings{
		External: d.site.Outside.String(), Locations: []string{"http://" + l.Addr().String() + portmaptest.DescriptionPath},
	})
	server := &http.Server{Handler: igd}
	go server.Serve(l)
	d.w.Cleanup(func() { server.Close() })
	c, err := gateway.ListenMulticast("udp4", lab.NATInside, "239.255.255.250:1900")
	d.w.must(err)
	d.serve(c, igd.ServeSSDP)
}

// serve serves a socket until the test ends.
func (d *gatewayDevice) serve(c net.PacketConn, f func(net.PacketConn) error) {
	done := make(chan struct{}) // closed by the server
	go func() { f(c); close(done) }()
	d.w.Cleanup(func() { c.Close(); <-done })
}

// reboot makes the gateway forget its mappings, those of the NAT too.
func (d *gatewayDevice) reboot() {
	d.w.Helper()
	d.lose()
	d.w.must(d.site.Reboot())
}

// forwards waits until the gateway forwards a port to an address, and nothing else; not
// valid: nothing at all.
func (d *gatewayDevice) forwards(port uint16, to netip.AddrPort) {
	d.w.Helper()
	d.w.eventually(fmt.Sprintf("the gateway forwards port %d to %v", port, to), func(context.Context) error {
		all := d.table.All()
		if e, ok := all[port]; len(all) > 1 || ok != to.IsValid() || e.To != to {
			return fmt.Errorf("mappings: %v", all)
		}
		return nil
	})
}

// TestPortMapping: two hosts behind NATs that nobody punches through are relayed, and
// `meshd why` says what would help. When one of the gateways speaks NAT-PMP or UPnP they
// are direct; so they are again after it has rebooted, and when the host leaves the
// gateway forwards nothing any more.
//
//	a ── symmetric NAT, may be asked ── Internet ── symmetric NAT ── b
//	                                       └── weave01
func TestPortMapping(t *testing.T) {
	once(t)
	for _, protocol := range []string{portmap.NATPMP, portmap.UPnP} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			w := newNATWorld(t)
			a, site := w.behind("a", lab.SiteConfig{NAT: lab.NATSymmetric})
			b, _ := w.behind("b", lab.SiteConfig{NAT: lab.NATSymmetric})
			device := w.device(site)
			w.public.up()
			a.start(w.target)
			b.start(w.target)
			w.reach(w.public, a, b)
			boxes := w.boxes(a, b)
			w.answers(boxes...)
			w.eventually("it is said what would help", func(ctx context.Context) error {
				answer, text, err := a.why(ctx, b)
				if err == nil && (answer.Path != "relayed" || !strings.Contains(text, "enabling NAT-PMP or UPnP on one gateway")) {
					err = fmt.Errorf("%s", text)
				}
				return err
			})

			begin := time.Now()
			device.speak(protocol)
			at := netip.AddrPortFrom(site.Outside, 6785)
			inside := netip.AddrPortFrom(site.Inside(), 6785)
			a.survey("meshd nat shows the mapping", func(r natReport) error {
				want := fmt.Sprintf("%v by %s of %v", at, protocol, device.inside)
				if r.Mapping != want || r.DoubleNAT != nat.No {
					return fmt.Errorf("%q, double NAT %s; want %q", r.Mapping, r.DoubleNAT, want)
				}
				return nil
			})
			device.forwards(at.Port(), inside)
			w.mapped(a, b, at)
			t.Logf("direct %v after the gateway spoke %s", time.Since(begin), protocol)
			p := boxes[0].pings(boxes[1])

			begin = time.Now()
			device.reboot()
			device.forwards(at.Port(), inside)
			w.mapped(a, b, at)
			t.Logf("direct %v after the reboot", time.Since(begin))
			p.more(20)
			if d := p.end().Outage; d > roamed {
				t.Errorf("no answer for %v, want at most %v", d, roamed)
			}

			out, err := a.Command(w.within(patience), "down")
			w.must(err)
			t.Log(strings.TrimSpace(out))
			device.forwards(at.Port(), netip.AddrPort{})
		})
	}
}

// mapped waits until frames go both ways between two hosts directly, to the first one
// through what its gateway forwards, and until the second one shows that.
func (w *natWorld) mapped(a, b *host, at netip.AddrPort) {
	w.Helper()
	w.direct(a, b)
	w.direct(b, a)
	w.eventually("frames go through the mapping", func(ctx context.Context) error {
		c, err := b.connection(ctx, a)
		if err == nil && !slices.ContainsFunc(c.Paths, func(p peer.Path) bool { return p.Active && p.Up && p.Address == at.String() }) {
			err = fmt.Errorf("%+v", c)
		}
		return err
	})
	w.eventually("status connections shows the mapping", func(ctx context.Context) error {
		out, err := b.Command(ctx, "status", "connections")
		if pair := (nat.Candidate{Kind: nat.Mapped, Addr: at}).String(); err == nil && !strings.Contains(out, pair) {
			err = fmt.Errorf("no %s:\n%s", pair, out)
		}
		return err
	})
}
