package nat_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/nat"
	"meshd/nat/nattest"
)

// pairTo is the pair that frames to a peer use; not valid: none.
func (n *node) pairTo(p frame.PeerName) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	if all := n.pairs[p]; len(all) > 0 {
		return all[len(all)-1]
	}
	return netip.AddrPort{}
}

func (n *node) goTo(p frame.PeerName, at netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pairs[p] = append(n.pairs[p], at)
}

// twoPairs is a mesh in which two hosts without NATs have IPv4 and IPv6, each with the
// round-trip time of now.
type twoPairs struct {
	*world
	x, y   *node // x leads
	v4, v6 atomic.Int64
	no6    atomic.Bool // y has no IPv6
	jitter time.Duration
}

// newTwoPairs makes them. A negative time: nothing arrives.
func newTwoPairs(t *testing.T, seed uint64, v4, v6, jitter time.Duration, no6 bool) *twoPairs {
	w := &twoPairs{jitter: jitter}
	w.no6.Store(no6)
	w.rtts(v4, v6)
	rng := rand.New(rand.NewPCG(seed, 1))
	w.world = newWorld(t, nattest.Config{Seed: seed, Delay: func(d nattest.Datagram) time.Duration {
		rtt := time.Duration(w.v4.Load())
		if d.To.Addr().Is6() {
			rtt = time.Duration(w.v6.Load())
		}
		if rtt < 0 {
			return rtt
		}
		if w.jitter > 0 {
			rtt += 2 * time.Duration(rng.Int64N(int64(w.jitter)))
		}
		return rtt / 2
	}})
	dual := nattest.SiteConfig{IPv6: nattest.OpenIPv6}
	w.join(w.net.Site(nattest.SiteConfig{}).Hosts[0], nil)
	w.x = w.join(w.net.Site(dual).Hosts[0], w.moves)
	host := w.net.Site(dual).Hosts[0]
	w.y = w.join(host, func(c *nat.Config) {
		w.moves(c)
		c.Addresses = func() []netip.Addr {
			if w.no6.Load() {
				return host.Addrs[:1]
			}
			return host.Addrs
		}
	})
	w.look()
	time.Sleep(time.Minute)
	if !w.x.metAt(w.y).IsValid() {
		t.Fatalf("not met: %v", w.x.Status(w.y.name).Tries)
	}
	return w
}

func (w *twoPairs) rtts(v4, v6 time.Duration) {
	w.v4.Store(int64(v4))
	w.v6.Store(int64(v6))
}

// moves makes an agent's moves moves of both ends, as native datagrams do that.
func (w *twoPairs) moves(c *nat.Config) {
	self, meet := c.Self, c.Meet
	move := func(p frame.PeerName, at netip.AddrPort) {
		from, to := w.nodes[self-1], w.nodes[p-1]
		from.goTo(p, at)
		for _, a := range from.host.Addrs {
			if a.Is4() == at.Addr().Is4() {
				to.goTo(self, netip.AddrPortFrom(a, dataPort))
			}
		}
		w.look()
	}
	c.Move = move
	c.Meet = func(ctx context.Context, p frame.PeerName, at netip.AddrPort) error {
		err := meet(ctx, p, at)
		move(p, at)
		return err
	}
}

// families are the pairs of x and y that frames used, one after the other.
func (w *twoPairs) families() (out string) {
	w.x.mu.Lock()
	defer w.x.mu.Unlock()
	for _, at := range w.x.pairs[w.y.name] {
		if at.Addr().Is4() {
			out += "4"
		} else {
			out += "6"
		}
	}
	return out
}

const ms = time.Millisecond

// TestBetterPair moves frames to a pair that is better, or has become it, and leaves them
// where they are otherwise.
func TestBetterPair(t *testing.T) {
	for _, tt := range []struct {
		name           string
		v4, v6         time.Duration // at first
		no6            bool          // at first
		then4, then6   time.Duration
		within         time.Duration
		kick           bool // y notices that its addresses have changed
		pairs, comment string
	}{
		{"IPv6 appears", 60 * ms, -1, true, 60 * ms, 20 * ms, time.Minute, true, "46", "it is faster"},
		{"IPv6 appears as fast", 60 * ms, -1, true, 60 * ms, 60 * ms, time.Minute, true, "46", "it is preferred"},
		{"IPv6 appears and is slow", 20 * ms, -1, true, 20 * ms, 60 * ms, time.Hour, true, "4", "it stays"},
		{"IPv6 begins to work", 60 * ms, -1, false, 60 * ms, 20 * ms, 13 * time.Minute, false, "46", "it is faster"},
		{"IPv6 never works", 60 * ms, -1, false, 60 * ms, -1, time.Hour, false, "4", "it stays"},
		{"IPv6 becomes slow", 60 * ms, 59 * ms, false, 60 * ms, 100 * ms, 9 * time.Minute, false, "64", "IPv4 worked at first"},
		{"IPv6 becomes little slower", 60 * ms, 59 * ms, false, 60 * ms, 68 * ms, time.Hour, false, "6", "not by the margin"},
		{"two fast pairs", 1 * ms, 1 * ms, false, 1 * ms, 2500 * time.Microsecond, time.Hour, false, "6", "2 ms at least"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTwoPairs(t, 1, tt.v4, tt.v6, 0, tt.no6)
				time.Sleep(10 * time.Minute)
				if got := w.families(); got != tt.pairs[:1] {
					t.Fatalf("at first pairs of IPv%s, want %s", got, tt.pairs[:1])
				}
				w.no6.Store(false)
				w.rtts(tt.then4, tt.then6)
				if tt.kick {
					w.y.Kick()
				}
				time.Sleep(tt.within)
				if got := w.families(); got != tt.pairs {
					t.Errorf("pairs of IPv%s, want %s: %s", got, tt.pairs, tt.comment)
				}
				time.Sleep(time.Hour)
				if got := w.families(); got != tt.pairs {
					t.Errorf("an hour later pairs of IPv%s, want %s", got, tt.pairs)
				}
				if at := w.x.pairTo(w.y.name); w.x.Status(w.y.name).Pair != at {
					t.Errorf("the pair is said to be %v, and is %v", w.x.Status(w.y.name).Pair, at)
				}
			})
		})
	}
}

// TestEqualPairsDoNotFlap: frames stay where they are between pairs that are equal but
// for jitter, for two hours.
func TestEqualPairsDoNotFlap(t *testing.T) {
	for _, jitter := range []time.Duration{1 * ms, 5 * ms, 20 * ms, 50 * ms} {
		for seed := range uint64(3) {
			synctest.Test(t, func(t *testing.T) {
				w := newTwoPairs(t, seed, 30*ms, 30*ms, jitter, false)
				time.Sleep(2 * time.Hour)
				if got := w.families(); got != "6" && got != "46" {
					t.Errorf("jitter %v, seed %d: pairs of IPv%s", jitter, seed, got)
				}
			})
		}
	}
}

// TestLoadDoesNotFlap: the pair that frames use is the slower one because of them. They
// move less and less.
func TestLoadDoesNotFlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoPairs(t, 1, 30*ms, 30*ms, 0, false)
		for range 24 * 60 {
			if w.x.pairTo(w.y.name).Addr().Is4() {
				w.rtts(80*ms, 30*ms)
			} else {
				w.rtts(30*ms, 80*ms)
			}
			time.Sleep(time.Minute)
		}
		if got := w.families(); len(got) < 3 || len(got) > 12 {
			t.Errorf("pairs of IPv%s in a day", got)
		}
	})
}

// TestComparisonIsCheap counts what is sent to addresses where nobody answers, and all,
// in an hour; and nothing is compared while no frames flow.
func TestComparisonIsCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoPairs(t, 1, 30*ms, -1, 0, false)
		count := func() (silent, all int) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for to, n := range w.seen {
				if all += n; slices.Contains(w.y.host.Addrs[1:], to.Addr()) {
					silent += n
				}
			}
			clear(w.seen)
			return silent, all
		}
		count()
		time.Sleep(time.Hour)
		if silent, all := count(); silent == 0 || silent > 60 || all > 1000 {
			t.Errorf("%d datagrams to an address that is silent, %d in all", silent, all)
		}
		w.x.goTo(w.y.name, netip.AddrPort{})
		w.look()
		time.Sleep(time.Hour)
		if _, all := count(); all != 0 {
			t.Errorf("%d datagrams while no frames flow", all)
		}
	})
}

// TestLostWhileComparing: a way that is lost during a comparison is looked for at once.
func TestLostWhileComparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwoPairs(t, 1, 30*ms, 20*ms, 0, false)
		w.x.Kick()
		for !w.x.Status(w.y.name).Active {
			time.Sleep(10 * ms)
		}
		w.x.mu.Lock()
		delete(w.x.met, w.y.name)
		w.x.mu.Unlock()
		w.look()
		lost := time.Now()
		time.Sleep(100 * ms)
		if v4, _ := w.x.Behaviours(); v4.Blocked || slices.ContainsFunc(v4.Answers, func(a nat.Answer) bool { return a.Err != "" }) {
			t.Errorf("a survey that was cut short is believed: %+v", v4)
		}
		time.Sleep(time.Minute)
		if d := w.x.metWhen(w.y).Sub(lost); d < 0 || d > time.Second {
			t.Errorf("found again after %v", d)
		}
	})
}
