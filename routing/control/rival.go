package control

import (
	"net/netip"
	"slices"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

// When it is sure that two hosts have one name, and when not any more.
const (
	// rivalAfter is how long the path to a neighbour works after another host has claimed
	// its name: one to a neighbour that restarted is noticed to be dead before.
	rivalAfter = 5 * time.Second
	// formerAfter is how long entries come that are older than the neighbour's: those of a
	// former life of it are replaced with the next periodic gossip at the latest.
	formerAfter = gossipInterval + rivalAfter
	rivalGone   = 4 * gossipInterval
)

// Rival is another host that claims the peer name of a neighbour.
type Rival struct {
	NickName    string
	UID         uint64
	Addr        netip.AddrPort // where it connected to us from, last; not valid: it did not
	Via         string         // the neighbour that told of it last, by its nickname; empty: none did
	First, Last time.Time      // when what it claims was refused
	newer       bool           // than what the neighbour says of itself
	logged      bool
}

// seen notes a claim, and reports whether the operator is to be told now: once, when it is
// sure that there are two hosts.
func (r *Rival) seen(claim Rival, now time.Time) (tell bool) {
	r.NickName, r.UID, r.Last, r.newer = claim.NickName, claim.UID, now, r.newer || claim.newer
	if claim.Addr.IsValid() {
		r.Addr = claim.Addr
	}
	if claim.Via != "" {
		r.Via = claim.Via
	}
	tell = !r.logged && r.sure(now)
	r.logged = r.logged || tell
	return tell
}

// sure reports whether it can be no former life of the neighbour, or the next one.
func (r *Rival) sure(now time.Time) bool {
	if r.newer {
		return now.Sub(r.First) >= rivalAfter
	}
	return r.Last.Sub(r.First) >= formerAfter
}

// current reports whether there are claims, and they are not so old that they prove
// nothing together with one that comes now.
func (r *Rival) current(now time.Time) bool { return r != nil && now.Sub(r.Last) <= rivalGone }

// claim notes a claim of another host on the neighbour's name. It reports whether the
// neighbour itself may have restarted, and whether the operator is to be told.
func (n *neighbour) claim(r Rival, now time.Time) (restarted, tell bool) {
	if !n.rival.current(now) {
		n.rival = &Rival{First: now}
	}
	if restarted = r.newer && !n.rival.newer; restarted {
		n.rival.First = now
	}
	return restarted, n.rival.seen(r, now)
}

// claimed notes that another host claims the name of a neighbour.
func (m *Mesh) claimed(n *neighbour, r Rival) {
	m.claims++
	restarted, tell := n.claim(r, time.Now())
	if restarted {
		m.cfg.Set.Hurry() // its path shows it
	}
	if tell {
		m.log.Warn("two hosts have one peer name: give one of them another", "peer", n.peer.Name, "nickname", n.peer.NickName,
			"addr", n.at, "other", n.rival.NickName, "via", n.rival.Via, "from", n.rival.Addr)
	}
}

// rivalOf is the other host that claims a neighbour's name; nil: there is none, for sure.
func rivalOf(n *neighbour, now time.Time) *Rival {
	if !n.rival.current(now) || !n.rival.sure(now) {
		return nil
	}
	r := *n.rival
	return &r
}

// holdOff leaves out of what a neighbour tells the entries of other hosts that have the
// name of a neighbour of ours whose path works. They would replace the neighbour's own
// where they are newer: the path would not count any more, since the other host says that
// it has no connection with us, and frames would go to that host.
func (m *Mesh) holdOff(from *session, entries []routing.Peer, now time.Time) []routing.Peer {
	return slices.DeleteFunc(entries, func(e routing.Peer) bool {
		n := m.neighbours[e.Name]
		if n == nil || !n.established || e.UID == 0 || e.UID == n.peer.UID || n.session != nil && !n.session.native || !n.link.State().Up {
			return false
		}
		newer, ok := m.topo.Replaces(e, now)
		if !ok {
			return false // it is refused for what it is
		}
		m.claimed(n, Rival{NickName: e.NickName, UID: e.UID, Via: from.peer.NickName, newer: newer})
		return newer // others are not merged, but answered
	})
}

// release asks the others for the entries that were held off, now that the path to the
// neighbour is dead. They answer to an entry of another incarnation with theirs.
func (m *Mesh) release(n *neighbour) {
	if n.rival == nil {
		return
	}
	n.rival = nil
	for s := range m.sessions {
		s.queueTopology([]frame.PeerName{n.peer.Name})
	}
}
