package control

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

// namedAir is an air under another name that works only where both ends got a
// control message of the same transport: indices that do not agree leave it down.
type namedAir struct {
	airTransport
	name string
}

func (t *namedAir) Name() string { return t.name }

func (t *namedAir) Open(s transport.Session) (transport.Path, error) {
	return &namedPath{airPath: airPath{air: t.air, session: s, deliver: t.deliver}, name: t.name, met: make(chan struct{})}, nil
}

type namedPath struct {
	airPath
	name string
	once sync.Once
	met  chan struct{} // closed when the neighbour's path of the same transport has spoken
}

func (p *namedPath) HandleControl(_ byte, msg []byte) {
	if string(msg) == p.name {
		p.once.Do(func() { close(p.met) })
	}
}

func (p *namedPath) Run(ctx context.Context, report func(transport.State)) error {
	if err := p.session.SendControl(1, []byte(p.name)); err != nil {
		return err
	}
	select {
	case <-p.met:
	case <-ctx.Done():
		return nil
	}
	return p.airPath.Run(ctx, report)
}

// preferring has a node use two transports, fast and sleeve, with preferences.
func preferring(w *world, prefs transport.Preferences) func(*Config) {
	return func(c *Config) {
		fast := &namedAir{airTransport{air: w.fast, deliver: func([]frame.Packet) {}}, "fast"}
		slow := &namedAir{airTransport{air: w.air, deliver: func([]frame.Packet) {}}, SleeveOverlay}
		c.Set = transport.NewSet(w.changed(c), fast, slow)
		c.Set.Prefer(prefs)
	}
}

// carriedBy is the transport of n's link to its only neighbour, and its path over
// a transport.
func carriedBy(t *testing.T, n *node, name string) (active string, path transport.PathStats) {
	t.Helper()
	for _, c := range n.snapshot(t).Connections {
		for _, p := range c.Paths {
			if p.Transport == name {
				path = p
			}
		}
		active = c.Transport
	}
	return active, path
}

// Hosts with different preferences agree on what a control message is for, and each
// sends over what it prefers.
func TestPreferencesDiffer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1, preferring(w, transport.Preferences{Default: []string{"fast", "sleeve"}}))
		b := w.start(2, to("10.0.0.1"), preferring(w, transport.Preferences{Default: []string{"sleeve", "fast"}}))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		eventually(t, time.Second, "each uses what it prefers, at once", func() bool {
			x, _ := carriedBy(t, a, "fast")
			y, _ := carriedBy(t, b, "fast")
			return x == "fast" && y == "sleeve"
		})
	})
}

// Preferences that leave a transport out hold for a mesh that runs: the session is
// made again, the neighbour is told, and frames have a route all the time.
func TestPreferencesChangeWhileTheMeshRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1, preferring(w, transport.Preferences{}))
		b := w.start(2, to("10.0.0.1"), preferring(w, transport.Preferences{}))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		time.Sleep(time.Minute)
		for _, prefs := range []transport.Preferences{
			{Overrides: []transport.Override{{Peer: b.name, Transports: []string{"sleeve"}}}},
			{},
		} {
			a.mesh.cfg.Set.Prefer(prefs)
			if err := a.mesh.Apply(Settings{Discovery: true, ConnLimit: 200, MinProtocol: 1}); err != nil {
				t.Fatal(err)
			}
			for range 40 * 100 {
				time.Sleep(10 * time.Millisecond)
				if !slices.Equal(a.reached(), names(b)) || !slices.Equal(b.reached(), names(a)) {
					t.Fatal("no route while the preferences change")
				}
			}
			want := "fast"
			if len(prefs.Overrides) > 0 {
				want = "sleeve"
			}
			x, ours := carriedBy(t, a, "fast")
			y, theirs := carriedBy(t, b, "fast")
			if left := want == "sleeve"; x != want || y != want || ours.Unused != left || theirs.Unused != left {
				t.Errorf("frames go over %s and %s, want %s; ours %+v, theirs %+v", x, y, want, ours, theirs)
			}
		}
		if err := a.mesh.cfg.Set.Use(b.name, "quic"); !errors.Is(err, transport.ErrNotUsed) {
			t.Errorf("Use of what there is not: %v", err)
		}
	})
}
