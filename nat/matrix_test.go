package nat_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/nat"
	"meshd/nat/nattest"
)

const (
	dataPort  = 6785
	otherPort = 6786
	latency   = 15 * time.Millisecond
)

// world is hosts that signal through one public host among them, the first one.
type world struct {
	t     *testing.T
	net   *nattest.Network
	nodes []*node
	seen  map[netip.AddrPort]int // datagrams to each address
	mu    sync.Mutex
}

// node is one host with its agent.
type node struct {
	*nat.Agent
	w    *world
	name frame.PeerName
	host *nattest.Host
	mux  *mux.Mux
	seen netip.Addr // where the first host sees its session from; not valid: nowhere

	mu    sync.Mutex
	found map[frame.PeerName]netip.AddrPort
	met   map[frame.PeerName]netip.AddrPort
	when  map[frame.PeerName]time.Time
	pairs map[frame.PeerName][]netip.AddrPort // that frames used, the last one now

	frames atomic.Uint64 // that came
}

func newWorld(t *testing.T, c nattest.Config) *world {
	c.Latency = cmp.Or(c.Latency, latency)
	w := &world{t: t, net: nattest.New(c), seen: map[netip.AddrPort]int{}}
	w.net.Watch(func(d nattest.Datagram) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen[d.To]++
	})
	return w
}

// join adds a host. Signals between two hosts take a way over the first.
func (w *world) join(h *nattest.Host, change func(*nat.Config)) *node {
	w.t.Helper()
	n := &node{
		w: w, name: frame.PeerName(len(w.nodes) + 1), host: h,
		found: map[frame.PeerName]netip.AddrPort{}, met: map[frame.PeerName]netip.AddrPort{}, when: map[frame.PeerName]time.Time{},
		pairs: map[frame.PeerName][]netip.AddrPort{},
	}
	open := func(port uint16) *mux.Mux {
		var socks []mux.Socket
		var families [2]bool
		for _, a := range h.Addrs {
			family, all := 0, netip.IPv4Unspecified()
			if a.Is6() {
				family, all = 1, netip.IPv6Unspecified()
			}
			if families[family] {
				continue
			}
			families[family] = true
			s, err := h.Listen(netip.AddrPortFrom(all, port))
			if err != nil {
				w.t.Fatal(err)
			}
			socks = append(socks, s)
		}
		m, err := mux.New(socks, nil)
		if err != nil {
			w.t.Fatal(err)
		}
		return m
	}
	n.mux = open(dataPort)
	other := open(otherPort)
	cfg := nat.Config{
		Self: n.name, Port: dataPort,
		Families: func() (bool, bool) {
			return n.mux.Socket(netip.MustParseAddrPort("1.1.1.1:1")) != nil, n.mux.Socket(netip.MustParseAddrPort("[2001:db8::1]:1")) != nil
		},
		Send: func(to netip.AddrPort, b []byte, hops int) error {
			s := n.mux.Socket(to)
			if s == nil {
				return errors.New("no socket")
			}
			if hops > 0 {
				return nil // this network does not count hops: an opener dies in it
			}
			_, err := s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: to}}, false)
			return err
		},
		Addresses: func() []netip.Addr { return h.Addrs },
		Probe: func(to netip.AddrPort, b []byte) error {
			s, err := h.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: to}}, false)
			return err
		},
		Find: func(p frame.PeerName) (nat.Known, bool) {
			return nat.Known{UID: uint64(p), Secret: [32]byte{byte(min(p, n.name)), byte(max(p, n.name))}, Data: dataPort, Other: otherPort}, true
		},
		Request: func(ctx context.Context, to frame.PeerName, b []byte) ([]byte, time.Duration, error) {
			sent, reply := time.Now(), make(chan []byte, 1)
			time.AfterFunc(2*latency, func() {
				go w.nodes[to-1].Answer(w.t.Context(), n.name, bytes.Clone(b), func(r []byte) {
					time.AfterFunc(2*latency, func() { reply <- r })
				})
			})
			select {
			case r := <-reply:
				return r, time.Since(sent), nil
			case <-ctx.Done():
				return nil, 0, context.Cause(ctx)
			}
		},
		Notify: func(to frame.PeerName, b []byte) error {
			time.AfterFunc(2*latency, func() { w.nodes[to-1].Notice(n.name, bytes.Clone(b)) })
			return nil
		},
		Found: func(p frame.PeerName, at netip.AddrPort) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.found[p] = at
		},
		Meet: func(_ context.Context, p frame.PeerName, at netip.AddrPort) error {
			n.mu.Lock()
			n.met[p], n.when[p] = at, time.Now()
			n.mu.Unlock()
			w.look()
			return nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	n.Agent = nat.New(cfg)
	for _, m := range []*mux.Mux{n.mux, other} {
		m.Handle(mux.STUN, func(s mux.Socket) mux.Handler {
			return func(batch []udp.Message) {
				for _, x := range batch {
					n.Take(x.Buf[:x.N], x.Addr, func(to netip.AddrPort, b []byte) {
						_, _ = s.WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: to}}, false)
					})
				}
			}
		})
	}
	n.mux.Handle(mux.Native, func(mux.Socket) mux.Handler {
		return func(batch []udp.Message) { n.frames.Add(uint64(len(batch))) }
	})
	w.nodes = append(w.nodes, n)
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.mux.Run(ctx) })
	wg.Go(func() { _ = other.Run(ctx) })
	wg.Go(func() { _ = n.Run(ctx) })
	w.t.Cleanup(func() { cancel(); wg.Wait() })
	return n
}

// sessions tells whether there is a session between two hosts: all have one with the
// first, and those that have met.
func (n *node) sessions(other *node) bool {
	if n.name == 1 || other.name == 1 {
		return true
	}
	lower, higher := n, other
	if other.name < n.name {
		lower, higher = other, n
	}
	lower.mu.Lock()
	defer lower.mu.Unlock()
	return lower.met[higher.name].IsValid()
}

// metAt, metWhen and foundAt are where and when this host met another, and the pair that
// was found.
func (n *node) metAt(o *node) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.met[o.name]
}

func (n *node) metWhen(o *node) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.when[o.name]
}

func (n *node) foundAt(o *node) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.found[o.name]
}

// look tells all agents of the mesh as it is.
func (w *world) look() {
	for _, n := range w.nodes {
		var peers []nat.Peer
		for _, o := range w.nodes {
			if o == n {
				continue
			}
			s := n.sessions(o)
			p := nat.Peer{Name: o.name, UID: uint64(o.name), Session: s, Direct: s, Pair: n.pairTo(o.name)}
			if n.name == 1 && o.seen.IsValid() {
				p.Addr = netip.AddrPortFrom(o.seen, 40000)
			}
			if o.name == 1 {
				p.Dialled, p.Sees = true, n.seen
				for _, a := range o.host.Addrs { // of a family that both have
					if n.mux.Socket(netip.AddrPortFrom(a, 1)) != nil {
						p.Addr = netip.AddrPortFrom(a, 6783)
						break
					}
				}
			}
			peers = append(peers, p)
		}
		n.Look(time.Now(), peers)
	}
}

// TestMatrix finds, for hosts behind NATs of all kinds, the direct way where there is
// one, within 5 s, and no other, and stays on it for 5 minutes; and says why where there
// is none.
func TestMatrix(t *testing.T) {
	for _, a := range nattest.Kinds() {
		for _, b := range nattest.Kinds() {
			t.Run(fmt.Sprintf("%s/%s", a, b), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, nattest.Config{Seed: 1})
					w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
					x := w.join(w.net.Site(nattest.SiteConfig{Kind: a}).Hosts[0], w.uses)
					y := w.join(w.net.Site(nattest.SiteConfig{Kind: b}).Hosts[0], w.uses)
					start := time.Now()
					w.look()
					time.Sleep(2 * time.Minute)
					want := nattest.Direct(a, b)
					if got := x.metAt(y).IsValid(); got != want {
						t.Fatalf("direct: %v, want %v; last: %v", got, want, x.Status(y.name).Tries)
					}
					w.hold(x, y, 5*time.Minute)
					if !want {
						x4, x6 := x.Behaviours()
						reasons, remedy := x.Status(y.name).Reasons("y", [2]nat.Behaviour{x4, x6})
						t.Logf("%v: %q, %s", x4, reasons, remedy)
						if len(reasons) == 0 || remedy == "" {
							t.Error("no reason, or no remedy")
						}
						return
					}
					if d := x.metWhen(y).Sub(start); d > 5*time.Second {
						t.Errorf("direct after %v", d)
					}
					if !y.foundAt(x).IsValid() || !x.foundAt(y).IsValid() {
						t.Errorf("found %v and %v", x.foundAt(y), y.foundAt(x))
					}
				})
			})
		}
	}
}

// uses makes frames use the pairs that an agent finds, and moves to others.
func (w *world) uses(c *nat.Config) {
	self, found := c.Self, c.Found
	c.Found = func(p frame.PeerName, at netip.AddrPort) {
		found(p, at)
		w.nodes[self-1].goTo(p, at)
	}
	c.Move = func(p frame.PeerName, at netip.AddrPort) { w.nodes[self-1].goTo(p, at) }
}

// trafficEvery is the time between the frames of a cell that is held: NATs forget flows
// after 10 s at the earliest, and paths see to it that they do not.
const trafficEvery = 3 * time.Second

// hold has frames go both ways between two hosts, if there is a way, and fails where one is
// lost, or the way changes. Where there is none it fails if one is found.
func (w *world) hold(x, y *node, d time.Duration) {
	w.t.Helper()
	sent := 0
	before := [2]uint64{x.frames.Load(), y.frames.Load()}
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(trafficEvery) {
		if !x.metAt(y).IsValid() {
			continue
		}
		sent++
		x.sendFrame(y)
		y.sendFrame(x)
	}
	for i, n := range []*node{x, y} {
		if got := n.frames.Load() - before[i]; got != uint64(sent) {
			w.t.Errorf("%d of %d frames came to %d", got, sent, n.name)
		}
	}
	for _, n := range [][2]*node{{x, y}, {y, x}} {
		n[0].mu.Lock()
		if got := n[0].pairs[n[1].name]; len(got) > 1 || len(got) == 1 != (sent > 0) {
			w.t.Errorf("pairs of %d: %v", n[0].name, got)
		}
		n[0].mu.Unlock()
	}
}

// sendFrame sends a native datagram by the pair to another host.
func (n *node) sendFrame(to *node) {
	at := n.pairTo(to.name)
	b := []byte{0x80}
	if _, err := n.mux.Socket(at).WriteBatch([]udp.Message{{Buf: b, N: len(b), Addr: at}}, false); err != nil {
		n.w.t.Error(err)
	}
}

// TestFiltering measures, with the help of a neighbour and of a peer behind a NAT of its
// own, who may send to hosts behind NATs of all kinds.
func TestFiltering(t *testing.T) {
	want := map[nattest.Kind]nat.Filtering{
		nattest.None: nat.OpenFiltering, nattest.FullCone: nat.OpenFiltering, nattest.AddressRestricted: nat.AddressFiltering,
		nattest.PortRestricted: nat.AddressPortFiltering, nattest.PortRestrictedOpen: nat.AddressPortFiltering,
		nattest.Symmetric: nat.AddressPortFiltering, nattest.Double: nat.AddressPortFiltering, nattest.ShortLived: nat.AddressPortFiltering,
		nattest.UDPBlocked: nat.UnknownFiltering,
	}
	for _, k := range nattest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
				site := w.net.Site(nattest.SiteConfig{Kind: k})
				x := w.join(site.Hosts[0], nil)
				if x.seen = site.Outside; !x.seen.IsValid() {
					x.seen = site.Hosts[0].Addrs[0]
				}
				w.join(w.net.Site(nattest.SiteConfig{Kind: nattest.Symmetric}).Hosts[0], nil)
				w.look()
				if v4, _, _ := x.Survey(t.Context()); v4.Filtering != want[k] {
					t.Errorf("%+v, want %s", v4, want[k])
				}
			})
		})
	}
}

// TestBehaviour measures the NATs of all kinds against two servers with two ports.
func TestBehaviour(t *testing.T) {
	want := map[nattest.Kind]nat.Mapping{
		nattest.None: nat.NoNAT, nattest.FullCone: nat.EndpointIndependent, nattest.AddressRestricted: nat.EndpointIndependent,
		nattest.PortRestricted: nat.EndpointIndependent, nattest.PortRestrictedOpen: nat.EndpointIndependent,
		nattest.Symmetric: nat.AddressPortDependent, nattest.Double: nat.EndpointIndependent, nattest.ShortLived: nat.EndpointIndependent,
		nattest.UDPBlocked: nat.UnknownMapping,
	}
	for _, k := range nattest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				first := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
				second := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
				x := w.join(w.net.Site(nattest.SiteConfig{Kind: k}).Hosts[0], func(c *nat.Config) {
					c.Servers = func(context.Context) []nat.Server {
						return []nat.Server{
							{Name: "one", Addr: netip.AddrPortFrom(first.host.Addrs[0], dataPort), Other: otherPort},
							{Name: "two", Addr: netip.AddrPortFrom(second.host.Addrs[0], dataPort), Other: otherPort},
						}
					}
				})
				v4, _, candidates := x.Survey(t.Context())
				if v4.Mapping != want[k] || v4.Blocked != (k == nattest.UDPBlocked) {
					t.Errorf("%+v, want %s", v4, want[k])
				}
				reflexive := slices.ContainsFunc(candidates, func(c nat.Candidate) bool { return c.Kind == nat.Reflexive })
				if want := k != nattest.None && k != nattest.UDPBlocked; reflexive != want {
					t.Errorf("candidates %v: server-reflexive %v, want %v", candidates, reflexive, want)
				}
			})
		})
	}
}

// TestLifetime measures how long NATs keep the mapping of an idle socket.
func TestLifetime(t *testing.T) {
	for k, want := range map[nattest.Kind]time.Duration{nattest.ShortLived: 10 * time.Second, nattest.FullCone: 2 * time.Minute} {
		t.Run(string(k), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nattest.Config{})
				first := w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
				site := w.net.Site(nattest.SiteConfig{Kind: k, Hosts: 2})
				x, y := w.join(site.Hosts[0], nil), w.join(site.Hosts[1], nil)
				got, most, err := nat.Lifetime(t.Context(), x.Agent, y.Agent, netip.AddrPortFrom(first.host.Addrs[0], dataPort), func(time.Duration, bool) {})
				if err != nil || most || got > want || got < want*8/10 {
					t.Errorf("Lifetime = %v, %v, %v, want about %v", got, most, err, want)
				}
			})
		})
	}
}
