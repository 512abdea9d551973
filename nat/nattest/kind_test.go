package nattest

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/mux"
)

// world is an Internet with a server that has two addresses.
func world(t *testing.T, c Config) (*Network, *Host) {
	t.Helper()
	n := New(c)
	return n, n.Site(SiteConfig{Addresses: 2}).Hosts[0]
}

// observe sees what is between a host and a server.
func observe(t *testing.T, h, server *Host) Seen {
	t.Helper()
	var remote [2][2]mux.Socket
	for a := range remote {
		for p := range remote[a] {
			remote[a][p] = listen(t, server, netip.AddrPortFrom(server.Addrs[a], uint16(STUNPort+p)))
		}
	}
	open := func() (mux.Socket, error) { return h.Listen(netip.AddrPortFrom(h.Addrs[0], 0)) }
	s, err := Observe(open, remote, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func listen(t *testing.T, h *Host, at netip.AddrPort) *Socket {
	t.Helper()
	s, err := h.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKinds(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, server := world(t, Config{Latency: 20 * time.Millisecond})
				got := observe(t, n.Site(SiteConfig{Kind: kind}).Hosts[0], server)
				if want := kind.Seen(); got != want {
					t.Errorf("%s is %+v\nwant %+v", kind, got, want)
				}
			})
		})
	}
}

// TestBehaviours sees each combination that no kind has.
func TestBehaviours(t *testing.T) {
	all := []Dependence{EndpointIndependent, AddressDependent, AddressAndPortDependent}
	outside := netip.MustParseAddr("203.0.113.1")
	inside := netip.MustParseAddr("10.0.0.2")
	for _, mapping := range all {
		for _, filtering := range all {
			for _, hairpin := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					n, server := world(t, Config{})
					b := Behaviour{Mapping: mapping, Filtering: filtering, Hairpin: hairpin, PortStep: 1}
					got := observe(t, n.NAT(b, outside).Host(inside), server)
					want := Seen{Translated: true, Mapping: mapping, Filtering: filtering, Hairpin: hairpin}
					if mapping != EndpointIndependent && filtering != EndpointIndependent {
						// What they send each other comes from a port, and goes to one, that
						// the other's mapping does not know.
						want.Hairpin = false
					}
					if got != want {
						t.Errorf("%+v is %+v\nwant %+v", b, got, want)
					}
				})
			}
		}
	}
}
