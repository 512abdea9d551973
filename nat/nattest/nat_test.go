package nattest

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/udp"
)

var addr = netip.MustParseAddr

// at is any port of an address.
func at(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 0) }

// send sends a datagram from a socket to an address and tells what arrives at
// another within a second.
func send(t *testing.T, from *Socket, to netip.AddrPort, other *Socket) (as netip.AddrPort, ok bool) {
	t.Helper()
	if _, err := from.WriteBatch([]udp.Message{{Buf: []byte("x"), N: 1, Addr: to}}, true); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	if unread(other) == 0 {
		return netip.AddrPort{}, false
	}
	ms := []udp.Message{{Buf: make([]byte, 1)}}
	if _, err := other.ReadBatch(ms); err != nil {
		t.Fatal(err)
	}
	return ms[0].Addr, true
}

// unread is how many datagrams wait in a socket.
func unread(s *Socket) int {
	s.host.realm.net.mu.Lock()
	defer s.host.realm.net.mu.Unlock()
	return len(s.inbox)
}

// TestLifetimes: of each step after the first, which lets answers in: how long
// after the one before it is, who sends, and whether that arrives.
func TestLifetimes(t *testing.T) {
	type step struct {
		after  time.Duration
		inward bool
		want   bool
	}
	const out, in = false, true
	linux := Behaviour{Filtering: AddressAndPortDependent, PerFlow: true, Lifetime: 30 * time.Second, Answered: 120 * time.Second}
	cone := Behaviour{Lifetime: 30 * time.Second}
	restricted := Behaviour{Filtering: AddressDependent, Lifetime: 30 * time.Second, Answered: 120 * time.Second}
	for _, tt := range []struct {
		name  string
		b     Behaviour
		steps []step
	}{
		{"linux, too late", linux, []step{{31 * time.Second, in, false}}},
		{"linux, answered", linux, []step{{28 * time.Second, in, true}, {118 * time.Second, in, true}, {122 * time.Second, in, false}}},
		{"linux, kept up", linux, []step{{28 * time.Second, out, true}, {28 * time.Second, in, true}, {118 * time.Second, out, true}, {118 * time.Second, in, true}}},
		{"cone, too late", cone, []step{{31 * time.Second, in, false}}},
		{"cone, answers prolong nothing", cone, []step{{20 * time.Second, in, true}, {12 * time.Second, in, false}}},
		{"cone, kept up", cone, []step{{20 * time.Second, out, true}, {28 * time.Second, in, true}}},
		{"restricted, answered", restricted, []step{{28 * time.Second, in, true}, {118 * time.Second, in, true}, {122 * time.Second, in, false}}},
		{"for ever", Behaviour{Filtering: AddressDependent}, []step{{1000 * time.Hour, in, true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, server := world(t, Config{})
				s := listen(t, server, at(server.Addrs[0]))
				h := n.NAT(tt.b, addr("203.0.113.1")).Host(addr("10.0.0.2"))
				c := listen(t, h, at(h.Addrs[0]))
				as, ok := send(t, c, s.LocalAddr(), s)
				if !ok {
					t.Fatal("the server gets nothing")
				}
				for n, step := range tt.steps {
					time.Sleep(step.after - time.Second) // send takes that
					if step.inward {
						_, ok = send(t, s, as, c)
					} else {
						_, ok = send(t, c, s.LocalAddr(), s)
					}
					if ok != step.want {
						t.Fatalf("step %d: %+v arrives: %v", n, step, ok)
					}
				}
			})
		})
	}
}

// TestPoisonEnds: a port that is taken by what was not let in is free again 30 s
// after that came last.
func TestPoisonEnds(t *testing.T) {
	for _, tt := range []struct {
		again time.Duration // after the first
		then  time.Duration // after the last
		kept  bool
	}{{0, 28 * time.Second, false}, {0, 31 * time.Second, true}, {20 * time.Second, 20 * time.Second, false}} {
		synctest.Test(t, func(t *testing.T) {
			n, server := world(t, Config{})
			s0, s1 := listen(t, server, at(server.Addrs[0])), listen(t, server, at(server.Addrs[1]))
			h := n.Site(SiteConfig{Kind: PortRestrictedOpen}).Hosts[0]
			c := listen(t, h, at(h.Addrs[0]))
			as, _ := send(t, c, s0.LocalAddr(), s0)
			for _, after := range []time.Duration{0, tt.again} {
				if after > 0 {
					time.Sleep(after - time.Second)
				}
				if _, ok := send(t, s1, as, c); ok {
					t.Fatal("a datagram that nobody asked for is let in")
				}
			}
			time.Sleep(tt.then - time.Second)
			now, ok := send(t, c, s1.LocalAddr(), s1)
			if !ok || (now == as) != tt.kept {
				t.Errorf("%+v: first from %v, then from %v", tt, as, now)
			}
			// What was taken for one destination is the port for all new ones.
			s2 := listen(t, server, at(server.Addrs[1]))
			if next, _ := send(t, c, s2.LocalAddr(), s2); next != now {
				t.Errorf("%+v: from %v, to the next from %v", tt, now, next)
			}
		})
	}
}

func TestPortStep(t *testing.T) {
	for _, step := range []int{1, 2, -3, 40000} {
		synctest.Test(t, func(t *testing.T) {
			n, server := world(t, Config{Seed: 7})
			s := listen(t, server, at(server.Addrs[0]))
			nat := n.NAT(Behaviour{Mapping: AddressAndPortDependent, PortStep: step}, addr("203.0.113.1"))
			h := nat.Host(addr("10.0.0.2"))
			last := 0
			for i := range 10 {
				as, _ := send(t, listen(t, h, at(h.Addrs[0])), s.LocalAddr(), s)
				want := ((last-firstPort+step)%portCount+portCount)%portCount + firstPort
				if port := int(as.Port()); i > 0 && port != want {
					t.Errorf("step %d: port %d after %d, want %d", step, port, last, want)
				}
				last = int(as.Port())
			}
		})
	}
}

// TestPortsRunOut: a NAT all of whose ports are taken drops.
func TestPortsRunOut(t *testing.T) {
	p := ports{rng: New(Config{}).rng}
	used := map[uint16]bool{}
	free := func(port uint16) bool { return !used[port] }
	for range portCount {
		port, ok := p.choose(1, free)
		if !ok || port < firstPort {
			t.Fatalf("port %d, %v after %d", port, ok, len(used))
		}
		used[port] = true
	}
	if port, ok := p.choose(1, free); ok {
		t.Errorf("port %d after all", port)
	}
	now := time.Now()
	m := newMappingTable(Behaviour{}, p)
	for port := range portCount {
		m.byPort[uint16(firstPort+port)] = &mapping{expiry: expiry{never: true}}
	}
	if port, ok := m.out(now, at(addr("10.0.0.2")), at(addr("10.0.0.3"))); ok {
		t.Errorf("mapped to %d, though all ports are taken", port)
	}
}

// TestTwoHosts: two hosts behind one NAT that use the same port reach each other
// on their LAN, and get their own answers.
func TestTwoHosts(t *testing.T) {
	for _, kind := range Kinds() {
		synctest.Test(t, func(t *testing.T) {
			n, server := world(t, Config{Latency: 10 * time.Millisecond})
			s := listen(t, server, at(server.Addrs[0]))
			home := n.Site(SiteConfig{Kind: kind, Hosts: 2})
			a := listen(t, home.Hosts[0], netip.AddrPortFrom(home.Hosts[0].Addrs[0], 6785))
			b := listen(t, home.Hosts[1], netip.AddrPortFrom(home.Hosts[1].Addrs[0], 6785))
			for from, to := range map[*Socket]*Socket{a: b, b: a} {
				if as, ok := send(t, from, to.LocalAddr(), to); !ok || as != from.LocalAddr() {
					t.Errorf("%s: on the LAN from %v, %v", kind, as, ok)
				}
			}
			seen := map[netip.AddrPort]*Socket{}
			for _, c := range []*Socket{a, b} {
				as, ok := send(t, c, s.LocalAddr(), s)
				if ok == (kind == UDPBlocked) {
					t.Fatalf("%s: the server gets a datagram: %v", kind, ok)
				}
				if !ok {
					return
				}
				if home.Outside.IsValid() && as.Addr() != home.Outside {
					t.Errorf("%s: from %v, want %v", kind, as, home.Outside)
				}
				seen[as] = c
			}
			if len(seen) != 2 {
				t.Fatalf("%s: both send from one address: %v", kind, seen)
			}
			for as, c := range seen {
				if _, ok := send(t, s, as, c); !ok {
					t.Errorf("%s: an answer to %v does not arrive", kind, as)
				}
			}
			home.Reboot()
			for as, c := range seen {
				if _, ok := send(t, s, as, c); ok != (kind == None) {
					t.Errorf("%s: after a reboot an answer to %v arrives: %v", kind, as, ok)
				}
			}
		})
	}
}

// TestCarrier: two homes of one carrier reach each other by its outside address
// only if it lets them.
//
//	a ── home ──┐
//	b ── home ── carrier ── Network ── server
func TestCarrier(t *testing.T) {
	for _, hairpin := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n, server := world(t, Config{})
			s := listen(t, server, at(server.Addrs[0]))
			carrier := n.NAT(Behaviour{Hairpin: hairpin}, addr("203.0.113.9"))
			var cs [2]*Socket
			var as [2]netip.AddrPort
			for i := range cs {
				home := carrier.NAT(Behaviour{PortPreserving: true}, addr(fmt.Sprintf("100.64.0.%d", i+2)))
				h := home.Host(addr("192.168.1.2")) // the same in both homes
				cs[i] = listen(t, h, netip.AddrPortFrom(h.Addrs[0], 6785))
				as[i], _ = send(t, cs[i], s.LocalAddr(), s)
				if as[i].Addr() != carrier.Addr {
					t.Errorf("from %v, want %v", as[i], carrier.Addr)
				}
			}
			if from, ok := send(t, cs[0], as[1], cs[1]); ok != hairpin || ok && from != as[0] {
				t.Errorf("hairpin %v: from %v, %v, want %v", hairpin, from, ok, as[0])
			}
			// Between the two NATs they meet too, which the inner ones do not mind.
			inner := netip.AddrPortFrom(addr("100.64.0.3"), 6785)
			if from, ok := send(t, cs[0], inner, cs[1]); !ok || from != netip.AddrPortFrom(addr("100.64.0.2"), 6785) {
				t.Errorf("inside of the carrier from %v, %v", from, ok)
			}
		})
	}
}

// TestIPv6: addresses are the hosts' own; a firewall lets only answers in, for a
// while.
func TestIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := world(t, Config{Latency: time.Millisecond})
		var ends []*Socket
		for _, c := range []SiteConfig{
			{Kind: Symmetric, IPv6: OpenIPv6}, {Kind: Double, IPv6: FirewalledIPv6}, {IPv6: OpenIPv6, NoIPv4: true},
			{IPv6: FirewalledIPv6}, {Kind: UDPBlocked, IPv6: OpenIPv6},
		} {
			h := n.Site(c).Hosts[0]
			last := h.Addrs[len(h.Addrs)-1]
			if !last.Is6() || (len(h.Addrs) == 1) != c.NoIPv4 {
				t.Errorf("%+v has the addresses %v", c, h.Addrs)
			}
			ends = append(ends, listen(t, h, at(last)))
		}
		const open, filtered, only6, public, blocked = 0, 1, 2, 3, 4
		for _, tt := range []struct {
			from, to int
			want     bool
		}{
			{open, only6, true}, {only6, open, true},
			{open, filtered, false}, {filtered, open, true}, {open, filtered, true}, {only6, filtered, false},
			{only6, public, false}, {public, only6, true}, {only6, public, true},
			{open, blocked, false}, {blocked, open, false},
		} {
			from, ok := send(t, ends[tt.from], ends[tt.to].LocalAddr(), ends[tt.to])
			if ok != tt.want || ok && from != ends[tt.from].LocalAddr() {
				t.Errorf("from site %d to site %d: %v, seen as %v, want %v", tt.from, tt.to, ok, from, tt.want)
			}
		}
		time.Sleep(121 * time.Second)
		if _, ok := send(t, ends[open], ends[filtered].LocalAddr(), ends[filtered]); ok {
			t.Error("a firewall lets an answer in after 121 s")
		}
	})
}
