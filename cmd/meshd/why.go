package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"meshd/internal/frame"
	"meshd/nat"
)

// The ways frames may take to a peer.
const (
	pathDirect  = "direct"
	pathRelayed = "relayed"
	pathNone    = "none"
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
	s := newStatus(d.Report(), d.started)
	w := Why{Peer: name.String(), Tried: []nat.Try{}, Reasons: []string{}}
	known := false
	for _, p := range s.Peers {
		if p.Name == w.Peer {
			known, w.NickName = true, p.NickName
		}
	}
	if !known {
		return w, fmt.Errorf("no peer %s is in the mesh", name)
	}
	w.route(&s)
	var status nat.Status
	if d.traversal != nil {
		status = d.traversal.agent.Status(name)
		w.Tried = append(w.Tried, status.Tries...)
	}
	if w.Path == pathDirect {
		w.Failed = nil // of the ways that are not needed
		return w, nil
	}
	who := cmp.Or(w.NickName, w.Peer)
	switch {
	case d.traversal == nil:
		w.Reasons, w.Remedy = []string{"no transport that goes through NATs is configured here"}, "add punch to transports"
	case !s.Discovery:
		w.Reasons, w.Remedy = []string{"discovery is off: only configured peers are connected to"}, "add "+who+" to peers, or switch discovery on"
	default:
		v4, v6 := d.traversal.agent.Behaviours()
		w.Reasons, w.Remedy = status.Reasons(who, [2]nat.Behaviour{v4, v6})
	}
	return w, nil
}

// route fills in how frames go now.
func (w *Why) route(s *Status) {
	w.Path = pathNone
	via := ""
	for _, r := range s.Routes.Unicast {
		if r.Dest == w.Peer {
			via = r.Via
		}
	}
	switch via {
	case "":
	case w.Peer:
		w.Path = pathDirect
	default:
		w.Path = pathRelayed
	}
	for _, c := range s.Connections {
		if c.Name == via && via != "" && c.State == "established" {
			w.Transport, w.Carrier = c.Transport, c.Carrier
			for _, p := range c.Paths {
				if p.Active {
					w.Address, w.RTT = p.Address, p.RTT
				}
			}
			if w.Path == pathRelayed {
				w.Via = cmp.Or(c.NickName, c.Name)
			}
		}
		if c.Name == w.Peer {
			for _, p := range c.Paths {
				if !p.Up && p.Why != "" {
					w.Failed = append(w.Failed, p.Transport+": "+p.Why)
				}
			}
			if c.Error != "" {
				w.Failed = append(w.Failed, "connection to "+c.Address+": "+c.Error)
			}
		}
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
		Args:              cobra.ExactArgs(1),
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
