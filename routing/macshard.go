package routing

import (
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/frame"
)

// macShard is a part of the table.
type macShard struct {
	mu      sync.RWMutex // guards what follows; no other lock is taken under it
	entries map[frame.MAC]*macEntry
	held    map[frame.PeerName]int // entries by peer, no zeros
	_       [24]byte               // keeps the locks of two shards out of one cache line
}

// macEntry has its times as durations since the table's base, so that they are
// atomic and monotonic. peer, moves and movedAt are guarded by the shard's lock.
type macEntry struct {
	peer      frame.PeerName
	moves     int          // within flapWindow of each other
	movedAt   int64        // when the last of them was
	seen      atomic.Int64 // last frame of the address from peer, see refreshEvery
	announced atomic.Int64 // last announcement from peer
}

// longAgo is before any time that a table meets.
const longAgo = -1 << 62

// evictLocked removes an arbitrary entry of peer. Walks over maps begin anywhere,
// so with many entries it is found soon.
func (s *macShard) evictLocked(peer frame.PeerName) bool {
	for mac, e := range s.entries {
		if e.peer == peer {
			delete(s.entries, mac)
			s.releaseLocked(peer)
			return true
		}
	}
	return false
}

// releaseLocked counts one entry less for peer.
func (s *macShard) releaseLocked(peer frame.PeerName) {
	if s.held[peer]--; s.held[peer] <= 0 {
		delete(s.held, peer)
	}
}

func (s *macShard) remove(drop func(*macEntry) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for mac, e := range s.entries {
		if drop(e) {
			delete(s.entries, mac)
			s.releaseLocked(e.peer)
			n++
		}
	}
	return n
}

func (s *macShard) appendTo(all []MACEntry, base time.Time) []MACEntry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for mac, e := range s.entries {
		all = append(all, MACEntry{
			MAC:      mac,
			Peer:     e.peer,
			LastSeen: base.Add(time.Duration(e.seen.Load())),
			Flapping: e.moves > flapMoves,
		})
	}
	return all
}

func (e *macEntry) refresh(announce bool, at int64) {
	if at-e.seen.Load() >= int64(refreshEvery) {
		e.seen.Store(at)
	}
	if announce {
		e.announced.Store(at)
	}
}

// movesAt returns how often the entry has moved lately.
func (e *macEntry) movesAt(at int64) int {
	if at-e.movedAt >= int64(flapWindow) {
		return 0
	}
	return e.moves
}

// damping is how long an entry stays after so many moves.
func damping(moves int) time.Duration {
	if n := moves - flapMoves; n < 4 {
		return time.Second << n
	}
	return maxDamping
}
