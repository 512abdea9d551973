package control

import (
	"crypto/sha256"
	"time"
)

// Bounds of what is kept for channels that are not ours.
const (
	maxSurrogates   = 64
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

// channel finds or makes the stand-in for a channel. Of too many the one that was
// used least recently goes.
func (su *surrogates) channel(name string, now time.Time) *surrogate {
	c := su.channels[name]
	if c == nil {
		if len(su.channels) >= maxSurrogates {
			su.dropOldest()
		}
		c = &surrogate{seen: map[[sha256.Size]byte]time.Time{}}
		su.channels[name] = c
	}
	c.used = now
	return c
}

func (su *surrogates) dropOldest() {
	oldest := ""
	for name, c := range su.channels {
		if oldest == "" || c.used.Before(su.channels[oldest].used) {
			oldest = name
		}
	}
	delete(su.channels, oldest)
}

// fresh reports whether the payload was not seen on the channel lately, and
// remembers it. A channel with too many to remember lets no more pass until some
// have aged.
func (su *surrogates) fresh(channel string, payload []byte, now time.Time) bool {
	seen := su.channel(channel, now).seen
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
