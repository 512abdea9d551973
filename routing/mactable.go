package routing

import (
	"bytes"
	"iter"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"meshd/internal/frame"
)

// MACConfig sets up a MAC table. Of zero fields the defaults hold.
type MACConfig struct {
	Self   frame.PeerName
	Max    int           // entries in all, about; default 65536
	MaxAge time.Duration // an entry not refreshed for so long expires; default 10 min
	Hold   time.Duration // see MACTable; default 1 s
}

// MACTable knows behind which peer each MAC address is. All methods may be
// called concurrently; a frame of a known address takes one read lock of one of
// 64 shards and allocates nothing.
//
// # Moves
//
// An address that shows up at another peer than the table says has moved, or two
// peers have it, or a frame is being reflected: the bridge at one end hands the
// frame back that was put on it, or two bridges of the mesh are joined by other
// means as well. Reflections must not move the entry, or the frames of a healthy
// host go astray and circulate. Weave's routers always believe the overlay and
// never the bridge, which mutes a host that moved to them for up to 11 minutes
// (weave protocol, section 6.10). Here both count alike, by three rules:
//
//  1. Hold. Where one of the two peers is ourselves, the entry stays while its
//     peer was seen to have the address within the last second (Hold), and the
//     frame is a Conflict, to be dropped. A reflection follows its original
//     within milliseconds; a host that moved has been silent at its old place at
//     least for a moment. Conflicts refresh nothing, so a hold ends a second
//     after the last genuine frame.
//  2. Announcements. A gratuitous ARP or an unsolicited neighbour advertisement
//     by the address itself ends a hold at once, unless one came from the entry's
//     own peer within the last second: then it may be that one's reflection.
//  3. Damping. Of moves that follow each other within a minute, the fourth has to
//     wait for 1 s after the third, the next ones for 2, 4, 8, then 16 s. That
//     keeps two hosts with one address from costing more than a write now and
//     then, and is reported once.
//
// Between two other peers the newest wins, as in weave, but for damping; there a
// frame is passed on whatever the table thinks (Unlearned).
//
// # A container moves from host A to host B and back
//
// Both meshd: B's table has the address at A, last seen with A's last frame, and
// A's has it at home, last seen at the same time. B's first frame a second later,
// or its first announcement, moves B's entry home; it then goes out, and at A the
// same rule with the same times moves the entry to B. The way back is the same
// with A and B exchanged. Others follow the newest. Nobody is mute for more than
// a second, and for no time where the container announces itself.
//
// A stock, B meshd: to B it moves as above, and A believes the overlay. Back at
// A, the stock router drops the container's frames until its entry expires: its
// rule, and no frame that B could send changes it, since every frame would name
// B as the place.
//
// A meshd, B stock: B drops the container's frames by the same rule of its own.
// When the container returns to A, or never spoke through A before, all is well:
// A takes it home after a second, and B believes the overlay.
//
// # Bounds
//
// No peer holds more than half of the table; beyond that its new addresses
// replace others of its own. In a full table a new address replaces one of the
// peer that holds the most, if that is more than the newcomer's peer holds, and
// never one of ours. So a peer that invents addresses displaces only its own.
type MACTable struct {
	self        frame.PeerName
	maxAge      time.Duration
	hold        time.Duration
	perShard    int
	perPeer     int // entries of one peer in one shard
	base        time.Time
	multiplier  uint64 // odd and secret, spreads addresses over shards
	shards      [macShards]macShard
	moves       atomic.Uint64
	conflicts   atomic.Uint64
	unlearned   atomic.Uint64
	flapReports atomic.Uint64
}

const (
	macShardBits = 6
	macShards    = 1 << macShardBits

	defaultMACs   = 1 << 16
	defaultMACAge = 10 * time.Minute
	defaultHold   = time.Second

	// refreshEvery is how exactly an entry knows when it was seen. Weave writes
	// once a minute; Hold needs better, and an atomic store four times a second
	// costs nothing.
	refreshEvery = 250 * time.Millisecond

	flapMoves  = 3 // moves within flapWindow that are not damped
	flapWindow = time.Minute
	maxDamping = 16 * time.Second
)

// Verdict is what Learn makes of a frame's source address.
type Verdict uint8

// The verdicts. All but Conflict mean that the frame may pass.
const (
	Known     Verdict = iota // the table has it so already
	Learned                  // new to the table
	Moved                    // the entry now has the peer
	Flapping                 // moved as well, once too often: worth a warning
	Unlearned                // the entry stays elsewhere, or there is no room
	Conflict                 // the entry stays, and the frame is to be dropped
)

var verdictNames = [...]string{"known", "learned", "moved", "flapping", "unlearned", "conflict"}

// String returns the verdict in a word.
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return "unknown"
}

// NewMACTable returns an empty table.
func NewMACTable(cfg MACConfig) *MACTable {
	perShard := (positive(cfg.Max, defaultMACs) + macShards - 1) / macShards
	perShard = max(perShard, 2)
	t := &MACTable{
		self:       cfg.Self,
		maxAge:     positive(cfg.MaxAge, defaultMACAge),
		hold:       positive(cfg.Hold, defaultHold),
		perShard:   perShard,
		perPeer:    perShard / 2,
		base:       time.Now(),
		multiplier: rand.Uint64() | 1,
	}
	for i := range t.shards {
		t.shards[i].entries = map[frame.MAC]*macEntry{}
		t.shards[i].held = map[frame.PeerName]int{}
	}
	return t
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// Learn takes note that a frame from mac entered the mesh at peer: at ourselves
// when it came from our bridge. announce says that the frame is an announcement
// of the address (rule 2 above). mac is not a group address.
func (t *MACTable) Learn(mac frame.MAC, peer frame.PeerName, announce bool, now time.Time) Verdict {
	at := int64(now.Sub(t.base))
	s := t.shard(mac)
	s.mu.RLock()
	v := t.judge(s.entries[mac], peer, announce, at)
	s.mu.RUnlock()
	switch v {
	case Learned, Moved, Flapping:
		s.mu.Lock()
		v = t.writeLocked(s, mac, peer, announce, at)
		s.mu.Unlock()
	}
	t.count(v)
	return v
}

// Lookup returns the peer behind mac.
func (t *MACTable) Lookup(mac frame.MAC) (frame.PeerName, bool) {
	s := t.shard(mac)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.entries[mac]; e != nil {
		return e.peer, true
	}
	return 0, false
}

// Expire removes the entries that were not refreshed for MaxAge and returns how
// many there were. Call it once a minute.
func (t *MACTable) Expire(now time.Time) int {
	before := int64(now.Sub(t.base) - t.maxAge)
	return t.remove(func(e *macEntry) bool { return e.seen.Load() <= before })
}

// Forget removes the entries of peers that left the mesh and returns how many
// there were. It looks through the table once, however many left.
func (t *MACTable) Forget(peers ...frame.PeerName) int {
	gone := make(map[frame.PeerName]bool, len(peers))
	for _, p := range peers {
		gone[p] = true
	}
	return t.remove(func(e *macEntry) bool { return gone[e.peer] })
}

// MACEntry is one entry, for status.
type MACEntry struct {
	MAC      frame.MAC
	Peer     frame.PeerName
	LastSeen time.Time // exact to 250 ms
	Flapping bool      // has moved so often lately that moves are damped
}

// All walks over the entries in the order of their addresses. It collects them
// first, so the table may change meanwhile.
func (t *MACTable) All() iter.Seq[MACEntry] {
	return func(yield func(MACEntry) bool) {
		var all []MACEntry
		for i := range t.shards {
			all = t.shards[i].appendTo(all, t.base)
		}
		slices.SortFunc(all, func(a, b MACEntry) int { return bytes.Compare(a.MAC[:], b.MAC[:]) })
		for _, e := range all {
			if !yield(e) {
				return
			}
		}
	}
}

// MACStats counts what happened to a table since it was made.
type MACStats struct {
	Entries   int
	Moves     uint64 // addresses that moved to another peer
	Conflicts uint64 // frames dropped because their address is held elsewhere
	Unlearned uint64 // frames whose address was not learned: no room, or damped
	Flapping  uint64 // addresses that began to flap
}

// Stats reads the counters.
func (t *MACTable) Stats() MACStats {
	st := MACStats{
		Moves:     t.moves.Load(),
		Conflicts: t.conflicts.Load(),
		Unlearned: t.unlearned.Load(),
		Flapping:  t.flapReports.Load(),
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		st.Entries += len(s.entries)
		s.mu.RUnlock()
	}
	return st
}

func (t *MACTable) count(v Verdict) {
	switch v {
	case Moved:
		t.moves.Add(1)
	case Flapping:
		t.moves.Add(1)
		t.flapReports.Add(1)
	case Unlearned:
		t.unlearned.Add(1)
	case Conflict:
		t.conflicts.Add(1)
	}
}

func (t *MACTable) shard(mac frame.MAC) *macShard {
	n := uint64(mac[0])<<40 | uint64(mac[1])<<32 | uint64(mac[2])<<24 |
		uint64(mac[3])<<16 | uint64(mac[4])<<8 | uint64(mac[5])
	// The second multiplication spreads addresses that follow each other.
	n *= t.multiplier
	n ^= n >> 32
	return &t.shards[n*0x9e3779b97f4a7c15>>(64-macShardBits)]
}

// judge decides on an address and refreshes the entry where it stands. The
// shard's lock is held, for reading at least.
func (t *MACTable) judge(e *macEntry, peer frame.PeerName, announce bool, at int64) Verdict {
	switch {
	case e == nil:
		return Learned
	case e.peer == peer:
		e.refresh(announce, at)
		return Known
	case (e.peer == t.self || peer == t.self) && t.holds(e, announce, at):
		return Conflict
	}
	moves := e.movesAt(at)
	if moves >= flapMoves && at-e.movedAt < int64(damping(moves)) {
		if e.peer == t.self || peer == t.self {
			return Conflict
		}
		return Unlearned
	}
	if moves == flapMoves {
		return Flapping
	}
	return Moved
}

// holds reports whether rules 1 and 2 keep the entry at its peer.
func (t *MACTable) holds(e *macEntry, announce bool, at int64) bool {
	if at-e.seen.Load() >= int64(t.hold) {
		return false
	}
	return !announce || at-e.announced.Load() < int64(t.hold)
}

// writeLocked judges again, since the shard was unlocked, and carries it out.
func (t *MACTable) writeLocked(s *macShard, mac frame.MAC, peer frame.PeerName, announce bool, at int64) Verdict {
	e := s.entries[mac]
	v := t.judge(e, peer, announce, at)
	switch v {
	case Learned:
		if !t.makeRoomLocked(s, peer) {
			return Unlearned
		}
		e = &macEntry{movedAt: longAgo}
		s.entries[mac] = e
	case Moved, Flapping:
		if s.held[peer] >= t.perPeer {
			s.evictLocked(peer)
		}
		s.releaseLocked(e.peer)
		e.moves, e.movedAt = e.movesAt(at)+1, at
	default:
		return v
	}
	e.peer = peer
	s.held[peer]++
	e.seen.Store(at)
	e.announced.Store(longAgo)
	e.refresh(announce, at)
	return v
}

// makeRoomLocked sees to it that peer may have one more entry in the shard.
func (t *MACTable) makeRoomLocked(s *macShard, peer frame.PeerName) bool {
	if s.held[peer] >= t.perPeer {
		return s.evictLocked(peer)
	}
	if len(s.entries) < t.perShard {
		return true
	}
	var most frame.PeerName
	for p, n := range s.held {
		if p != t.self && n > s.held[most] {
			most = p
		}
	}
	return s.held[most] > s.held[peer]+1 && s.evictLocked(most)
}

func (t *MACTable) remove(drop func(*macEntry) bool) (n int) {
	for i := range t.shards {
		n += t.shards[i].remove(drop)
	}
	return n
}
