package control

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/identity"
)

// host is what a host of these tests keeps over restarts.
type host struct {
	id     *identity.Identity
	pins   *identity.Pins
	policy *identity.Policy
}

func newHost(t *testing.T) *host {
	t.Helper()
	pins, err := identity.OpenPins(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return &host{newIdentity(t), pins, identity.NewPolicy(pins)}
}

func (h *host) config(c *Config) { c.Identity, c.Trust = h.id, h.policy }

// secret sets the passwords of a node.
func secret(texts ...string) func(*Config) {
	return func(c *Config) { c.Settings.Passwords = secrets(texts...) }
}

func secrets(texts ...string) (out []Password) {
	for _, s := range texts {
		out = append(out, NewPassword([]byte(s)))
	}
	return out
}

// secure puts a node's sessions on secure streams.
func secure(c *Config) {
	for i, carrier := range c.Carriers {
		c.Carriers[i] = secureCarrier{carrier.(*memCarrier)}
	}
}

func TestNeighboursArePinned(t *testing.T) {
	for name, change := range map[string]func(*Config){"plain": func(*Config) {}, "secure": secure, "password": secret("alpha")} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				h1, h2 := newHost(t), newHost(t)
				a, b := w.start(1, h1.config, change), w.start(2, h2.config, change, to("10.0.0.1"))
				defer a.stop()
				defer b.stop()
				fullMesh(t, 5*time.Second, a, b)
				if pin, ok := h1.pins.Find(b.name); !ok || pin.Key != h2.id.Public() || pin.NickName != "host2" {
					t.Errorf("pin = %+v, want the key of host2", pin)
				}
				want := ByNothing
				if name == "password" {
					want = ByPassword
				}
				c := a.snapshot(t).Connections[0]
				if c.Key == nil || *c.Key != h2.id.Public() || c.Authentication != want {
					t.Errorf("connection has key %v, authentication %q, want %q", c.Key, c.Authentication, want)
				}
			})
		})
	}
}

// refused waits until b shows why a refuses it, or it a, and checks that there is
// no session.
func refused(t *testing.T, a, b *node, want string) {
	t.Helper()
	eventually(t, 30*time.Second, "a reason with "+want, func() bool {
		return strings.Contains(failure(t, b), want)
	})
	if len(a.established(t))+len(b.established(t)) != 0 {
		t.Error("connected all the same")
	}
}

// wantRefusal checks which end a node says was the one that refused.
func wantRefusal(t *testing.T, n *node, want Refusal) {
	t.Helper()
	for _, c := range n.snapshot(t).Connections {
		if c.Err != "" && c.Refused != want {
			t.Errorf("an attempt that failed with %q is refused %q, want %q", c.Err, c.Refused, want)
		}
	}
}

// TestPinnedName: whoever comes under a pinned name without its key is refused,
// over every carrier and protocol version.
func TestPinnedName(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"another key", newHost(t).config, "shows the key"},
		{"another key, secure", func(c *Config) { newHost(t).config(c); secure(c) }, "shows the key"},
		{"no identity", func(*Config) {}, "shows no key"},
		{"password known", func(c *Config) { secret("alpha")(c) }, "shows no key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				h, true1 := newHost(t), newHost(t)
				h.policy.Taken(0x020000000001, "host1", ptr(true1.id.Public()))
				both := func(c *Config) {
					if tt.name == "another key, secure" {
						secure(c)
					}
					if tt.name == "password known" {
						secret("alpha")(c)
					}
				}
				a, b := w.start(1, tt.change), w.start(2, h.config, both, to("10.0.0.1"))
				defer a.stop()
				defer b.stop()
				refused(t, a, b, tt.want)
				wantRefusal(t, b, RefusedHere)
				if got := failure(t, b); !strings.Contains(got, "meshd trust forget 02:00:00:00:00:01") || !strings.Contains(got, true1.id.Public().String()) {
					t.Errorf("%q names neither the pinned key nor the remedy", got)
				}
				if _, _, err := h.pins.Forget(a.name); err != nil {
					t.Fatal(err)
				}
				fullMesh(t, 10*time.Minute, a, b) // its next key is taken
			})
		})
	}
}

func ptr[T any](v T) *T { return &v }

// TestPinnedNameOfStrangers has stock peers, and peers whose features lost
// something on the way, connect under a pinned name, which has a live session too.
func TestPinnedNameOfStrangers(t *testing.T) {
	for _, tt := range []struct {
		name     string
		max      byte
		features Features
	}{
		{"stock", 2, Features{Overlays: []string{SleeveOverlay}, HasOverlays: true}},
		{"protocol 1", 1, Features{}},
		{"no Overlays, no Meshd", 2, Features{}},
		{"Meshd without identity", 2, Features{Overlays: []string{SleeveOverlay}, HasOverlays: true, Native: true, Abilities: []string{AbilityProbe}, Ephemeral: &[32]byte{9}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				h1, h2 := newHost(t), newHost(t)
				a, b := w.start(1, h1.config), w.start(2, h2.config, to("10.0.0.1"))
				defer a.stop()
				defer b.stop()
				fullMesh(t, 5*time.Second, a, b)
				stream, err := w.net.carrier(t, "10.0.0.9:6783").Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:6783"))
				if err != nil {
					t.Fatal(err)
				}
				f := tt.features
				f.Name, f.UID, f.ConnID = b.name, 999, 1
				conn, err := Handshake(t.Context(), stream, HandshakeConfig{Dialled: true, MaxVersion: tt.max, Features: f.FeatureMap})
				if err != nil {
					t.Fatal(err)
				}
				if tag, _, err := conn.ReadMessage(); err == nil {
					t.Errorf("got a message with tag %d: taken into the mesh", tag)
				}
				time.Sleep(10 * time.Second)
				fullMesh(t, 0, a, b)
				if got := a.snapshot(t).Terminations; got != 0 {
					t.Errorf("%d sessions ended", got)
				}
			})
		})
	}
}

// TestFailedSessionsPinNothing: a name is pinned by a session in the mesh only.
func TestFailedSessionsPinNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		h1, h2 := newHost(t), newHost(t)
		a := w.start(1, h1.config, func(c *Config) { c.Self.Name = 0x020000000002 })
		b := w.start(2, h2.config, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		refused(t, a, b, "collision")
		if n := len(h1.pins.All()) + len(h2.pins.All()); n != 0 {
			t.Errorf("%d pins, want none", n)
		}
	})
}

func TestTrustedKeys(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		h1, h2, h3 := newHost(t), newHost(t), newHost(t)
		list := []identity.Key{h1.id.Public(), h2.id.Public()}
		h1.policy.Set(list, false)
		h2.policy.Set(list, false)
		a, b := w.start(1, h1.config), w.start(2, h2.config, to("10.0.0.1"))
		c := w.start(3, h3.config, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		defer c.stop()
		fullMesh(t, 5*time.Second, a, b)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.snapshot(t).Connections; len(a.established(t)) != 1 || got[0].Authentication != ByKey {
			t.Errorf("connections %+v, want one by a trusted key", got)
		}
		// Stock peers, allowed and not.
		for _, stock := range []bool{false, true} {
			h1.policy.Set(list, stock)
			s := w.dialAs(t, a, "10.0.0.9", 0x020000000009)
			time.Sleep(time.Second)
			if got := s.connected(t, a); got != stock {
				t.Errorf("trust.stock %v: a stock peer is connected: %v", stock, got)
			}
			s.Close()
		}
		// A key that is taken off the list ends its session, though its path lives.
		h1.policy.Set(list[:1], false)
		if err := a.mesh.Apply(Settings{Discovery: true, ConnLimit: 200, MinProtocol: 1}); err != nil {
			t.Fatal(err)
		}
		if got := a.established(t); len(got) != 0 {
			t.Errorf("still connected to %v", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := a.established(t); len(got) != 0 {
			t.Errorf("connected again to %v", got)
		}
	})
}

// TestRotation moves three hosts to another password, host by host, on plain and
// secure carriers. No session ends, and each pair could connect at each moment.
func TestRotation(t *testing.T) {
	for name, change := range map[string]func(*Config){"plain": func(*Config) {}, "secure": secure} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				var nodes []*node
				for i := range 3 {
					n := w.start(i+1, newHost(t).config, secret("old"), change, to("10.0.0.1", "10.0.0.2", "10.0.0.3"))
					defer func() { n.stop() }()
					nodes = append(nodes, n)
				}
				fullMesh(t, 10*time.Second, nodes...)
				ended := endings(t, nodes)
				settings := Settings{Peers: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, Discovery: true, ConnLimit: 200, MinProtocol: 1}
				for _, step := range [][]string{{"new", "old"}, {"new"}} {
					for _, n := range nodes {
						settings.Passwords = secrets(step...)
						if err := n.mesh.Apply(settings); err != nil {
							t.Fatal(err)
						}
						time.Sleep(time.Minute)
						fullMesh(t, 0, nodes...)
						if got := endings(t, nodes); !slices.Equal(got, ended) {
							t.Errorf("sessions ended: %v, before %v", got, ended)
						}
						tryAll(t, nodes)
						ended = endings(t, nodes) // of two connections the lower one stays
					}
				}
			})
		})
	}
}

func endings(t *testing.T, nodes []*node) (out []uint64) {
	for _, n := range nodes {
		out = append(out, n.snapshot(t).Terminations)
	}
	return out
}

// tryAll has each node dial each other one: the handshake, fallback included, must
// come as far as to find the session that there is.
func tryAll(t *testing.T, nodes []*node) {
	t.Helper()
	for _, from := range nodes {
		for _, n := range nodes {
			if from == n {
				continue
			}
			probe := &target{spec: n.host, direct: true}
			race := from.mesh.newRace(context.WithoutCancel(t.Context()), probe)
			err := race.try(Candidate{CarrierTCP, netip.MustParseAddrPort(n.host + ":6783")})
			if err != nil && !errors.Is(err, errDuplicate) {
				t.Errorf("%s dials %s: %v", from.host, n.host, err)
			}
			synctest.Wait()
		}
	}
}

// TestFallbackIsRemembered: with two passwords, a peer that has the second only
// costs one refused connection, not one for each dial; one that has neither is not
// asked more than twice, and never without.
func TestFallbackIsRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1, secret("old")), w.start(2, secret("new", "old"), to("10.0.0.1"))
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		if got := w.net.openedTo("10.0.0.1"); got != 2 {
			t.Errorf("%d connections, want 2: one with each password", got)
		}
		a.stop()
		a = w.start(1, secret("old"))
		defer func() { a.stop() }()
		before := w.net.openedTo("10.0.0.1")
		fullMesh(t, time.Minute, a, b)
		if got := w.net.openedTo("10.0.0.1") - before; got != 1 {
			t.Errorf("%d connections after a restart, want 1", got)
		}
		a.stop()
		a = w.start(1)
		refused(t, a, b, "password")
	})
}

// openedTo counts the streams that were opened to a host.
func (n *memNet) openedTo(host string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pipes {
		if p.remote.Addr() == netip.MustParseAddr(host) {
			count++
		}
	}
	return count
}

// TestSleeveIsSealedOverSecureCarriers: frames over sleeve have a key though the
// session has none of its own, unless both ends trust the subnet.
func TestSleeveIsSealedOverSecureCarriers(t *testing.T) {
	for _, trusting := range []bool{false, true} {
		inBubble(t, func(t *testing.T, w *world) {
			subnets := func(c *Config) {
				if trusting {
					c.Settings.TrustedSubnets = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
				}
			}
			a, b := w.start(1, newHost(t).config, secure, subnets), w.start(2, newHost(t).config, secure, subnets, to("10.0.0.1"))
			defer a.stop()
			defer b.stop()
			fullMesh(t, 5*time.Second, a, b)
			w.air.mu.Lock()
			defer w.air.mu.Unlock()
			var keys []*[32]byte
			for _, p := range w.air.paths {
				keys = append(keys, p.session.Key)
			}
			if len(keys) != 2 || (keys[0] == nil) != trusting || !trusting && *keys[0] != *keys[1] {
				t.Errorf("trusting %v: sleeve's keys are %v", trusting, keys)
			}
		})
	}
}
