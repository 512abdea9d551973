package nat_test

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"

	"meshd/internal/udp"
	"meshd/nat"
	"meshd/nat/nattest"
)

// foreign makes a STUN server of RFC 5780, which no mesh knows, and returns its address.
func (w *world) foreign() netip.AddrPort {
	w.t.Helper()
	h := w.net.Site(nattest.SiteConfig{Addresses: 2}).Hosts[0]
	sockets, err := h.ListenAll(nattest.STUNPort, nattest.STUNPort2)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- nattest.NewDiscoverySTUN(sockets...).Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return netip.AddrPortFrom(h.Addrs[0], nattest.STUNPort)
}

// asking sets servers to ask, by IP address and port, and lets sockets be made to
// measure filtering.
func (w *world) asking(h *nattest.Host, servers ...netip.AddrPort) func(*nat.Config) {
	return func(c *nat.Config) {
		c.Servers = func(context.Context) (out []nat.Server) {
			for _, s := range servers {
				out = append(out, nat.Server{Name: "foreign", Addr: s})
			}
			return out
		}
		c.Fresh = func(ctx context.Context) (*nat.Agent, func() error, error) {
			s, err := h.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
			if err != nil {
				return nil, nil, err
			}
			fresh := nat.New(nat.Config{
				Port: s.LocalAddr().Port(), Families: c.Families, Addresses: c.Addresses, Refuse: c.Refuse,
				Send: func(to netip.AddrPort, b []byte, _ int) error {
					_, err := s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: to}}, false)
					return err
				},
			})
			go func() {
				ms := []udp.Message{{Buf: make([]byte, 2048)}}
				for {
					if _, err := s.ReadBatch(ms); err != nil {
						return
					}
					fresh.Take(ms[0].Buf[:ms[0].N], ms[0].Addr, func(netip.AddrPort, []byte) {})
				}
			}()
			return fresh, s.Close, nil
		}
	}
}

// TestForeignServer measures the NATs of all kinds with nothing but one foreign server.
func TestForeignServer(t *testing.T) {
	mapping := map[nattest.Dependence]nat.Mapping{
		nattest.EndpointIndependent: nat.EndpointIndependent, nattest.AddressDependent: nat.AddressDependent, nattest.AddressAndPortDependent: nat.AddressPortDependent,
	}
	filtering := map[nattest.Dependence]nat.Filtering{
		nattest.EndpointIndependent: nat.OpenFiltering, nattest.AddressDependent: nat.AddressFiltering, nattest.AddressAndPortDependent: nat.AddressPortFiltering,
	}
	for _, k := range nattest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				server := w.foreign()
				h := w.net.Site(nattest.SiteConfig{Kind: k}).Hosts[0]
				x := w.join(h, w.asking(h, server))
				seen := k.Seen()
				want := nat.Behaviour{Mapping: mapping[seen.Mapping], Filtering: filtering[seen.Filtering], Hairpin: nat.No}
				switch k {
				case nattest.None:
					want = nat.Behaviour{Mapping: nat.NoNAT, Filtering: nat.OpenFiltering, Hairpin: nat.Unknown}
				case nattest.UDPBlocked:
					want = nat.Behaviour{Mapping: nat.UnknownMapping, Filtering: nat.UnknownFiltering}
				}
				for range 2 { // the second time the other address has been sent to
					begin := time.Now()
					got, _, _ := x.Survey(t.Context())
					if got.Mapping != want.Mapping || got.Filtering != want.Filtering || got.Hairpin != want.Hairpin {
						t.Errorf("%+v, want %+v", got, want)
					}
					if d := time.Since(begin); d > 8*time.Second {
						t.Errorf("it took %v", d)
					}
				}
				if got := x.Counts(); got.Refused != 0 || got.Unspent != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// TestForeignServerNotNeeded: where peers tell the mapping the other address of a
// server is not asked.
func TestForeignServerNotNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		server := w.foreign()
		w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		h := w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted}).Hosts[0]
		x := w.join(h, w.asking(h, server))
		w.look()
		got, _, _ := x.Survey(t.Context())
		if got.Mapping != nat.EndpointIndependent || len(got.Answers) != 3 {
			t.Errorf("%+v", got)
		}
	})
}

// lying runs a server that names another address, at which nobody is, and answers from
// where it was asked at whatever it is asked.
func (w *world) lying(other netip.AddrPort) netip.AddrPort {
	w.t.Helper()
	h := w.net.Site(nattest.SiteConfig{}).Hosts[0]
	s, err := h.Listen(netip.AddrPortFrom(h.Addrs[0], nattest.STUNPort))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	go func() {
		ms := []udp.Message{{Buf: make([]byte, 2048)}}
		for {
			if _, err := s.ReadBatch(ms); err != nil {
				return
			}
			m, from := &stun.Message{Raw: bytes.Clone(ms[0].Buf[:ms[0].N])}, ms[0].Addr
			if m.Decode() != nil || m.Type != stun.BindingRequest {
				continue
			}
			b := stun.MustBuild(stun.BindingSuccess, stun.NewTransactionIDSetter(m.TransactionID),
				stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())},
				&stun.OtherAddress{IP: other.Addr().AsSlice(), Port: int(other.Port())}).Raw
			_, _ = s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: from}}, false)
		}
	}()
	return s.LocalAddr()
}

// TestLyingOtherAddress: an other address that cannot be one is refused, counted, and
// sent nothing.
func TestLyingOtherAddress(t *testing.T) {
	overlay := netip.MustParsePrefix("10.32.0.0/12")
	for _, lie := range []string{
		"127.0.0.1:5", "224.0.0.1:5", "0.0.0.0:5", "255.255.255.255:5", "169.254.1.1:5", "10.32.0.1:6785", "203.0.113.9:0",
		"[::1]:5", "[2001:db8::1]:5", "192.168.1.1:5", "203.0.113.9:3478",
	} {
		t.Run(lie, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				at := netip.MustParseAddrPort(lie)
				h := w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted}).Hosts[0]
				server := w.lying(at)
				asking := w.asking(h, server)
				x := w.join(h, func(c *nat.Config) {
					c.Refuse = func(ip netip.Addr) string {
						if overlay.Contains(ip) {
							return "it lies on the overlay"
						}
						return ""
					}
					asking(c)
				})
				got, _, _ := x.Survey(t.Context())
				if got.Mapping != nat.UnknownMapping || len(got.Mapped) != 1 || len(got.Answers) != 1 || got.Answers[0].Other.IsValid() {
					t.Errorf("%+v", got)
				}
				if c := x.Counts(); c.Refused != 1 {
					t.Errorf("%+v: not counted once", c)
				}
				w.mu.Lock()
				defer w.mu.Unlock()
				for to, n := range w.seen {
					if to.Addr() == at.Addr() {
						t.Errorf("%d datagrams to %v", n, to)
					}
				}
			})
		})
	}
}

// TestSilentOtherAddress: a server names a third party's address. That is sent a handful
// of requests, however often surveys are made, and nothing is concluded.
func TestSilentOtherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		victim := w.net.Site(nattest.SiteConfig{}).Hosts[0].Addrs[0]
		h := w.net.Site(nattest.SiteConfig{Kind: nattest.FullCone}).Hosts[0]
		x := w.join(h, w.asking(h, w.lying(netip.AddrPortFrom(victim, 53))))
		for range 20 {
			got, _, _ := x.Survey(t.Context())
			if got.Mapping != nat.UnknownMapping || got.Filtering != nat.UnknownFiltering {
				t.Fatalf("%+v", got)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		total := 0
		for to, n := range w.seen {
			if to.Addr() == victim {
				total += n
			}
		}
		if total == 0 || total > 6 {
			t.Errorf("%d datagrams to a third party", total)
		}
	})
}

// TestNoChange: a request that wants its answer from another address gets it, once, from
// where it came to, and none of our answers names another address.
func TestNoChange(t *testing.T) {
	for _, wants := range []byte{0, 2, 4, 6} {
		a := nat.New(nat.Config{Addresses: func() []netip.Addr { return nil }})
		m := stun.MustBuild(stun.BindingRequest, stun.TransactionID, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: []byte{0, 0, 0, wants}}, stun.Fingerprint)
		answers := 0
		a.Take(m.Raw, stranger, func(to netip.AddrPort, b []byte) {
			answers++
			r := &stun.Message{Raw: b}
			if to != stranger || r.Decode() != nil || r.TransactionID != m.TransactionID || r.Contains(stun.AttrOtherAddress) || len(b) > 2*len(m.Raw) {
				t.Errorf("answer to %v: %v", to, r)
			}
		})
		if answers != 1 {
			t.Errorf("%d answers", answers)
		}
	}
}

// TestAnswersFromElsewhere: an answer counts only from where it was to come from.
func TestAnswersFromElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		server := w.net.Site(nattest.SiteConfig{}).Hosts[0]
		var x *node
		h := w.net.Site(nattest.SiteConfig{}).Hosts[0]
		x = w.join(h, func(c *nat.Config) {
			c.Send = func(_ netip.AddrPort, b []byte, _ int) error {
				m := &stun.Message{Raw: bytes.Clone(b)}
				if err := m.Decode(); err != nil {
					return err
				}
				r := stun.MustBuild(stun.BindingSuccess, stun.NewTransactionIDSetter(m.TransactionID), stun.XORMappedAddress{IP: stranger.Addr().AsSlice(), Port: 5})
				for _, from := range []netip.AddrPort{stranger, netip.AddrPortFrom(server.Addrs[0], 9)} {
					x.Take(r.Raw, from, silent(t))
				}
				return nil
			}
		})
		if at, _, err := x.Ask(t.Context(), netip.AddrPortFrom(server.Addrs[0], nattest.STUNPort)); err == nil {
			t.Errorf("taken for %v", at)
		}
		if c := x.Counts(); c.Unasked != 6 {
			t.Errorf("%+v", c)
		}
	})
}

// TestFilteringStays: helpers that have answered often enough for now do not make it
// unknown again.
func TestFilteringStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nattest.Config{})
		w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
		site := w.net.Site(nattest.SiteConfig{Kind: nattest.PortRestricted})
		x := w.join(site.Hosts[0], nil)
		x.seen = site.Outside
		w.look()
		for i := range 8 {
			if got, _, _ := x.Survey(t.Context()); got.Filtering != nat.AddressPortFiltering {
				t.Fatalf("survey %d: %+v", i, got)
			}
		}
	})
}

// TestHairpin: behind a NAT that lets inside hosts reach its outside address, and behind
// one that does not.
func TestHairpin(t *testing.T) {
	for want, hairpin := range map[nat.Verdict]bool{nat.Yes: true, nat.No: false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, nattest.Config{})
			server := w.foreign()
			behind := w.net.NAT(nattest.Behaviour{Hairpin: hairpin}, netip.MustParseAddr("203.0.113.9"))
			h := behind.Host(netip.MustParseAddr("192.168.1.2"))
			x := w.join(h, w.asking(h, server))
			got, _, _ := x.Survey(t.Context())
			if got.Hairpin != want || got.Mapping != nat.EndpointIndependent {
				t.Errorf("%+v, want %s", got, want)
			}
			if c := x.Counts(); c.Answered != 0 {
				t.Errorf("%+v: our own request was answered", c)
			}
		})
	}
}
