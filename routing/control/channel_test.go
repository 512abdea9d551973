package control

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
)

// heard collects what came on a channel.
type heard struct {
	mu   sync.Mutex
	msgs []string
}

func (h *heard) on(channel string) func(*Config) {
	return func(c *Config) {
		c.Channels = map[string]func(frame.PeerName, []byte){channel: func(src frame.PeerName, payload []byte) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.msgs = append(h.msgs, fmt.Sprintf("%v %s", src, payload))
		}}
	}
}

func (h *heard) have(want ...string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Equal(h.msgs, want)
}

// A message passes peers that do not know the channel and those that do, and is
// heard at its destination only.
func TestUnicastOverRelays(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var first, second, third heard
		chain := func(c *Config) { c.Settings.Discovery = false }
		a := w.start(1, chain, first.on("ours"))
		b := w.start(2, chain, to(a.host), second.on("ours"))
		c := w.start(3, chain, to(b.host), third.on("ours"))
		eventually(t, 5*time.Second, "a reaches c", func() bool {
			return slices.Equal(a.reached(), names(b, c)) && slices.Equal(c.reached(), names(a, b))
		})
		for _, m := range []struct {
			from    *node
			channel string
			to      *node
		}{{a, "ours", c}, {c, "ours", a}, {a, "theirs", c}} {
			if err := m.from.mesh.Unicast(m.channel, m.to.name, []byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, 5*time.Second, "both have heard one message", func() bool {
			return third.have(a.name.String()+" hello") && first.have(c.name.String()+" hello") && second.have()
		})
		for _, dst := range []frame.PeerName{a.name, 0x020000000099} {
			if err := a.mesh.Unicast("ours", dst, nil); !errors.Is(err, ErrNoRoute) {
				t.Errorf("Unicast to %v = %v, want ErrNoRoute", dst, err)
			}
		}
		a.stop()
		if err := a.mesh.Unicast("ours", c.name, nil); !errors.Is(err, ErrStopped) {
			t.Errorf("Unicast on a mesh that ended = %v, want ErrStopped", err)
		}
	})
}

// A handler may answer at once.
func TestChannelHandlerMayAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var first heard
		var b *node
		a := w.start(1, first.on("ours"))
		b = w.start(2, to(a.host), func(c *Config) {
			c.Channels = map[string]func(frame.PeerName, []byte){"ours": func(src frame.PeerName, payload []byte) {
				if err := b.mesh.Unicast("ours", src, slices.Concat(payload, []byte("!"))); err != nil {
					t.Error(err)
				}
			}}
		})
		fullMesh(t, 5*time.Second, a, b)
		if err := a.mesh.Unicast("ours", b.name, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "the answer is there", func() bool { return first.have(b.name.String() + " hello!") })
	})
}
