package routing

import (
	"slices"
	"time"

	"meshd/internal/frame"
)

// Merged says what a Merge did.
type Merged struct {
	// Improved names the entries that were taken, sorted: what a gossip (tag 4)
	// passes on.
	Improved []frame.PeerName
	// All names the peers of the update that are known now, sorted: what a gossip
	// broadcast (tag 6) passes on.
	All []frame.PeerName
	// Outdated names the peers, sorted, of which the update had an entry that was
	// ignored because we hold a newer one of another incarnation, or because it was
	// a placeholder. Whoever sent it will not ask: tell them ours.
	Outdated []frame.PeerName
	// SelfChanged: our version was raised, over an older incarnation of ours or
	// because our short ID went to another peer. Gossip our entry.
	SelfChanged bool
	// Refused counts malformed entries and those with an absurd version; Full
	// counts entries and placeholders for which there was no room.
	Refused, Full int
}

// Merge takes over what is newer in the entries of a gossip, by the rules of the
// weave protocol, section 3.3. entries is borrowed and may be in any order, its
// connections too.
//
// Within the bounds of this package the order of entries is weave's to the
// letter: higher version, then higher UID, then whoever has a short ID. Two
// things guard an entry against being frozen by a forged version:
//
//   - A version is refused while it is above a ceiling that rises with the clock
//     (see versionCeiling). Whatever was accepted can thus be outbid, at the
//     latest a moment later, and 2^64-1 never enters. Nothing that counts changes
//     gets near the ceiling.
//   - Versions above ours under our own name and UID, which nobody but us may
//     give, are ignored as weave demands, but remembered for Reclaim.
//
// Weave leaves who sent an ignored entry as they are. Where a peer restarts and one
// of its neighbours collected the old entry while others still hold it, both sides
// keep theirs until the next periodic gossip: the new entry loses by its low version
// or by chance of the UIDs, and the old one gets nowhere near the peer, which alone
// could outbid it. Outdated closes that gap: the old entry goes back to where the
// new one came from, and so reaches its peer. FirstVersion makes it rare, also where
// stock routers hold the old entry.
//
// Placeholders are made only for the ends of connections that were taken. Weave
// makes them for ignored entries as well and collects them a second later.
func (t *Topology) Merge(entries []Peer, now time.Time) Merged {
	var m Merged
	ceiling := versionCeiling(now)
	for i := range entries {
		t.mergeEntry(&m, entries[i], ceiling)
	}
	m.Improved = sortedSet(m.Improved)
	m.All = sortedSet(m.All)
	m.Outdated = sortedSet(m.Outdated)
	for _, name := range m.Improved {
		t.addEnds(&m, t.peers[name])
		if t.defendShortID(t.peers[name]) {
			m.SelfChanged = true
		}
	}
	if len(m.Improved) > 0 {
		t.cached = nil
	}
	return m
}

// Reclaim raises our version above what others claimed for this incarnation of
// ours, and reports whether it had to. Somebody forged our entry then; until the
// others hear the higher version they believe the forgery. Call it before each
// periodic gossip.
func (t *Topology) Reclaim() bool {
	if t.claimed <= t.self.Version {
		return false
	}
	t.self.Version = t.claimed + 1
	return true
}

// FirstVersion is the version that the entry of an incarnation starts with, where
// weave starts at 0: the milliseconds since 1970. So the entry of a peer that
// restarted is newer than what anybody still holds of it, unless its clock was set
// back or it changed more than 1000 times a second; for those is section 1.10.
func FirstVersion(now time.Time) uint64 { return uint64(max(now.UnixMilli(), 0)) }

// firstSecond is the lowest time, in seconds since 1970, that versionCeiling
// reckons with, for hosts that boot without a clock.
const firstSecond = 1_735_689_600 // 1 January 2025

// changesPerSecond is how fast the ceiling rises.
const changesPerSecond = 1 << 16

// versionCeiling is the highest version that is believed now: as if the peer had
// changed its entry 65536 times a second since 1970, about 2^47. A forged version
// at the ceiling can be outbid a second later; peers with slow clocks take that
// much longer to believe it.
func versionCeiling(now time.Time) uint64 {
	return uint64(max(now.Unix(), firstSecond)) * changesPerSecond
}

func (t *Topology) mergeEntry(m *Merged, e Peer, ceiling uint64) {
	if !e.plausible() || e.Version > ceiling {
		m.Refused++
		return
	}
	known := t.peers[e.Name]
	if known != nil {
		m.All = append(m.All, e.Name)
	}
	switch {
	case known == t.self:
		if t.outlive(e) {
			m.SelfChanged = true
		} else if e.UID != t.self.UID {
			m.Outdated = append(m.Outdated, e.Name)
		}
		return
	case known != nil && !newer(&e, known):
		if e.UID != known.UID {
			m.Outdated = append(m.Outdated, e.Name)
		}
		return
	case known == nil && len(t.peers) >= MaxPeers:
		m.Full++
		return
	}
	if !e.sanitise() {
		m.Refused++
		return
	}
	if !t.take(known, e) {
		m.Full++
		return
	}
	m.Improved = append(m.Improved, e.Name)
	m.All = append(m.All, e.Name)
}

// Replaces reports whether Merge would take an entry in place of what is known of its
// peer; not ok: it would be refused for what it says.
func (t *Topology) Replaces(e Peer, now time.Time) (replaces, ok bool) {
	if !e.plausible() || e.Version > versionCeiling(now) {
		return false, false
	}
	known := t.peers[e.Name]
	return known == nil || newer(&e, known), true
}

// newer reports whether r replaces what is known of the same peer.
func newer(r, known *Peer) bool {
	switch {
	case r.Version != known.Version:
		return r.Version > known.Version
	case r.UID != known.UID:
		return r.UID > known.UID
	}
	hasShortID := r.HasShortID && r.ShortID < ShortIDs
	return hasShortID && !known.HasShortID
}

// outlive handles an entry with our own name (section 1.10): one of an earlier
// incarnation that others hold for newer than ours is outbid.
func (t *Topology) outlive(e Peer) bool {
	if e.UID == t.self.UID {
		t.claimed = max(t.claimed, e.Version)
		return false
	}
	if e.Version < t.self.Version {
		return false
	}
	t.self.Version = e.Version + 1
	return true
}

// take stores e over known, nil where the peer is new. It reports false where
// there is no room for its connections.
func (t *Topology) take(known *Peer, e Peer) bool {
	had := 0
	if known != nil {
		had = len(known.Connections)
	}
	if t.links-had+len(e.Connections) > MaxLinks {
		return false
	}
	t.links += len(e.Connections) - had
	if known != nil {
		*known = e
	} else {
		t.peers[e.Name] = &e
	}
	return true
}

// addEnds makes placeholders for ends of p's connections that nobody described.
func (t *Topology) addEnds(m *Merged, p *Peer) {
	for _, c := range p.Connections {
		if t.peers[c.Peer] != nil {
			continue
		}
		if len(t.peers) >= MaxPeers {
			m.Full++
			continue
		}
		t.peers[c.Peer] = &Peer{Name: c.Peer}
	}
}

func sortedSet(names []frame.PeerName) []frame.PeerName {
	slices.Sort(names)
	return slices.Compact(names)
}
