package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meshd/internal/frame"
	"meshd/nat"
	"meshd/routing/control"
)

// Why is how frames go to a peer, and why so.
type Why struct {
	Peer      string    `json:"peer"`
	NickName  string    `json:"nickname,omitempty"`
	Path      string    `json:"path"`                // direct, relayed or none
	Via       string    `json:"via,omitempty"`       // relayed: the next hop, by its nickname if it has one
	Transport string    `json:"transport,omitempty"` // to the peer, or to the next hop
	Address   string    `json:"address,omitempty"`
	RTT       *float64  `json:"rtt_ms,omitempty"`
	Carrier   string    `json:"carrier,omitempty"` // of the session
	Tried     []nat.Try `json:"tried"`             // newest last
	Failed    []string  `json:"failed,omitempty"`  // transports and connections that do not work, with why
	Reasons   []string  `json:"reasons"`
	Remedy    string    `json:"remedy,omitempty"`
}

// Why looks at the way to a peer.
func (d *daemon) Why(name frame.PeerName) (Why, error) {
	r := d.Report()
	s := newStatus(r, time.Now())
	for _, p := range r.Mesh.Peers {
		if p.Name == name {
			return newWhy(&s, newHops(&s), name, clean(p.NickName), r.Traversal), nil
		}
	}
	return Why{}, fmt.Errorf("no peer %s is in the mesh", name)
}

// newWhy looks at the way to a peer of s. t is nil where no ways are looked for.
func newWhy(s *Status, h *hops, name frame.PeerName, nickName string, t *TraversalReport) Why {
	w := Why{Peer: name.String(), NickName: nickName, Tried: []nat.Try{}, Reasons: []string{}}
	w.route(h)
	status := t.of(name)
	w.Tried = append(w.Tried, status.Tries...)
	if w.Path == pathDirect {
		w.Failed = nil // of the ways that are not needed
		return w
	}
	who := cmp.Or(w.NickName, w.Peer)
	if i := slices.IndexFunc(h.attempts[w.Peer], (*Connection).refused); i >= 0 {
		w.refused(h.attempts[w.Peer][i], who)
		return w
	}
	switch {
	case t == nil:
		w.Reasons, w.Remedy = []string{"no transport that goes through NATs is configured here"}, "add punch to transports"
	case !s.Discovery:
		w.Reasons, w.Remedy = []string{"discovery is off: only configured peers are connected to"}, "add "+who+" to peers, or switch discovery on"
	default:
		w.Reasons, w.Remedy = status.Reasons(who, t.Behaviours)
	}
	return w
}

// refused takes it from an attempt that there will be no direct way.
func (w *Why) refused(c *Connection, who string) {
	w.Reasons, w.Failed = []string{c.Error}, nil
	w.Remedy = "mend that on " + who
	if c.Refused == string(control.RefusedHere) {
		w.Remedy = "mend that here"
	}
}

// hops are the neighbours by which frames leave.
type hops struct {
	via         map[string]string // by destination
	connections map[string][]*Connection
	attempts    map[string][]*Connection // that failed, by whom they are for
	kind        map[string]string        // of neighbours
}

func newHops(s *Status) *hops {
	h := &hops{via: map[string]string{}, connections: map[string][]*Connection{}, attempts: map[string][]*Connection{}, kind: map[string]string{}}
	for _, r := range s.Routes.Unicast {
		h.via[r.Dest] = r.Via
	}
	for i := range s.Connections {
		if c := &s.Connections[i]; c.live() {
			h.connections[c.Name] = append(h.connections[c.Name], c)
			h.kind[c.Name] = c.Kind
		} else if c.For != "" && c.Error != "" {
			h.attempts[c.For] = append(h.attempts[c.For], c)
		}
	}
	return h
}

// route fills in how frames go now.
func (w *Why) route(h *hops) {
	via := h.via[w.Peer]
	w.Path = pathBy(w.Peer, via)
	for _, c := range h.connections[via] {
		if c.State != string(control.StateEstablished) {
			continue
		}
		w.Transport, w.Carrier = c.Transport, c.Carrier
		if p := c.activePath(); p != nil {
			w.Address, w.RTT = p.Address, p.RTT
		}
		if w.Path == pathRelayed {
			w.Via = cmp.Or(c.NickName, c.Name)
		}
	}
	for _, c := range h.connections[w.Peer] {
		for _, p := range c.Paths {
			if !p.Up && p.Why != "" {
				w.Failed = append(w.Failed, p.Transport+": "+p.Why)
			}
		}
	}
	for _, c := range h.attempts[w.Peer] {
		w.Failed = append(w.Failed, "connection to "+c.Address+": "+c.Error)
	}
}

// print writes it in sentences. The first line begins with the path.
func (w *Why) print(out io.Writer) error {
	var b strings.Builder
	who := cmp.Or(w.NickName, w.Peer)
	rtt := ""
	if w.RTT != nil {
		rtt = fmt.Sprintf(", round trip %.1f ms", *w.RTT)
	}
	switch w.Path {
	case pathDirect:
		fmt.Fprintf(&b, "direct over %s to %s%s\n", w.Transport, w.Address, rtt)
	case pathRelayed:
		fmt.Fprintf(&b, "relayed through %s: %s\n", w.Via, w.Reasons[0])
		fmt.Fprintf(&b, "  %s is reached over %s at %s%s\n", w.Via, w.Transport, w.Address, rtt)
	default:
		fmt.Fprintf(&b, "none: no frames reach %s: %s\n", who, w.Reasons[0])
	}
	for _, r := range w.Reasons[min(1, len(w.Reasons)):] {
		fmt.Fprintf(&b, "  %s\n", r)
	}
	for _, f := range w.Failed {
		fmt.Fprintf(&b, "  not working: %s\n", f)
	}
	if n := len(w.Tried); n > 0 {
		last := w.Tried[n-1]
		outcome := last.Err
		if last.Pair.Addr.IsValid() && outcome == "" {
			outcome = "came through at " + last.Pair.String()
		}
		fmt.Fprintf(&b, "  %s tried, the last at %s: %s\n", count(n, "round"), last.At.Format("15:04:05"), outcome)
	}
	if w.Remedy != "" {
		fmt.Fprintf(&b, "remedy: %s\n", w.Remedy)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func (a *api) why(w http.ResponseWriter, r *http.Request) {
	peer, err := frame.ParsePeerName(r.URL.Query().Get("peer"))
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	why, err := a.daemon.Why(peer)
	if err != nil {
		writeError(w, http.StatusNotFound, err)
		return
	}
	writeJSON(w, http.StatusOK, why)
}

func newWhyCmd(connect func() *client) *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "why PEER",
		Short: "Say how frames go to a peer, and why so",
		Long: `Say how frames go to PEER: direct, relayed through another peer, or not at all;
what was tried, what failed, and what would make the way direct. PEER is a name,
nickname or address.`,
		Args:              exactly(1),
		ValidArgsFunction: completePeers(connect),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := connect()
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			peer, err := otherNamed(s, args[0])
			if err != nil {
				return err
			}
			data, err := c.call(cmd.Context(), http.MethodGet, "/v1/why?peer="+url.QueryEscape(peer.String()), nil)
			if err != nil {
				return err
			}
			var w Why
			if err := json.Unmarshal(data, &w); err != nil {
				return fmt.Errorf("read the answer of the daemon: %w", err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), w, true)
			}
			return w.print(cmd.OutOrStdout())
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// otherNamed finds a peer in the mesh that is not this one.
func otherNamed(s *Status, arg string) (frame.PeerName, error) {
	p, err := findPeer(s, arg)
	switch {
	case err != nil:
		return 0, err
	case p == nil:
		return 0, fmt.Errorf("no peer has the name, nickname or address %s: `meshd status peers` lists them", arg)
	case p.Name == s.Name:
		return 0, fmt.Errorf("%s is this peer itself", arg)
	}
	return frame.ParsePeerName(p.Name)
}
