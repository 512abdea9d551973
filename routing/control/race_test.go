package control

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestDialOrder(t *testing.T) {
	for _, tt := range []struct {
		name       string
		candidates []string
		want       string // with the time of each start in ms
	}{
		{"nothing", nil, ""},
		{"TCP only", []string{"10.0.0.1:6783"}, "0 10.0.0.1:6783"},
		{"QUIC only", []string{"quic://10.0.0.1:6785"}, "0 quic://10.0.0.1:6785"},
		{"both carriers", []string{"quic://10.0.0.1:6785", "10.0.0.1:6783"}, "0 10.0.0.1:6783, 50 quic://10.0.0.1:6785"},
		{"two addresses", []string{"10.0.0.1:6783", "quic://10.0.0.1:6785", "10.0.0.2:6783", "quic://10.0.0.2:6785", "10.0.0.3:1"},
			"0 10.0.0.1:6783, 50 quic://10.0.0.1:6785, 250 10.0.0.2:6783, 300 quic://10.0.0.2:6785, 500 10.0.0.3:1"},
		{"families in turn, IPv6 first", []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[fd00::1]:1", "[fd00::2]:1"},
			"0 [fd00::1]:1, 250 10.0.0.1:1, 500 [fd00::2]:1, 750 10.0.0.2:1, 1000 10.0.0.3:1"},
		{"carriers stay with their address", []string{"10.0.0.1:1", "[fd00::1]:1", "quic://10.0.0.1:2", "quic://[fd00::1]:2"},
			"0 [fd00::1]:1, 50 quic://[fd00::1]:2, 250 10.0.0.1:1, 300 quic://10.0.0.1:2"},
		{"further ports come last", []string{"10.0.0.1:1", "10.0.0.1:2", "quic://10.0.0.1:3", "10.0.0.2:1"},
			"0 10.0.0.1:1, 50 quic://10.0.0.1:3, 250 10.0.0.2:1, 500 10.0.0.1:2"},
		{"QUIC alone is not late", []string{"quic://10.0.0.1:1", "quic://10.0.0.2:1"}, "0 quic://10.0.0.1:1, 250 quic://10.0.0.2:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			at := time.Duration(0)
			for _, y := range dialOrder(over(tt.candidates...)) {
				at += y.wait
				got = append(got, strings.TrimSuffix(at.String(), "ms")+" "+y.String())
			}
			text := strings.Replace(strings.Join(got, ", "), "0s ", "0 ", 1)
			if text = strings.Replace(text, "1s ", "1000 ", 1); text != tt.want {
				t.Errorf("order = %s\nwant %s", text, tt.want)
			}
		})
	}
}

// A name's addresses are dialled by RFC 8305, sections 4 and 5: both families in
// turn, IPv6 first, and the next one at once where there is nothing to wait for.
func TestNameIsDialledLikeHappyEyeballs(t *testing.T) {
	resolve := func(c *Config) {
		c.Resolve = func(context.Context, string) ([]netip.Addr, error) {
			var out []netip.Addr
			for _, s := range []string{"10.0.0.8", "10.0.0.9", "fd00::8", "fd00::9"} {
				out = append(out, netip.MustParseAddr(s))
			}
			return out, nil
		}
	}
	for _, tt := range []struct {
		name string
		cut  bool // attempts hang; else they are refused
		want []time.Duration
	}{
		{"hanging", true, []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, 750 * time.Millisecond}},
		{"refused", false, []time.Duration{0, 0, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				for _, host := range []string{"10.0.0.8", "10.0.0.9", "fd00::8", "fd00::9"} {
					w.net.setCut("10.0.0.1", host, tt.cut)
				}
				began := time.Now()
				a := w.start(1, to("seed.example"), resolve)
				defer a.stop()
				time.Sleep(time.Second)
				dials := w.net.dialled(a.host)
				var to []string
				var at []time.Duration
				for _, d := range dials[:min(len(dials), 4)] {
					to, at = append(to, d.to.Addr().String()), append(at, d.at.Sub(began))
				}
				if want := []string{"fd00::8", "10.0.0.8", "fd00::9", "10.0.0.9"}; !slices.Equal(to, want) || !slices.Equal(at, tt.want) {
					t.Errorf("dialled %v at %v, want %v at %v", to, at, want, tt.want)
				}
			})
		})
	}
}

// Where both carriers pass, each pair has one session, over TCP, and QUIC is not
// even tried where TCP is quick.
func TestBothCarriersMakeOneSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		nodes := w.both(3)
		defer stopAll(nodes)
		fullMesh(t, 5*time.Second, nodes...)
		time.Sleep(time.Minute)
		for _, n := range nodes {
			for peer, at := range n.carriers(t) {
				if at.Carrier != CarrierTCP {
					t.Errorf("%s has its session with %s over %s", n.host, peer, at.Carrier)
				}
			}
			if got := n.snapshot(t).Terminations; got > 1 {
				t.Errorf("%s: %d sessions ended", n.host, got)
			}
			if got := w.quic.dialled(n.host); len(got) != 0 {
				t.Errorf("%s dialled %v over QUIC", n.host, got)
			}
		}
	})
}

// On slow networks streams of both carriers are open before either is a session,
// and all the same there is one session, which is never replaced.
func TestSlowNetworkHasNoDoubleSessions(t *testing.T) {
	for _, rtt := range []time.Duration{20 * time.Millisecond, 120 * time.Millisecond, 400 * time.Millisecond} {
		t.Run(rtt.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				half := func() time.Duration { return rtt / 2 }
				w.net.latency, w.quic.latency = half, half
				nodes := w.both(2)
				defer stopAll(nodes)
				fullMesh(t, 10*time.Second, nodes...)
				time.Sleep(30 * time.Second)
				for _, n := range nodes {
					if got := n.snapshot(t).Terminations; got != 0 {
						t.Errorf("%s: %d sessions ended", n.host, got)
					}
				}
			})
		})
	}
}

// A carrier that does not pass, in whatever way, costs a moment and no more.
func TestOneCarrierIsEnough(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spoil   func(w *world)
		carrier string
		within  time.Duration
	}{
		{"TCP is refused", func(w *world) { w.net.kill("10.0.0.1") }, CarrierQUIC, 10 * time.Millisecond},
		{"TCP is dropped", func(w *world) { w.net.setCut("10.0.0.1", "10.0.0.2", true) }, CarrierQUIC, 60 * time.Millisecond},
		{"TCP opens and never answers", func(w *world) { w.net.setDeaf("10.0.0.1", true) }, CarrierQUIC, 310 * time.Millisecond},
		{"QUIC is refused", func(w *world) { w.quic.kill("10.0.0.1") }, CarrierTCP, 10 * time.Millisecond},
		{"QUIC is dropped", func(w *world) { w.quic.setCut("10.0.0.1", "10.0.0.2", true) }, CarrierTCP, 10 * time.Millisecond},
		{"QUIC opens and never answers", func(w *world) { w.quic.setDeaf("10.0.0.1", true) }, CarrierTCP, 10 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.start(1, w.withQUIC())
				defer a.stop()
				tt.spoil(w)
				b := w.start(2, w.withQUIC())
				defer b.stop()
				if err := b.mesh.Connect([]string{"10.0.0.1"}, false); err != nil {
					t.Fatal(err)
				}
				eventually(t, tt.within, "the session is over "+tt.carrier, func() bool {
					return b.carriers(t)[a.name].Carrier == tt.carrier
				})
				time.Sleep(time.Minute) // what hung has ended
				fullMesh(t, 0, a, b)
				if got := a.snapshot(t).Terminations + b.snapshot(t).Terminations; got != 0 {
					t.Errorf("%d sessions ended", got)
				}
			})
		})
	}
}

// QUIC that opens and never answers does not keep a slow TCP from winning.
func TestDeafQUICBeforeSlowTCP(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.quic.setDeaf("10.0.0.1", true)
		a, b := w.start(1, w.withQUIC()), w.start(2, w.withQUIC(), to("quic://10.0.0.1", "tcp://10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, time.Second, a, b)
		if got := b.carriers(t)[a.name].Carrier; got != CarrierTCP {
			t.Errorf("the session is over %s, want TCP", got)
		}
	})
}

// A handshake that takes long is overtaken by the other carrier, and comes to its
// end all the same. Then both ends keep the same session, and frames pass all the
// time.
func TestOvertakenHandshakeSettles(t *testing.T) {
	replaced := 0
	for range 20 {
		inBubble(t, func(t *testing.T, w *world) {
			var opened atomic.Bool
			w.net.latency = func() time.Duration { // opens quickly, and is slow then
				if !opened.Swap(true) {
					return time.Millisecond
				}
				return 300 * time.Millisecond
			}
			nodes := w.both(2)
			defer stopAll(nodes)
			a, b := nodes[0], nodes[1]
			fullMesh(t, 600*time.Millisecond, a, b)
			if got := b.carriers(t)[a.name].Carrier; got != CarrierQUIC {
				t.Fatalf("the first session is over %s, want QUIC", got)
			}
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				synctest.Wait()
				if len(a.reached()) != 1 || len(b.reached()) != 1 {
					t.Fatal("no route while two sessions became one")
				}
			}
			x, y := a.carriers(t)[b.name].Carrier, b.carriers(t)[a.name].Carrier
			if x != y {
				t.Errorf("one end has kept the session over %s, the other one that over %s", x, y)
			}
			if got := max(a.snapshot(t).Terminations, b.snapshot(t).Terminations); got > 1 {
				t.Errorf("%d sessions ended, want one at most", got)
			}
			if x == CarrierTCP {
				replaced++
			}
		})
	}
	if replaced == 0 || replaced == 20 {
		t.Errorf("the later session was kept %d times of 20, want the lower connection UID to decide", replaced)
	}
}
