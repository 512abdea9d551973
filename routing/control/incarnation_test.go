package control

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
	"meshd/routing"
)

// agreeWithin is how long hosts whose connections are all up again may hold
// different entries of one peer: far less than the 30 s between two periodic
// gossips, so that it is not those that mend what went wrong.
const agreeWithin = 4 * time.Second

// shakes is how many meshes are shaken.
const shakes = 60

// disagreement says which entry one of the nodes holds that is not the one its
// peer has of itself; "" when there is none.
func disagreement(t *testing.T, nodes []*node) string {
	t.Helper()
	own := map[string]PeerSnapshot{}
	snapshots := make([]Snapshot, len(nodes))
	for i, n := range nodes {
		snapshots[i] = n.snapshot(t)
		own[n.name.String()] = snapshots[i].Self
	}
	for i, s := range snapshots {
		if len(s.Peers) != len(nodes) {
			return fmt.Sprintf("%s knows %d peers, want %d", nodes[i].host, len(s.Peers), len(nodes))
		}
		for _, p := range s.Peers {
			if want := own[p.Name.String()]; p.UID != want.UID || p.Version != want.Version || !slices.Equal(p.Connections, want.Connections) {
				return fmt.Sprintf("%s holds %+v, want %+v", nodes[i].host, p, want)
			}
		}
	}
	return ""
}

// agree waits until all nodes hold the same entries.
func agree(t *testing.T, nodes []*node) {
	t.Helper()
	what := ""
	defer func() {
		if what != "" {
			t.Error(what)
		}
	}()
	eventually(t, agreeWithin, "all hold the same entries", func() bool {
		what = disagreement(t, nodes)
		return what == ""
	})
}

// shaken is a mesh with random connections that random harm is done to.
type shaken struct {
	*world
	rng   *rand.Rand
	edges [][2]int
	nodes []*node
	stock map[int]bool // nodes that are like stock routers
}

// newShaken starts a mesh whose connections are a random tree with some more. If it
// is mixed some nodes are like stock routers.
func newShaken(w *world, rng *rand.Rand, mixed bool) *shaken {
	s := &shaken{world: w, rng: rng, nodes: make([]*node, 3+rng.IntN(4)), stock: map[int]bool{}}
	for i := range s.nodes {
		s.stock[i] = mixed && rng.IntN(2) == 0
	}
	w.net.latency = func() time.Duration { return time.Duration(rand.Int64N(int64(30 * time.Millisecond))) }
	for j := 1; j < len(s.nodes); j++ {
		s.edges = append(s.edges, [2]int{rng.IntN(j), j})
	}
	for range rng.IntN(len(s.nodes)) {
		e := [2]int{rng.IntN(len(s.nodes)), rng.IntN(len(s.nodes))}
		if e[0] < e[1] && !slices.Contains(s.edges, e) {
			s.edges = append(s.edges, e)
		}
	}
	w.t.Logf("connections %v, like stock routers %v (both from 0)", s.edges, s.stock)
	for i := range s.nodes {
		s.begin(i)
	}
	return s
}

// begin starts a node as a new incarnation.
func (s *shaken) begin(i int) {
	var targets []string
	for _, e := range s.edges {
		if e[1] == i {
			targets = append(targets, fmt.Sprintf("10.0.0.%d", e[0]+1))
		}
	}
	s.nodes[i] = s.start(i+1, to(targets...), func(c *Config) {
		c.Stock = s.stock[i]
		c.Self.UID, c.Settings.Discovery = 1+s.rng.Uint64N(1<<63), false
	})
}

// TestStockAnnouncesNothingOfOurs: the features of a mesh that plays a stock router
// are those of section 1.7, with an identity and a password configured too.
func TestStockAnnouncesNothingOfOurs(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1, newHost(t).config, func(c *Config) { c.Stock = true })
		defer a.stop()
		stream, err := w.net.carrier(t, "10.0.0.9:6783").Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:6783"))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		f := Features{Name: 0x020000000009, UID: 9, ConnID: 1, Native: true, Abilities: []string{AbilityProbe}, Ephemeral: &[32]byte{9}}
		conn, err := Handshake(t.Context(), stream, HandshakeConfig{Dialled: true, Features: f.FeatureMap})
		if err != nil {
			t.Fatal(err)
		}
		got := slices.Sorted(maps.Keys(conn.RemoteFeatures))
		if want := []string{featureConnID, featureName, featureNickName, featureOverlays, featureFlavour, featureShortID, featureTrusted, featureUID}; !slices.Equal(got, want) {
			t.Errorf("features %v, want %v", got, want)
		}
	})
}

// pause lets a moment pass in which what was done is half known.
func (s *shaken) pause() { time.Sleep(time.Duration(s.rng.Int64N(int64(2500 * time.Millisecond)))) }

// harm does something to a node or a connection and undoes it.
func (s *shaken) harm() {
	i := s.rng.IntN(len(s.nodes))
	e := s.edges[s.rng.IntN(len(s.edges))]
	if s.stock[i] || s.stock[e[0]] && s.stock[e[1]] {
		return // what stock routers do to each other is not ours to mend
	}
	a, b := s.nodes[e[0]], s.nodes[e[1]]
	switch s.rng.IntN(5) {
	case 0:
		s.t.Logf("%s is killed and returns", s.nodes[i].host)
		s.nodes[i].kill()
		s.pause()
		s.begin(i)
	case 1:
		s.t.Logf("%s is killed and returns at once", s.nodes[i].host)
		s.nodes[i].kill()
		s.begin(i)
	case 2:
		s.t.Logf("%s ends and returns", s.nodes[i].host)
		s.nodes[i].stop()
		s.pause()
		s.begin(i)
	case 3:
		s.t.Logf("%s and %s are cut off from each other", a.host, b.host)
		s.net.setCut(a.host, b.host, true)
		s.air.setCut(a.name, b.name, true)
		s.pause()
		s.net.setCut(a.host, b.host, false)
		s.air.setCut(a.name, b.name, false)
	case 4:
		s.t.Logf("the session of %s with %s breaks, and its path", a.host, b.host)
		s.air.setCut(a.name, b.name, true)
		a.mesh.do(func() {
			if n := a.mesh.neighbours[b.name]; n != nil && n.session != nil {
				n.session.close(errors.New("reset"))
			}
		})
		s.pause()
		s.air.setCut(a.name, b.name, false)
	}
}

// connected reports whether all connections are established at both ends, and have
// a session to gossip over.
func (s *shaken) connected() bool {
	up := func(a, b *node) bool {
		return slices.ContainsFunc(a.snapshot(s.t).Connections, func(c ConnectionSnapshot) bool {
			return c.Name == b.name && c.State == StateEstablished && !c.Unsessioned
		})
	}
	for _, e := range s.edges {
		if a, b := s.nodes[e[0]], s.nodes[e[1]]; !up(a, b) || !up(b, a) {
			return false
		}
	}
	return true
}

// TestEntriesAgreeAfterHarm: whatever restarts, cuts and losses a mesh goes
// through, all hosts hold the same entries soon after the last connection is up.
func TestEntriesAgreeAfterHarm(t *testing.T) {
	for _, mixed := range []bool{false, true} {
		for seed := range uint64(shakes) {
			t.Run(fmt.Sprintf("mixed %v, seed %d", mixed, seed), func(t *testing.T) {
				inBubble(t, func(t *testing.T, w *world) {
					shakeAndCompare(newShaken(w, rand.New(rand.NewPCG(seed, 2)), mixed))
				})
			})
		}
	}
}

func shakeAndCompare(s *shaken) {
	defer func() {
		for _, n := range s.nodes {
			n.stop()
		}
	}()
	for range 3 {
		eventually(s.t, 2*time.Minute, "all connections are up", s.connected)
		agree(s.t, s.nodes)
		for range 1 + s.rng.IntN(3) {
			s.harm()
		}
	}
	eventually(s.t, 2*time.Minute, "all connections are up", s.connected)
	agree(s.t, s.nodes)
}

// An entry of a former incarnation, which its holder would keep for good, is answered
// with the present one; so is a placeholder. What is merely late is not.
func TestOldEntriesAreAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		s := w.dialAs(t, a, "10.0.0.10", 0x02000000000a)
		defer s.Close()
		time.Sleep(3 * time.Second) // all is announced by then
		s.told(b.name)
		now := b.snapshot(t).Self
		for _, tt := range []struct {
			what string
			e    routing.Peer
			want bool
		}{
			{"former incarnation", routing.Peer{Name: b.name, UID: 99, Version: 7}, true},
			{"placeholder", routing.Peer{Name: b.name}, true},
			{"late entry", routing.Peer{Name: b.name, UID: now.UID, Version: now.Version - 1}, false},
			{"same entry", routing.Peer{Name: b.name, UID: now.UID, Version: now.Version}, false},
		} {
			s.claim(t, tt.e)
			time.Sleep(time.Second)
			synctest.Wait()
			got := s.told(b.name)
			if (len(got) > 0) != tt.want {
				t.Errorf("%s: answered with %d entries, want an answer: %v", tt.what, len(got), tt.want)
			}
			for _, e := range got {
				if e.UID != now.UID || e.Version != now.Version {
					t.Errorf("%s: answered with %+v, want UID %d, version %d", tt.what, e, now.UID, now.Version)
				}
			}
		}
	})
}

// A neighbour that sends old entries without end gets a bounded number of answers.
func TestAnswersAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := &session{answer: rate.NewLimiter(answersPerSec, answersBurst)}
		names := make([]frame.PeerName, 100)
		total := 0
		for range 1000 {
			total += len(s.answerable(names))
		}
		if total != answersBurst {
			t.Errorf("%d answers at once, want %d", total, answersBurst)
		}
		time.Sleep(time.Second)
		if got := len(s.answerable(names)); got != answersPerSec {
			t.Errorf("%d answers a second later, want %d", got, answersPerSec)
		}
	})
}

// A peer that is known only as the end of a connection is asked for, once, from who
// leads to it.
func TestMissingEntriesAreAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		s := w.dialAs(t, a, "10.0.0.10", 0x02000000000a)
		defer s.Close()
		const missing = 0x02000000000b
		s.claim(t, routing.Peer{Name: s.name, UID: 99, Version: 5, Connections: []routing.Connection{{Peer: missing}}})
		var asked []routing.Peer
		eventually(t, 3*time.Second, "the missing peer is asked for", func() bool {
			asked = append(asked, s.told(missing)...)
			return len(asked) > 0
		})
		s.claim(t, routing.Peer{Name: s.name, UID: 99, Version: 6, Connections: []routing.Connection{{Peer: missing}}})
		time.Sleep(10 * time.Second)
		asked = append(asked, s.told(missing)...)
		if len(asked) != 1 || asked[0].UID != 0 || asked[0].Version != 0 {
			t.Errorf("asked with %+v, want one placeholder", asked)
		}
		s.claim(t, routing.Peer{Name: missing, UID: 98, Version: 5})
		eventually(t, time.Second, "the others know it too", func() bool {
			return slices.ContainsFunc(b.snapshot(t).Peers, func(p PeerSnapshot) bool { return p.Name == missing && p.UID == 98 })
		})
	})
}

// Two hosts with one name, not neighbours of each other: their neighbours keep each its own,
// tell of the other one, and neither is outbid. Stock routers in between take whichever is
// newer, so that the two outbid each other without end, but not without pause.
func TestNameCollisionAcrossTheMesh(t *testing.T) {
	for _, stock := range []bool{false, true} {
		t.Run(fmt.Sprintf("stock %v", stock), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				alone := func(c *Config) { c.Settings.Discovery = false }
				between := func(c *Config) { alone(c); c.Stock = stock }
				a := w.start(1, alone)
				b := w.start(2, to("10.0.0.1"), between)
				c := w.start(3, to("10.0.0.2"), between)
				d := w.start(4, to("10.0.0.3"), alone, func(c *Config) { c.Self.Name = a.name })
				for _, n := range []*node{a, b, c, d} {
					defer n.stop()
				}
				time.Sleep(10 * time.Second)
				before := a.snapshot(t).Self.Version
				const seconds = 80
				time.Sleep(seconds * time.Second)
				rise := a.snapshot(t).Self.Version - before
				if stock {
					if rise == 0 || rise > 10*seconds {
						t.Errorf("version rose by %d in %d s, want at most 10 a second", rise, seconds)
					}
					return
				}
				if rise != 0 {
					t.Errorf("version rose by %d", rise)
				}
				for _, x := range []struct{ n, near, far *node }{{b, a, d}, {c, d, a}} {
					s := x.n.snapshot(t)
					i := slices.IndexFunc(s.Connections, func(c ConnectionSnapshot) bool { return c.Name == a.name })
					j := slices.IndexFunc(s.Peers, func(p PeerSnapshot) bool { return p.Name == a.name })
					near, far := x.near.snapshot(t).Self.UID, x.far.snapshot(t).Self.UID
					if got := s.Connections[i].Rival; s.Connections[i].UID != near || s.Peers[j].UID != near || got == nil || got.UID != far || s.NameClaims == 0 {
						t.Errorf("%s: neighbour %#x, entry %#x, %d claims, rival %+v; want %#x and rival %#x",
							x.n.host, s.Connections[i].UID, s.Peers[j].UID, s.NameClaims, got, near, far)
					}
				}
			})
		})
	}
}

// A neighbour that restarts behind a path that seems to work is known by its new entry soon
// after the path has died, though that was held off until then.
func TestHeldOffEntryIsAskedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		alone := func(c *Config) { c.Settings.Discovery = false }
		a, b := w.start(1, alone), w.start(2, to("10.0.0.1"), alone)
		c := w.start(3, to("10.0.0.1", "10.0.0.2"), alone)
		for _, n := range []*node{a, b, c} {
			defer n.stop()
		}
		fullMesh(t, 5*time.Second, a, b, c)
		b.kill()
		again := w.start(2, to("10.0.0.1"), alone, func(c *Config) { c.Self.UID = 1 << 62 })
		defer again.stop()
		eventually(t, 2*agreeWithin, "c knows the new one", func() bool {
			return slices.ContainsFunc(c.snapshot(t).Peers, func(p PeerSnapshot) bool { return p.Name == b.name && p.UID == 1<<62 })
		})
		time.Sleep(rivalAfter)
		for _, n := range []*node{a, c} {
			for _, x := range n.snapshot(t).Connections {
				if x.Rival != nil {
					t.Errorf("%s takes a neighbour's former life for another host: %+v", n.host, x.Rival)
				}
			}
		}
	})
}
