package control

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
)

// Meshes whose peers have TCP and QUIC.

// withQUIC gives a node a second carrier.
func (w *world) withQUIC() func(*Config) {
	return func(c *Config) {
		host := c.Carriers[0].(*memCarrier).addr.Addr()
		c.Carriers = append(c.Carriers, w.quic.carrier(w.t, netip.AddrPortFrom(host, DefaultQUICPort).String()))
	}
}

// both starts nodes 1 to n, each with both carriers and the first as its target.
func (w *world) both(n int) (nodes []*node) {
	for i := range n {
		change := []func(*Config){w.withQUIC()}
		if i > 0 {
			change = append(change, to("10.0.0.1"))
		}
		nodes = append(nodes, w.start(i+1, change...))
	}
	return nodes
}

func stopAll(nodes []*node) {
	for _, n := range nodes {
		n.stop()
	}
}

// carriers are what the sessions of n ride on, and their addresses, by peer.
func (n *node) carriers(t *testing.T) map[frame.PeerName]Candidate {
	t.Helper()
	out := map[frame.PeerName]Candidate{}
	for _, c := range n.snapshot(t).Connections {
		if c.Name != 0 && !c.Unsessioned {
			out[c.Name] = Candidate{c.Carrier, netip.MustParseAddrPort(c.Address)}
		}
	}
	return out
}

// cutAll black-holes the network between all hosts of these tests, or mends it.
func (n *memNet) cutAll(cut bool) {
	hosts := []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
	for i, a := range hosts {
		for _, b := range hosts[:i] {
			n.setCut(a, b, cut)
		}
	}
}

// A target that names a carrier is dialled over that one only.
func TestTargetsThatNameACarrier(t *testing.T) {
	for _, tt := range []struct{ target, carrier string }{
		{"quic://10.0.0.1", CarrierQUIC}, {"quic://10.0.0.1:6785", CarrierQUIC}, {"tcp://10.0.0.1", CarrierTCP}, {"tcp://10.0.0.1:6783", CarrierTCP},
	} {
		t.Run(tt.target, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start(1, w.withQUIC()), w.start(2, w.withQUIC(), to(tt.target))
				defer a.stop()
				defer b.stop()
				fullMesh(t, time.Second, a, b)
				if got := b.carriers(t)[a.name].Carrier; got != tt.carrier {
					t.Errorf("the session is over %s, want %s", got, tt.carrier)
				}
			})
		})
	}
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1, w.withQUIC()), w.start(2, to("quic://10.0.0.1"))
		defer a.stop()
		defer b.stop()
		eventually(t, time.Second, "the reason is shown", func() bool {
			return failure(t, b) == "the carrier quic is switched off here"
		})
	})
}

// What is wrong is said in one sentence, for each carrier where they differ.
func TestFailureNamesTheCarrier(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.quic.setCut("10.0.0.9", "10.0.0.2", true)
		b := w.start(2, w.withQUIC(), to("10.0.0.9"))
		defer b.stop()
		const want = "over tcp: connection refused, over quic: no answer within 5s"
		eventually(t, 10*time.Second, want, func() bool { return failure(t, b) == want })
	})
}

// What ends an attempt for good does so over both carriers, and a refusal that is
// only met over QUIC is told as such.
func TestRefusalsOverBothCarriers(t *testing.T) {
	password := func(p string) func(*Config) {
		return func(c *Config) { c.Settings.Passwords = Passwords([]byte(p)) }
	}
	for _, tt := range []struct {
		name, target string
		spoil        func(w *world)
		want         string
		never        bool
	}{
		{"ourselves", "10.0.0.2", func(*world) {}, "ourself", true},
		{"ourselves, not over QUIC", "10.0.0.2", func(w *world) { w.quic.kill("10.0.0.2") }, "ourself", true},
		{"wrong password", "10.0.0.1", func(*world) {}, "passwords", false},
		{"wrong password over QUIC", "10.0.0.1", func(w *world) { w.net.kill("10.0.0.1") }, "over quic: handshake: exchange features: ", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start(1, w.withQUIC(), password("alpha")), w.start(2, w.withQUIC(), password("beta"))
				defer a.stop()
				defer b.stop()
				tt.spoil(w)
				if err := b.mesh.Connect([]string{tt.target}, false); err != nil {
					t.Fatal(err)
				}
				eventually(t, 15*time.Second, "the reason is shown", func() bool {
					return strings.Contains(failure(t, b), tt.want)
				})
				for _, c := range b.snapshot(t).Connections {
					if c.Never != tt.never {
						t.Errorf("never tried again: %v, want %v (%s)", c.Never, tt.never, c.Err)
					}
				}
			})
		})
	}
}

// A session whose TCP is black-holed while frames pass is made again over QUIC as
// soon as TCP has given it up, and the link lives on.
func TestLostSessionIsRemadeOverTheOtherCarrier(t *testing.T) {
	for _, from := range []string{CarrierTCP, CarrierQUIC} {
		t.Run("from "+from, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				broken, other := w.net, w.quic
				if from == CarrierQUIC {
					broken, other = w.quic, w.net
				}
				a, b := w.start(1, w.withQUIC()), w.start(2, w.withQUIC(), to(from+"://10.0.0.1"))
				defer a.stop()
				defer b.stop()
				fullMesh(t, 5*time.Second, a, b)
				time.Sleep(10 * time.Second)
				broken.setCut(a.host, b.host, true)
				for end := time.Now().Add(nativeSilence + 5*time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
					synctest.Wait()
					if len(a.reached()) != 1 || len(b.reached()) != 1 {
						t.Fatal("no route while the session was made again")
					}
				}
				if got := b.carriers(t)[a.name].Carrier; got != other.name {
					t.Errorf("the session is over %q, want %s", got, other.name)
				}
				broken.setCut(a.host, b.host, false)
				other.setCut(a.host, b.host, true) // and back again
				eventually(t, nativeSilence+5*time.Second, "the session is back on "+from, func() bool {
					return b.carriers(t)[a.name].Carrier == from && a.carriers(t)[b.name].Carrier == from
				})
				fullMesh(t, 0, a, b)
			})
		})
	}
}

// From a session that ended to the one over QUIC while TCP is black-holed passes
// less than a second.
func TestQUICIsQuickWhereTCPIsBlackHoled(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		nodes := w.both(2)
		defer stopAll(nodes)
		a, b := nodes[0], nodes[1]
		fullMesh(t, 5*time.Second, a, b)
		time.Sleep(10 * time.Second)
		w.net.setCut(a.host, b.host, true)
		for _, n := range nodes { // as TCP_USER_TIMEOUT does
			n.mesh.do(func() {
				for s := range n.mesh.sessions {
					n.mesh.endSession(s, errors.New("connection timed out"))
				}
			})
		}
		eventually(t, time.Second, "there is a session over QUIC", func() bool {
			return b.carriers(t)[a.name].Carrier == CarrierQUIC && a.carriers(t)[b.name].Carrier == CarrierQUIC
		})
		fullMesh(t, 0, a, b)
	})
}

// A mesh whose TCP is blocked from the start finds itself: the third peer is known
// to the second one only by what the first one says of its QUIC session.
func TestDiscoveryOverQUICOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.net.cutAll(true)
		nodes := w.both(3)
		defer stopAll(nodes)
		fullMesh(t, 5*time.Second, nodes...)
		for _, n := range nodes {
			for peer, at := range n.carriers(t) {
				if at.Carrier != CarrierQUIC || at.Addr.Port() != DefaultQUICPort {
					t.Errorf("%s has its session with %s at %s, want QUIC", n.host, peer, at)
				}
			}
		}
	})
}

// Peers that know each other's TCP addresses only find each other over QUIC once
// TCP is blocked.
func TestDiscoveryGuessesTheOtherCarrier(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.net.setCut("10.0.0.2", "10.0.0.3", true)
		nodes := w.both(3)
		defer stopAll(nodes)
		fullMesh(t, 10*time.Second, nodes...)
		if at := nodes[1].carriers(t)[nodes[2].name]; at.Carrier != CarrierQUIC {
			t.Errorf("the session is at %s, want QUIC", at)
		}
		if at := nodes[0].carriers(t)[nodes[2].name]; at.Carrier != CarrierTCP {
			t.Errorf("the session with the seed is at %s, want TCP", at)
		}
	})
}

// Our entry shows a session over QUIC as nothing that a stock router dials, and
// one over TCP as it always was.
func TestEntryOfASessionOverQUIC(t *testing.T) {
	for _, tt := range []struct {
		target               string
		address              string // as the dialling end shows it
		outbound             bool
		shown, shownCarrier  string
		acceptedAs, accepted string
	}{
		{"quic://10.0.0.1", "quic!10.0.0.1!6785", false, "10.0.0.1:6785", CarrierQUIC, "quic!10.0.0.2!6785", ""},
		{"tcp://10.0.0.1", "10.0.0.1:6783", true, "10.0.0.1:6783", CarrierTCP, "", "10.0.0.2:"},
	} {
		t.Run(tt.target, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start(1, w.withQUIC()), w.start(2, w.withQUIC(), to(tt.target))
				defer a.stop()
				defer b.stop()
				fullMesh(t, 5*time.Second, a, b)
				b.mesh.do(func() {
					c := b.mesh.topo.Self().Connections[0]
					if c.RemoteAddr != tt.address || c.Outbound != tt.outbound || !c.Established {
						t.Errorf("the dialling end shows %+v, want %s, outbound %v", c, tt.address, tt.outbound)
					}
				})
				a.mesh.do(func() {
					c := a.mesh.topo.Self().Connections[0]
					if c.Outbound || tt.acceptedAs != "" && c.RemoteAddr != tt.acceptedAs || !strings.HasPrefix(c.RemoteAddr, tt.accepted) {
						t.Errorf("the accepting end shows %+v, want %s%s", c, tt.acceptedAs, tt.accepted)
					}
				})
				for _, p := range a.snapshot(t).Peers {
					if c := p.Connections[0]; p.Name == b.name && (c.Address != tt.shown || c.Carrier != tt.shownCarrier) {
						t.Errorf("the snapshot has %+v, want %s over %s", c, tt.shown, tt.shownCarrier)
					}
				}
			})
		})
	}
}

// A peer without QUIC, as stock routers are, has its sessions over TCP as always.
func TestPeerWithoutQUIC(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.quic.setCut("10.0.0.1", "10.0.0.2", true) // nobody answers there
		w.quic.setCut("10.0.0.1", "10.0.0.3", true)
		a := w.start(1)
		b, c := w.start(2, w.withQUIC(), to("10.0.0.1")), w.start(3, w.withQUIC(), to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		defer c.stop()
		fullMesh(t, 5*time.Second, a, b, c)
		time.Sleep(time.Minute)
		fullMesh(t, 0, a, b, c)
		for _, n := range []*node{a, b, c} {
			if got := n.snapshot(t).Terminations; got > 1 {
				t.Errorf("%s: %d sessions ended", n.host, got)
			}
		}
	})
}

// The gate bounds unfinished handshakes over QUIC as over TCP, and those over both
// together.
func TestGateCoversAllCarriers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1, w.withQUIC())
		defer a.stop()
		attacker := w.quic.carrier(t, "10.0.0.66:6785")
		open := 0
		for range 2 * maxPerSource {
			s, err := attacker.Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:6785"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			synctest.Wait()
			_ = s.SetReadDeadline(time.Now())
			if n, _ := s.Read(make([]byte, 1)); n == 1 { // it says its header
				open++
			}
		}
		if open != maxPerSource {
			t.Errorf("%d handshakes are under way from one address, want %d", open, maxPerSource)
		}
		s, err := w.net.carrier(t, "10.0.0.66:6783").Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:6783"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		synctest.Wait()
		_ = s.SetReadDeadline(time.Now())
		if n, _ := s.Read(make([]byte, 1)); n != 0 {
			t.Error("the same address is let in over TCP besides")
		}
	})
}

// What a run over QUIC remembers finds the mesh again.
func TestRememberedOverQUIC(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.net.cutAll(true)
		a := w.start(1, w.withQUIC())
		b := w.start(2, w.withQUIC(), to("quic://10.0.0.1"))
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		var kept []Remembered
		a.mesh.do(func() { kept = a.mesh.targets.Remembered() })
		a.stop()
		if err := b.mesh.Forget([]string{"quic://10.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		if len(kept) != 1 || kept[0].Addresses[0] != over("quic://10.0.0.2:6785")[0] {
			t.Fatalf("kept %v, want peer 2 over QUIC first", kept)
		}
		a = w.start(1, w.withQUIC(), func(c *Config) { c.Remembered = kept })
		defer a.stop()
		fullMesh(t, 2*time.Second, a, b)
	})
}
