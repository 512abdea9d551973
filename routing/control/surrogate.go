package control

import (
	"crypto/sha256"
	"time"
)

// Bounds of what is kept for channels that are not ours.
const (
	maxSurrogates   = 64
	surrogateIdle   = 10 * time.Minute
	maxPayloads     = 4096             // remembered per channel
	payloadLifetime = 30 * time.Second // how long an identical gossip is held back
)

// surrogates stand in for channels that this router does not know, weave
// protocol section 3.2: their gossip is passed on, an identical payload only
// once in 30 s. Owned by the mesh's goroutine.
type surrogates struct {
	channels map[string]*surrogate
}

type surrogate struct {
	used time.Time
	seen map[[sha256.Size]byte]time.Time
}

func newSurrogates() *surrogates { return &surrogates{channels: map[string]*surrogate{}} }

// use makes sure that there is a stand-in for the channel. It reports false when
// there are too many in use: then the message is dropped.
func (t *surrogates) use(channel string, now time.Time) bool {
	if c := t.channels[channel]; c != nil {
		c.used = now
		return true
	}
	if len(t.channels) >= maxSurrogates && !t.dropIdle(now) {
		return false
	}
	t.channels[channel] = &surrogate{used: now, seen: map[[sha256.Size]byte]time.Time{}}
	return true
}

func (t *surrogates) dropIdle(now time.Time) (dropped bool) {
	for name, c := range t.channels {
		if now.Sub(c.used) > surrogateIdle {
			delete(t.channels, name)
			dropped = true
		}
	}
	return dropped
}

// fresh reports whether the payload was not seen on the channel lately, and
// remembers it. A channel with too many to remember lets no more pass until some
// have aged.
func (t *surrogates) fresh(channel string, payload []byte, now time.Time) bool {
	seen := t.channels[channel].seen
	sum := sha256.Sum256(payload)
	if at, ok := seen[sum]; ok && now.Sub(at) < payloadLifetime {
		return false
	}
	if len(seen) >= maxPayloads {
		for k, at := range seen {
			if now.Sub(at) >= payloadLifetime {
				delete(seen, k)
			}
		}
		if len(seen) >= maxPayloads {
			return false
		}
	}
	seen[sum] = now
	return true
}
