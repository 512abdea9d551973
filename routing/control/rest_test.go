package control

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Paths rest only where both ends have said that they can: hosts of earlier versions
// judge by silence.
func TestPathsRestWhereBothEndsCan(t *testing.T) {
	for _, tt := range []struct {
		name      string
		abilities []string
		want      bool
	}{
		{"an earlier version", []string{AbilityProbe, AbilityLeave, AbilityRefusal}, false},
		{"this version", []string{AbilityProbe, AbilityLeave, AbilityRefusal, AbilityRest}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.start(1)
				defer a.stop()
				stream, err := w.net.carrier(t, "10.0.0.9:6783").Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:6783"))
				if err != nil {
					t.Fatal(err)
				}
				defer stream.Close()
				f := Features{
					Name: 0x020000000009, UID: 9, ConnID: 1, Native: true, Abilities: tt.abilities, Ephemeral: &[32]byte{9},
					Overlays: []string{SleeveOverlay}, HasOverlays: true,
				}
				conn, err := Handshake(t.Context(), stream, HandshakeConfig{Dialled: true, Features: f.FeatureMap})
				if err != nil {
					t.Fatal(err)
				}
				said := strings.Fields(conn.RemoteFeatures[featureMeshd])
				if !slices.Contains(said, AbilityRest) {
					t.Errorf("we announce %q, want %q among them", said, AbilityRest)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				w.air.mu.Lock()
				defer w.air.mu.Unlock()
				if len(w.air.paths) != 1 {
					t.Fatalf("%d paths, want 1", len(w.air.paths))
				}
				for _, p := range w.air.paths {
					if p.session.Rests != tt.want || p.session.Pace == nil {
						t.Errorf("the session's paths rest: %v, want %v; pace %v", p.session.Rests, tt.want, p.session.Pace)
					}
				}
			})
		})
	}
}
