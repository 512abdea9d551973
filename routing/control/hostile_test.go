package control

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// stranger is a hostile peer: it shakes hands as a stock router does, and then
// sends what a test wants.
type stranger struct {
	*Conn
	name frame.PeerName

	mu    sync.Mutex
	heard []routing.Peer // topology entries that came, in order
}

// dialAs connects to n from a host of its own and shakes hands under a name.
func (w *world) dialAs(t *testing.T, n *node, host string, name frame.PeerName) *stranger {
	t.Helper()
	stream, err := w.net.carrier(t, host+":6783").Dial(t.Context(), netip.MustParseAddrPort(n.host+":6783"))
	if err != nil {
		t.Fatal(err)
	}
	w.uids++
	f := Features{Name: name, NickName: "stranger", UID: w.uids, ConnID: w.uids << 20, Overlays: []string{SleeveOverlay}, HasOverlays: true}
	conn, err := Handshake(t.Context(), stream, HandshakeConfig{Dialled: true, Features: f.FeatureMap})
	if err != nil {
		t.Fatal(err)
	}
	s := &stranger{Conn: conn, name: name}
	go s.listen()
	return s
}

// listen takes what comes, so that nothing backs up, until the connection ends.
func (s *stranger) listen() {
	for {
		tag, body, err := s.ReadMessage()
		if err != nil {
			return
		}
		g, err := ParseGossip(tag, body)
		if tag != TagGossip || err != nil {
			continue
		}
		if entries, err := DecodeTopology(g.Payload); err == nil {
			s.mu.Lock()
			s.heard = append(s.heard, entries...)
			s.mu.Unlock()
		}
	}
}

// told returns the entries of a peer that came since the last call, and forgets all.
func (s *stranger) told(name frame.PeerName) (of []routing.Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.heard {
		if e.Name == name {
			of = append(of, e)
		}
	}
	s.heard = nil
	return of
}

// claim gossips topology entries.
func (s *stranger) claim(t *testing.T, entries ...routing.Peer) {
	t.Helper()
	s.gossip(t, TagGossip, Gossip{Channel: channelTopology, Src: s.name, Payload: EncodeTopology(entries)})
}

func (s *stranger) gossip(t *testing.T, tag byte, g Gossip) {
	t.Helper()
	if err := s.WriteMessage(tag, AppendGossip(tag, g)); err != nil {
		t.Fatal(err)
	}
}

// connected reports whether n has a session with the stranger.
func (s *stranger) connected(t *testing.T, n *node) bool {
	for _, c := range n.snapshot(t).Connections {
		if c.Name == s.name {
			return true
		}
	}
	return false
}

// Each of these messages ends the sender's session, or is ignored, and disturbs
// nobody else's.
func TestHostileMessages(t *testing.T) {
	topology := func(payload []byte) []byte {
		return AppendGossip(TagGossip, Gossip{Channel: channelTopology, Src: 0x02000000000a, Payload: payload})
	}
	for _, tt := range []struct {
		name string
		tag  byte
		body []byte
		ends bool
	}{
		{"unknown tag", 200, []byte("whatever"), false},
		{"leave by a stock peer", TagLeave, nil, false},
		{"bare control on a tagged connection", 1, nil, false},
		{"overlay control without a body", TagOverlay, nil, true},
		{"overlay control of one byte", TagOverlay, []byte{0}, true},
		{"overlay control for an overlay beyond", TagOverlay, []byte{9, 1}, true},
		{"gossip that is no gob", TagGossip, []byte("not gob"), true},
		{"gossip without a body", TagGossip, nil, true},
		{"broadcast that is no gob", TagGossipBroadcast, bytes.Repeat([]byte{0xff}, 100), false},
		{"topology that is no gob", TagGossip, topology([]byte{0xfe, 0xff, 0xff, 0xff}), true},
		{"topology gob cut short", TagGossip, topology(EncodeTopology([]routing.Peer{{Name: 9, UID: 1}})[:30]), true},
		{"gob bomb", TagGossip, topology([]byte{0xf8, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}), true},
		{"topology as unicast", TagGossipUnicast, AppendGossip(TagGossipUnicast,
			Gossip{Channel: channelTopology, Src: 0x02000000000a, Dst: 0x020000000001, Payload: []byte("x")}), true},
		{"10 MiB on a channel", TagGossip, AppendGossip(TagGossip,
			Gossip{Channel: "big", Src: 0x02000000000a, Payload: make([]byte, 10<<20-100)}), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start(1), w.start(2, to("10.0.0.1"))
				defer a.stop()
				defer b.stop()
				fullMesh(t, 5*time.Second, a, b)
				s := w.dialAs(t, a, "10.0.0.10", 0x02000000000a)
				defer s.Close()
				eventually(t, time.Second, "the stranger is in", func() bool { return s.connected(t, a) })
				if err := s.WriteMessage(tt.tag, tt.body); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				if got := !s.connected(t, a); got != tt.ends {
					t.Errorf("session ended: %v, want %v", got, tt.ends)
				}
				if got := a.established(t); len(got) != 1 || got[0] != b.name {
					t.Errorf("the other peer's connection suffered: %v", got)
				}
			})
		})
	}
}

// Peers invented without limit fill a bounded table, and are gone when nobody
// reaches them any more.
func TestTopologyFlood(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		s := w.dialAs(t, a, "10.0.0.10", 0x02000000000a)
		for round := range 40 {
			me := routing.Peer{Name: s.name, UID: 99, Version: uint64(round + 2)}
			entries := []routing.Peer{}
			for i := range 500 {
				name := frame.PeerName(0x100000 + round*500 + i)
				me.Connections = append(me.Connections, routing.Connection{Peer: name, RemoteAddr: "10.9.0.1:1"})
				entries = append(entries, routing.Peer{Name: name, NickName: strings.Repeat("x", 255), UID: 1, Version: 1})
			}
			s.gossip(t, TagGossip, Gossip{Channel: channelTopology, Src: s.name, Payload: EncodeTopology(append(entries, me))})
			synctest.Wait()
			if got := len(a.snapshot(t).Peers); got > routing.MaxPeers+3 {
				t.Fatalf("%d peers are known", got)
			}
		}
		if got := a.established(t); len(got) != 1 || got[0] != b.name {
			t.Errorf("the other peer's connection suffered: %v", got)
		}
		s.Close()
		eventually(t, 5*time.Second, "the invented peers are forgotten", func() bool {
			return len(a.snapshot(t).Peers) == 2 && len(b.snapshot(t).Peers) == 2
		})
	})
}

// Channels that nobody knows take a bounded place each, and only so many.
func TestChannelFlood(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1)
		defer a.stop()
		s := w.dialAs(t, a, "10.0.0.10", 0x02000000000a)
		defer s.Close()
		for i := range 1000 {
			s.gossip(t, TagGossip, Gossip{Channel: fmt.Sprint("channel-", i), Src: s.name, Payload: []byte{1}})
			s.gossip(t, TagGossip, Gossip{Channel: "one", Src: s.name, Payload: fmt.Appendf(nil, "%d", i)})
		}
		synctest.Wait()
		a.mesh.do(func() {
			if got := len(a.mesh.surrogates.channels); got > maxSurrogates {
				t.Errorf("%d channels are kept, want at most %d", got, maxSurrogates)
			}
		})
	})
}

// A thousand connections that never say a word keep no honest peer out. The bubble
// itself checks that no goroutine is left behind.
func TestIdleConnections(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1)
		for h := range 20 {
			c := w.net.carrier(t, fmt.Sprintf("10.0.9.%d:6783", h))
			for range 50 {
				go c.Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:6783"))
			}
		}
		b := w.start(2, to("10.0.0.1"))
		fullMesh(t, 2*time.Minute, a, b)
		time.Sleep(time.Minute)
		synctest.Wait()
		a.mesh.gate.mu.Lock()
		if a.mesh.gate.total != 0 {
			t.Errorf("%d handshakes are still open", a.mesh.gate.total)
		}
		a.mesh.gate.mu.Unlock()
		a.stop()
		b.stop()
	})
}

func TestGateBoundsOneSource(t *testing.T) {
	g := newGate()
	now := time.Unix(1000, 0)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for range maxPerSource {
		if !g.enter(a, now) {
			t.Fatal("refused below the bound")
		}
	}
	if g.enter(a, now) {
		t.Error("one address has more than its share")
	}
	if !g.enter(b, now) {
		t.Error("one address keeps another out")
	}
	g.leave(a)
	if !g.enter(a, now) {
		t.Error("a place that was given back is not free")
	}
	for range 1000 {
		g.leave(b)
		g.enter(b, now)
	}
	if g.sources[b].open > 1 || g.enter(b, now) {
		t.Error("one address shakes hands without end")
	}
	if x, y := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"); network(x) != network(y) {
		t.Error("two addresses of one IPv6 host count as two")
	}
}

func TestGateForgetsSources(t *testing.T) {
	g := newGate()
	now := time.Unix(1000, 0)
	for i := range 3 * maxSources {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if g.enter(a, now) {
			g.leave(a)
		}
		now = now.Add(time.Millisecond)
	}
	if len(g.sources) > maxSources {
		t.Errorf("%d addresses are known, want at most %d", len(g.sources), maxSources)
	}
}

// What a neighbour only relays is not its fault.
func TestRelayedNonsenseEndsNoSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		s := w.dialAs(t, a, "10.0.0.10", 0x02000000000a)
		defer s.Close()
		for _, dst := range []frame.PeerName{a.name, b.name} {
			s.gossip(t, TagGossipUnicast, Gossip{Channel: channelTopology, Src: 0x02000000000e, Dst: dst, Payload: []byte("x")})
		}
		s.gossip(t, TagGossipBroadcast, Gossip{Channel: channelTopology, Src: 0x02000000000e, Payload: []byte("x")})
		time.Sleep(time.Second)
		synctest.Wait()
		if !s.connected(t, a) || a.snapshot(t).Terminations+b.snapshot(t).Terminations != 0 {
			t.Error("a session ended for what its peer only passed on")
		}
	})
}

// A stranger who takes the name of a peer that is connected does not get its place.
func TestNameOfAConnectedPeerIsNotTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		s := w.dialAs(t, a, "10.0.0.10", b.name)
		defer s.Close()
		time.Sleep(time.Second)
		synctest.Wait()
		fullMesh(t, 0, a, b)
		if got := a.snapshot(t).Terminations; got != 0 {
			t.Errorf("%d connections ended", got)
		}
	})
}

// A channel that nobody used for long makes room for one in use.
func TestJunkChannelsDoNotKeepOthersOut(t *testing.T) {
	su := newSurrogates()
	now := time.Unix(1000, 0)
	for i := range 10 * maxSurrogates {
		su.fresh(fmt.Sprint("junk-", i), []byte{1}, now.Add(time.Duration(i)*time.Millisecond))
	}
	later := now.Add(time.Minute)
	if !su.fresh("nameserver", []byte{1}, later) || su.fresh("nameserver", []byte{1}, later) {
		t.Error("want the first payload fresh and its repetition not")
	}
}
