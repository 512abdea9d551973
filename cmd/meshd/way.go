package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"meshd/internal/frame"
	"meshd/nat"
	"meshd/routing/signal"
)

// The paths that frames may take to a peer.
const (
	pathDirect  = "direct"
	pathRelayed = "relayed"
	pathNone    = "none"
)

// pathBy is the path of frames to a peer that leave by the neighbour via; empty: they
// leave by none.
func pathBy(peer, via string) string {
	switch via {
	case "":
		return pathNone
	case peer:
		return pathDirect
	}
	return pathRelayed
}

// Way is how frames go to a peer, and what was tried for a direct way.
type Way struct {
	Name      string `json:"name"`
	NickName  string `json:"nickname"`
	Kind      string `json:"kind,omitempty"`      // meshd or weave; empty: not known
	Path      string `json:"path"`                // direct, relayed or none
	Via       string `json:"via,omitempty"`       // relayed: the next hop, by its nickname if it has one
	Transport string `json:"transport,omitempty"` // to the peer, or to the next hop, as Address
	Address   string `json:"address,omitempty"`
	// Pair is the peer's end of the pair of addresses that checks came through, where
	// frames use it or the last round found it.
	Pair nat.Candidate `json:"pair,omitzero"`
	// Local is what the last round offered to the peer, Remote what it checked.
	Local  []nat.Candidate `json:"local"`
	Remote []nat.Candidate `json:"remote"`
	Reason string          `json:"reason,omitempty"` // why it is not direct
	Remedy string          `json:"remedy,omitempty"`
	// Since is since when there has been no direct way; null: there is one, or none is
	// looked for.
	Since *time.Time `json:"not_direct_since"`
}

// TraversalReport is what is known of the NATs on the way to peers.
type TraversalReport struct {
	Peers      map[frame.PeerName]nat.Status
	Behaviours [2]nat.Behaviour // ours, of IPv4 and IPv6
	STUN       nat.Counts
	Signalling signal.Counts
}

// of is what is known of the ways to a peer. t may be nil.
func (t *TraversalReport) of(peer frame.PeerName) nat.Status {
	if t == nil {
		return nat.Status{}
	}
	return t.Peers[peer]
}

// newWays looks at the ways to all peers of s but ourselves. r is what s was made of.
func newWays(s *Status, r *Report) []Way {
	h := newHops(s)
	out := make([]Way, 0, len(r.Mesh.Peers))
	for _, p := range r.Mesh.Peers {
		if p.Name == r.Mesh.Self.Name {
			continue
		}
		known := r.Traversal.of(p.Name)
		w := newWay(newWhy(s, h, p.Name, clean(p.NickName), r.Traversal), known)
		w.Kind = h.kind[w.Name]
		if known.Known {
			w.Kind = kindOf(true)
		}
		out = append(out, w)
	}
	return out
}

// newWay is the short form of w.
func newWay(w Why, known nat.Status) Way {
	v := Way{
		Name: w.Peer, NickName: w.NickName, Path: w.Path, Via: w.Via, Transport: w.Transport, Address: w.Address,
		Local: []nat.Candidate{}, Remote: []nat.Candidate{}, Remedy: w.Remedy,
	}
	if len(w.Reasons) > 0 {
		v.Reason = w.Reasons[0]
	}
	if w.Path != pathDirect && !known.Since.IsZero() {
		v.Since = &known.Since
	}
	for i, t := range w.Tried {
		last := i == len(w.Tried)-1
		if last {
			v.Local, v.Remote = append(v.Local, t.Local...), append(v.Remote, t.Remote...)
		}
		if t.Pair.Addr.IsValid() && (last || w.Path == pathDirect && t.Pair.Addr.String() == w.Address) {
			v.Pair = t.Pair
		}
	}
	return v
}

// who is the peer's name for people.
func (w *Way) who() string { return cmp.Or(w.NickName, w.Name) }

// pathWords say "direct", "relayed via weave01" or "none".
func (w *Way) pathWords() string {
	if w.Path == pathRelayed {
		return w.Path + " via " + orUnknown(w.Via)
	}
	return w.Path
}

// pairText is the pair that was chosen, or the address in use, where none was looked for.
func (w *Way) pairText() string {
	switch {
	case w.Pair.Addr.IsValid():
		return w.Pair.String()
	case w.Path == pathDirect:
		return w.Address
	}
	return ""
}

// candidatesShown bounds the candidates of each end that a line has.
const candidatesShown = 4

// candidatesText lists what the last round tried.
func (w *Way) candidatesText() string {
	var ends []string
	for _, end := range []struct {
		name string
		all  []nat.Candidate
	}{{"local", w.Local}, {"remote", w.Remote}} {
		if len(end.all) == 0 {
			continue
		}
		shown := each(end.all[:min(len(end.all), candidatesShown)], nat.Candidate.String)
		if more := len(end.all) - len(shown); more > 0 {
			shown = append(shown, fmt.Sprintf("and %d more", more))
		}
		ends = append(ends, end.name+" "+strings.Join(shown, ", "))
	}
	return strings.Join(ends, "; ")
}

// writeWays writes a table of the ways, and an empty line before it; nothing where there
// is no other peer.
func writeWays(w io.Writer, s *Status) error {
	if len(s.Ways) == 0 {
		return nil
	}
	t := newTable("PEER", "NICKNAME", "WAY", "PAIR", "CANDIDATES")
	for i := range s.Ways {
		v := &s.Ways[i]
		t.row(v.Name, orUnknown(v.NickName), v.pathWords(), v.pairText(), v.candidatesText())
	}
	fmt.Fprintln(w)
	return t.write(w)
}

// writeRelayed writes a line for each peer that is relayed, with why, and an empty line
// before the first.
func writeRelayed(w io.Writer, s *Status) {
	before := "\n"
	for i := range s.Ways {
		if v := &s.Ways[i]; v.Path == pathRelayed {
			fmt.Fprintf(w, "%srelayed %s via %s: %s\n", before, v.who(), orUnknown(v.Via), v.Reason)
			before = ""
		}
	}
}

// waysByPath counts the ways of each path.
func waysByPath(s *Status) map[string]int {
	n := map[string]int{pathDirect: 0, pathRelayed: 0, pathNone: 0}
	for i := range s.Ways {
		n[s.Ways[i].Path]++
	}
	return n
}

// wayCounts say "direct to 2 peers, relayed to 1".
func wayCounts(s *Status) string {
	n := waysByPath(s)
	text := fmt.Sprintf("direct to %s, relayed to %d", count(n[pathDirect], "peer"), n[pathRelayed])
	if n[pathNone] > 0 {
		text += fmt.Sprintf(", none to %d", n[pathNone])
	}
	return text
}

// wayOf finds the way to a peer; nil: there is none.
func (s *Status) wayOf(name string) *Way {
	for i := range s.Ways {
		if s.Ways[i].Name == name {
			return &s.Ways[i]
		}
	}
	return nil
}
