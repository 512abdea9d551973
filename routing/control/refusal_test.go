package control

import (
	"strings"
	"testing"
)

// TestRefusalIsTold: it is the acceptor who does not let the dialler in, and both
// operators read why.
func TestRefusalIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		h1, h2, known := newHost(t), newHost(t), newHost(t)
		h1.policy.Taken(0x020000000002, "host2", ptr(known.id.Public()))
		a, b := w.start(1, h1.config), w.start(2, h2.config, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		refused(t, a, b, "the peer refuses us")
		wantRefusal(t, b, RefusedThere)
		if got := failure(t, b); !strings.Contains(got, "meshd trust forget 02:00:00:00:00:02") {
			t.Errorf("%q has no remedy", got)
		}
	})
}

func TestParseRefusal(t *testing.T) {
	for _, tt := range []struct{ name, body, want string }{
		{"plain", "no room", "the peer refuses us: no room"},
		{"empty", "", "the peer refuses us: "},
		{"for terminals", "a\x1b[2Jb\nc\xff", "the peer refuses us: a[2Jbc"},
		{"largest", strings.Repeat("x", maxRefusal), "the peer refuses us: " + strings.Repeat("x", maxRefusal)},
		{"too long", strings.Repeat("x", maxRefusal+1), "refusal of 513 bytes, at most 512 are taken"},
	} {
		if got := parseRefusal([]byte(tt.body)).Error(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
