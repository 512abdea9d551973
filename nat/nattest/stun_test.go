package nattest

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v3"

	"meshd/internal/udp"
)

// TestSTUN asks from behind a NAT on both ports of both addresses.
func TestSTUN(t *testing.T) {
	for _, kind := range []Kind{None, PortRestricted, Symmetric, Double} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New(Config{Latency: 10 * time.Millisecond})
				server := n.Site(SiteConfig{Addresses: 2, IPv6: OpenIPv6}).Hosts[0]
				sockets, err := server.ListenAll(STUNPort, STUNPort2)
				if err != nil || len(sockets) != 6 {
					t.Fatalf("ListenAll = %d sockets, %v", len(sockets), err)
				}
				s := NewSTUN(sockets...)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- s.Run(ctx) }()

				home := n.Site(SiteConfig{Kind: kind, IPv6: OpenIPv6})
				h := home.Hosts[0]
				c4, c6 := listen(t, h, at(h.Addrs[0])), listen(t, h, at(h.Addrs[1]))
				seen := map[netip.AddrPort]bool{}
				for _, to := range sockets {
					c := c4
					if to.LocalAddr().Addr().Is6() {
						c = c6
					}
					r := ask(t, c, to.LocalAddr(), stun.BindingRequest, stun.TransactionID, stun.Fingerprint)
					var mapped stun.XORMappedAddress
					if err := mapped.GetFrom(r); err != nil || r.Type != stun.BindingSuccess || stun.Fingerprint.Check(r) != nil {
						t.Fatalf("%v answers %v: %v", to.LocalAddr(), r, err)
					}
					ip, _ := netip.AddrFromSlice(mapped.IP)
					as := netip.AddrPortFrom(ip.Unmap(), uint16(mapped.Port))
					if c == c6 && as != c6.LocalAddr() || c == c4 && home.Outside.IsValid() && as.Addr() != home.Outside {
						t.Errorf("%v says that %v is %v", to.LocalAddr(), c.LocalAddr(), as)
					}
					if c == c4 {
						seen[as] = true
					}
				}
				if want := map[bool]int{true: 4, false: 1}[kind == Symmetric]; len(seen) != want {
					t.Errorf("the addresses seen are %v, want %d", seen, want)
				}
				if got := s.Requests(); got != 6 {
					t.Errorf("Requests = %d, want 6", got)
				}
				cancel()
				if err := <-done; err != nil {
					t.Errorf("Run = %v", err)
				}
			})
		})
	}
}

// ask sends a request and waits for the answer.
func ask(t *testing.T, c *Socket, to netip.AddrPort, with ...stun.Setter) *stun.Message {
	t.Helper()
	request := stun.MustBuild(with...)
	if _, err := c.WriteBatch([]udp.Message{{Buf: request.Raw, N: len(request.Raw), Addr: to}}, false); err != nil {
		t.Fatal(err)
	}
	ms := []udp.Message{{Buf: make([]byte, 2048)}}
	if _, err := c.ReadBatch(ms); err != nil {
		t.Fatal(err)
	}
	response := stun.New()
	if err := stun.Decode(ms[0].Buf[:ms[0].N], response); err != nil {
		t.Fatal(err)
	}
	if ms[0].Addr != to || response.TransactionID != request.TransactionID {
		t.Errorf("asked %v for %v, %v answered %v", to, request, ms[0].Addr, response)
	}
	return response
}

func TestSTUNAnswer(t *testing.T) {
	s := NewSTUN()
	from := netip.MustParseAddrPort("198.51.100.1:1")
	answer := func(raw []byte) *stun.Message {
		raw, _ = s.answer(udp.Message{Buf: raw, N: len(raw), Addr: from}, nil)
		if raw == nil {
			return nil
		}
		m := stun.New()
		if err := stun.Decode(raw, m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	request := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.RawAttribute{Type: stun.AttrChangeRequest, Value: make([]byte, 4)})
	refused := answer(request.Raw)
	var code stun.ErrorCodeAttribute
	var unknown stun.UnknownAttributes
	if refused == nil || refused.Type != stun.BindingError || code.GetFrom(refused) != nil || code.Code != stun.CodeUnknownAttribute ||
		unknown.GetFrom(refused) != nil || len(unknown) != 1 || unknown[0] != stun.AttrChangeRequest {
		t.Errorf("CHANGE-REQUEST is answered with %v, %v", refused, unknown)
	}
	authenticated := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("u"), stun.NewShortTermIntegrity("p"))
	if m := answer(authenticated.Raw); m == nil || m.Type != stun.BindingSuccess {
		t.Errorf("a request with a password is answered with %v", m)
	}
	broken := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint).Raw
	broken[len(broken)-1] ^= 1
	for name, raw := range map[string][]byte{
		"nothing":               nil,
		"noise":                 []byte("hello, this is not a STUN message"),
		"an answer":             stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw,
		"an indication":         stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication)).Raw,
		"TURN":                  stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest)).Raw,
		"a broken fingerprint":  broken,
		"half of a request":     request.Raw[:len(request.Raw)-4],
		"a request cut shorter": request.Raw[:19],
	} {
		if m := answer(raw); m != nil {
			t.Errorf("%s is answered with %v", name, m)
		}
	}
}

func FuzzSTUNAnswer(f *testing.F) {
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint).Raw)
	f.Add(stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("u")).Raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		NewSTUN().answer(udp.Message{Buf: raw, N: len(raw), Addr: netip.MustParseAddrPort("[2001:db8::1]:1")}, nil)
	})
}
