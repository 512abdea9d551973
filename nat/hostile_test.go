package nat_test

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"

	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/nat"
	"meshd/nat/nattest"
)

// silent takes a reply that nobody may send.
func silent(t *testing.T) func(netip.AddrPort, []byte) {
	return func(to netip.AddrPort, b []byte) { t.Errorf("answered %v with %x", to, b) }
}

var stranger = netip.MustParseAddrPort("192.0.2.1:1234")

// TestForgedSTUN: messages that are cut short, malformed, forged or that nobody asked
// for are counted and change nothing.
func TestForgedSTUN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		x := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		good := stun.MustBuild(stun.BindingRequest, stun.TransactionID).Raw
		for n := range good {
			x.Take(good[:n], stranger, silent(t))
		}
		x.Take(append(bytes.Clone(good), make([]byte, 600)...), stranger, silent(t))
		if got := x.Counts(); got.Malformed != uint64(len(good))+1 || got.Answered != 0 {
			t.Errorf("malformed: %+v", got)
		}
		keyed := stun.MustBuild(stun.BindingRequest, stun.TransactionID, stun.NewUsername("0123"), stun.MessageIntegrity("guess")).Raw
		x.Take(keyed, stranger, silent(t))
		answer := stun.MustBuild(stun.BindingSuccess, stun.TransactionID, stun.XORMappedAddress{IP: []byte{1, 2, 3, 4}, Port: 5}).Raw
		x.Take(answer, stranger, silent(t))
		if got := x.Counts(); got.Forged != 1 || got.Unasked != 1 {
			t.Errorf("forged: %+v", got)
		}
		answered := 0
		for range 5000 {
			x.Take(good, stranger, func(_ netip.AddrPort, b []byte) {
				if answered++; len(b) > 2*len(good) {
					t.Fatalf("an answer of %d bytes to %d", len(b), len(good))
				}
			})
		}
		if got := x.Counts(); answered > 600 || got.Excess == 0 {
			t.Errorf("%d answers to a flood, %+v", answered, got)
		}
	})
}

// TestLyingServers: what a server says is of no use where it cannot be true.
func TestLyingServers(t *testing.T) {
	overlay := netip.MustParsePrefix("10.32.0.0/12")
	for _, lie := range []string{"127.0.0.1:5", "224.0.0.1:5", "0.0.0.0:5", "255.255.255.255:5", "169.254.1.1:5", "10.32.0.1:6785", "203.0.113.9:0", "[::1]:5"} {
		t.Run(lie, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				liar := w.net.Site(nattest.SiteConfig{}).Hosts[0]
				s, err := liar.Listen(netip.AddrPortFrom(liar.Addrs[0], dataPort))
				if err != nil {
					t.Fatal(err)
				}
				at := netip.MustParseAddrPort(lie)
				go func() {
					ms := []udp.Message{{Buf: make([]byte, 2048)}}
					for {
						if n, err := s.ReadBatch(ms); err != nil || n == 0 {
							return
						}
						m := &stun.Message{Raw: bytes.Clone(ms[0].Buf[:ms[0].N])}
						if m.Decode() != nil {
							continue
						}
						b := stun.MustBuild(stun.BindingSuccess, stun.NewTransactionIDSetter(m.TransactionID),
							stun.XORMappedAddress{IP: at.Addr().AsSlice(), Port: int(at.Port())}).Raw
						_, _ = s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: ms[0].Addr}}, false)
					}
				}()
				defer s.Close()
				x := w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted}).Hosts[0], func(c *nat.Config) {
					c.Servers = func(context.Context) []nat.Server {
						return []nat.Server{{Name: "liar", Addr: netip.AddrPortFrom(liar.Addrs[0], dataPort)}}
					}
					c.Refuse = func(ip netip.Addr) string {
						if overlay.Contains(ip) {
							return "it lies on the overlay"
						}
						return ""
					}
				})
				v4, _, candidates := x.Survey(t.Context())
				for _, c := range candidates {
					if c.Kind != nat.Host {
						t.Errorf("offered to peers: %v", c)
					}
				}
				if len(v4.Mapped) > 0 || len(v4.Answers) != 1 || v4.Answers[0].Err == "" {
					t.Errorf("%+v", v4)
				}
			})
		})
	}
}

// TestThirdParties: a member of the mesh that offers others' addresses makes us send
// them a handful of small datagrams, however often it tries, and to no address of ours
// and of the overlay any.
func TestThirdParties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		victim := w.net.Site(nattest.SiteConfig{}).Hosts[0]
		w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		x := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		y := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], func(c *nat.Config) {
			c.Addresses = func() []netip.Addr { return nil }
			c.Send = func(netip.AddrPort, []byte, int) error { return nil } // so that no way is found first
			c.More = func() (out []nat.Candidate) {
				for port := range uint16(40) {
					out = append(out, nat.Candidate{Kind: nat.External, Addr: netip.AddrPortFrom(victim.Addrs[0], 1000+port)})
				}
				return out
			}
		})
		w.look()
		for range 20 {
			time.Sleep(5 * time.Second)
			x.Kick()
			y.Kick()
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		total, ports := 0, 0
		for to, n := range w.seen {
			if to.Addr() == victim.Addrs[0] {
				total, ports = total+n, ports+1
			}
		}
		// 100 s are two or three accounts of a minute; each has 8 ports and 12 datagrams.
		if total == 0 || ports > 3*8 || total > 3*8*12 {
			t.Errorf("%d datagrams to %d ports of a third party; %v", total, ports, x.Status(y.name).Tries)
		}
		if got := x.Counts(); got.Unspent == 0 {
			t.Errorf("%+v: nothing withheld", got)
		}
	})
}

// TestSignalsOfNonsense: signals that make no sense, or come from who does not lead,
// are refused.
func TestSignalsOfNonsense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		for range 3 {
			w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		}
		w.look()
		x := w.nodes[1]
		round := strings.Repeat("ab", 16)
		for i, bad := range []struct {
			from frame.PeerName
			b    string
		}{
			{1, ""}, {1, "{"}, {1, `{"verb":"offer"}`}, {1, `{"verb":"offer","round":"zz"}`}, {1, strings.Repeat(" ", 5000)},
			{1, `{"verb":"go","round":"` + round + `"}`}, {3, `{"verb":"offer","round":"` + round + `"}`}, {9, `{"verb":"offer","round":"` + round + `"}`},
			{1, `{"verb":"offer","round":"` + round + `","candidates":[{"addr":"nonsense"}]}`},
		} {
			before := x.Counts().Refused
			x.Answer(t.Context(), bad.from, []byte(bad.b), func(b []byte) { t.Errorf("%d: answered with %s", i, b) })
			if x.Counts().Refused != before+1 {
				t.Errorf("%d: not counted", i)
			}
		}
		for _, b := range []string{"", "nonsense", `{"verb":"go","round":"` + round + `"}`, `{"verb":"want"}`} {
			x.Notice(9, []byte(b))
		}
	})
}

// TestLoss finds the way where a third of all datagrams is lost.
func TestLoss(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nattest.Config{Seed: seed, Loss: 0.3})
			w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
			x := w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted}).Hosts[0], nil)
			y := w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted}).Hosts[0], nil)
			w.look()
			time.Sleep(10 * time.Minute)
			if !x.metAt(y).IsValid() {
				t.Errorf("seed %d: no way found: %v", seed, x.Status(y.name).Tries)
			}
		})
	}
}

// TestSameLAN: two hosts behind one NAT, with the same port, find each other on their
// LAN.
func TestSameLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		site := w.net.Site(nattest.SiteConfig{Kind: nattest.Symmetric, Hosts: 2})
		x, y := w.join(site.Hosts[0], nil), w.join(site.Hosts[1], nil)
		w.look()
		time.Sleep(10 * time.Second)
		if got := x.metAt(y); !slices.Contains(site.Hosts[1].Addrs, got.Addr()) {
			t.Errorf("met at %v, want one of %v", got, site.Hosts[1].Addrs)
		}
	})
}

// TestReboot: after the NATs have forgotten everything the way is found again.
func TestReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		a, b := w.net.Site(nattest.SiteConfig{Kind: nattest.FullCone}), w.net.Site(nattest.SiteConfig{Kind: nattest.Symmetric})
		x, y := w.join(a.Hosts[0], nil), w.join(b.Hosts[0], nil)
		w.look()
		time.Sleep(10 * time.Second)
		first := y.foundAt(x)
		a.Reboot()
		b.Reboot()
		x.mu.Lock()
		delete(x.met, y.name)
		x.mu.Unlock()
		w.look()
		lost := time.Now()
		time.Sleep(10 * time.Second)
		if !first.IsValid() || !x.metAt(y).IsValid() {
			t.Fatalf("met %v, before the reboot %v", x.metAt(y), first)
		}
		if d := x.metWhen(y).Sub(lost); d > 3*time.Second {
			t.Errorf("found again after %v", d)
		}
	})
}

// TestNoFlap: where there is a way nothing more is sent, and where there is none the
// tries become rare.
func TestNoFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		x := w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.Symmetric}).Hosts[0], nil)
		y := w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.Symmetric}).Hosts[0], nil)
		w.look()
		time.Sleep(time.Hour)
		synctest.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		sent := 0
		for _, n := range w.seen {
			sent += n
		}
		if x.metAt(y).IsValid() || sent > 2000 {
			t.Errorf("met %v; %d datagrams in an hour", x.metAt(y), sent)
		}
	})
}
