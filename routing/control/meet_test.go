package control

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
)

// A broadcast passes peers that do not know the channel and those that do, and is
// heard once by all that know it.
func TestBroadcastOverRelays(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var first, third heard
		chain := func(c *Config) { c.Settings.Discovery = false }
		a := w.start(1, chain, first.on("ours"))
		b := w.start(2, chain, to(a.host))
		c := w.start(3, chain, to(b.host), third.on("ours"))
		eventually(t, 5*time.Second, "a reaches c", func() bool {
			return slices.Equal(a.reached(), names(b, c)) && slices.Equal(c.reached(), names(a, b))
		})
		if err := a.mesh.Broadcast("ours", []byte("hello")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if !third.have(a.name.String()+" hello") || !first.have() {
			t.Errorf("third heard %q, first %q", third.msgs, first.msgs)
		}
	})
}

// watched keeps what a mesh tells of its peers.
type watched struct {
	mu    sync.Mutex
	views []PeerView
}

func (x *watched) take(v []PeerView) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.views = v
}

func (x *watched) of(name frame.PeerName) (v PeerView) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range x.views {
		if p.Name == name {
			v = p
		}
	}
	return v
}

// Two peers that only a third one connects meet over QUIC where somebody found one of
// them; until then neither dials the other over QUIC, since others look for the way.
func TestMeet(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var seen watched
		punched := func(c *Config) { c.Punched = func(frame.PeerName) bool { return true } }
		w.net.setCut("10.0.0.2", "10.0.0.3", true)
		a := w.start(1, w.withQUIC(), punched)
		b := w.start(2, w.withQUIC(), to(a.host), punched, func(c *Config) { c.Watch = seen.take })
		c := w.start(3, w.withQUIC(), to(a.host), punched)
		eventually(t, 5*time.Second, "b reaches c", func() bool { return slices.Equal(b.reached(), names(a, c)) })
		time.Sleep(10 * time.Second)
		if v := seen.of(c.name); v.Session || v.Direct || v.UID == 0 {
			t.Fatalf("b sees c as %+v: want no session", v)
		}
		if v := seen.of(a.name); !v.Session || !v.Direct || !v.Dialled || !v.Native {
			t.Errorf("b sees a as %+v", v)
		}
		at := netip.AddrPortFrom(netip.MustParseAddr(c.host), DefaultQUICPort)
		if err := b.mesh.Meet(t.Context(), c.name, at); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, "b sees c", func() bool { v := seen.of(c.name); return v.Session && v.Direct && v.Addr == at })
		if err := b.mesh.Meet(t.Context(), c.name, netip.AddrPortFrom(netip.MustParseAddr(a.host), DefaultQUICPort)); err == nil {
			t.Error("c was met where a is")
		}
	})
}
