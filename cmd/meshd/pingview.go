package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meshd/internal/frame"
	"meshd/routing/measure"
)

// Pong is what came of one try of `meshd ping`; its JSON is a line of --json and of the
// answer to POST /v1/ping. A figure that is not known is null.
type Pong struct {
	Peer     string `json:"peer"`
	NickName string `json:"nickname"`
	Sequence int    `json:"seq"` // from 1; answers need not come in order
	// Outcome is "answered"; "lost": no answer came in time; "no route"; "too big" for
	// the path, which carries MTU; "silent": the peer has not agreed to answer over
	// the control plane, as a stock router never does; or "refused": it is pinged by too many.
	Outcome measure.Outcome `json:"outcome"`
	RTT     *float64        `json:"rtt_ms"`
	// Direct: the first hops of the echo and of its answer were the two peers
	// themselves; null: not answered, or the peer is too old to tell.
	Direct *bool    `json:"direct"`
	Out    *PingHop `json:"out"`  // first hop of the echo; null: none was sent
	Back   *PingHop `json:"back"` // first hop of the answer; null: none came, or the peer is too old to tell
	MTU    *int     `json:"mtu"`
}

// PingHop is the neighbour that a frame goes to first, and how.
type PingHop struct {
	Via       string `json:"via"`
	NickName  string `json:"via_nickname"`
	Transport string `json:"transport"`
	Address   string `json:"address,omitempty"` // where our datagrams go
	Straight  bool   `json:"straight"`          // Via is who the frame is for
}

func newPong(t measure.Try, peer, self frame.PeerName, names *nickNames) Pong {
	p := Pong{
		Peer: peer.String(), NickName: names.name(peer), Sequence: t.Sequence, Outcome: t.Outcome,
		RTT: milliseconds(t.RTT), MTU: known(t.MTU),
		Out: newPingHop(t.Out, peer, names), Back: newPingHop(t.Back, self, names),
	}
	if p.Out != nil && p.Back != nil {
		direct := p.Out.Straight && p.Back.Straight
		p.Direct = &direct
	}
	return p
}

func newPingHop(h measure.Hop, to frame.PeerName, names *nickNames) *PingHop {
	if !h.Via.Valid() {
		return nil
	}
	v := &PingHop{Via: h.Via.String(), NickName: names.name(h.Via), Transport: clean(h.Transport), Straight: h.Via == to}
	if h.Addr.IsValid() {
		v.Address = h.Addr.String()
	}
	return v
}

// nickNames finds nicknames and asks for them when it meets a new name.
type nickNames struct {
	of    func() map[frame.PeerName]string
	known map[frame.PeerName]string
}

func (n *nickNames) name(peer frame.PeerName) string {
	if _, ok := n.known[peer]; !ok {
		n.known = n.of()
		if n.known[peer] == "" {
			n.known[peer] = "" // it is asked for once
		}
	}
	return n.known[peer]
}

// pingView prints a ping and keeps its statistics.
type pingView struct {
	out, errs io.Writer
	name      string        // of the peer, as the user says it
	timeout   time.Duration // for an answer
	json      bool

	stats  PingStats
	rtts   []float64 // ms, of the answers
	warned bool      // that no answer may ever come, or there is no reason to
}

// PingStats is the last line of `meshd ping --json`, as "statistics".
type PingStats struct {
	Peer     string   `json:"peer"`
	Sent     int      `json:"sent"` // tries that are over, whether a frame was sent or not
	Received int      `json:"received"`
	Direct   int      `json:"direct"`  // of Received
	Relayed  int      `json:"relayed"` // of Received; of the rest it is not known
	Loss     float64  `json:"loss"`    // 0 to 1
	Seconds  float64  `json:"seconds"`
	Min      *float64 `json:"rtt_min_ms"`
	Avg      *float64 `json:"rtt_avg_ms"`
	Max      *float64 `json:"rtt_max_ms"`
	MDev     *float64 `json:"rtt_mdev_ms"` // standard deviation
}

func newPingView(cmd *cobra.Command, peer, name string, timeout time.Duration, asJSON bool) *pingView {
	return &pingView{
		out: cmd.OutOrStdout(), errs: cmd.ErrOrStderr(), name: name, timeout: timeout, json: asJSON,
		stats: PingStats{Peer: peer},
	}
}

func (v *pingView) tried() int    { return v.stats.Sent }
func (v *pingView) received() int { return v.stats.Received }

// pong prints what came of a try.
func (v *pingView) pong(p *Pong) error {
	v.count(p)
	if v.json {
		return printJSON(v.out, p, false)
	}
	if _, err := fmt.Fprintln(v.out, pongText(p, v.timeout)); err != nil {
		return err
	}
	if p.Outcome == measure.Silent && !v.warned {
		v.warned = true
		fmt.Fprintf(v.errs, "meshd: if %s is a stock Weave router, or a meshd that is too old, it answers no pings: ping a container's address instead\n", v.name)
	}
	return nil
}

func (v *pingView) count(p *Pong) {
	v.stats.Sent++
	if p.Outcome != measure.Answered || p.RTT == nil {
		return
	}
	v.stats.Received++
	v.rtts = append(v.rtts, *p.RTT)
	if p.Direct != nil {
		v.stats.Direct += toInt(*p.Direct)
		v.stats.Relayed += toInt(!*p.Direct)
	}
}

// end prints the statistics.
func (v *pingView) end(took time.Duration) error {
	s := &v.stats
	s.Seconds = took.Seconds()
	s.Loss = share(uint64(s.Sent-s.Received), uint64(s.Sent))
	s.Min, s.Avg, s.Max, s.MDev = spread(v.rtts)
	if v.json {
		return printJSON(v.out, map[string]*PingStats{"statistics": s}, false)
	}
	_, err := io.WriteString(v.out, pingStatsText(s, v.name))
	return err
}

// spread is smallest, mean, largest and standard deviation, as ping(8) has them.
func spread(values []float64) (least, mean, most, deviation *float64) {
	if len(values) == 0 {
		return nil, nil, nil, nil
	}
	lo, hi, sum, squares := values[0], values[0], 0.0, 0.0
	for _, x := range values {
		lo, hi, sum = min(lo, x), max(hi, x), sum+x
	}
	avg := sum / float64(len(values))
	for _, x := range values {
		squares += (x - avg) * (x - avg)
	}
	dev := math.Sqrt(squares / float64(len(values)))
	return &lo, &avg, &hi, &dev
}

func pingStatsText(s *PingStats, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n--- %s ping statistics ---\n", name)
	fmt.Fprintf(&b, "%d packets transmitted, %d received, %s%% packet loss, time %dms\n",
		s.Sent, s.Received, strconv.FormatFloat(100*s.Loss, 'g', 6, 64), int64(s.Seconds*1000))
	if s.Min == nil || s.Avg == nil || s.Max == nil || s.MDev == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "rtt min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f ms\n", *s.Min, *s.Avg, *s.Max, *s.MDev)
	fmt.Fprintf(&b, "%d direct, %d relayed", s.Direct, s.Relayed)
	if rest := s.Received - s.Direct - s.Relayed; rest > 0 {
		fmt.Fprintf(&b, ", %d not known", rest)
	}
	b.WriteString("\n")
	return b.String()
}

// pongText is the line of a try.
func pongText(p *Pong, timeout time.Duration) string {
	peer := p.Peer
	if p.NickName != "" {
		peer = fmt.Sprintf("%s (%s)", p.NickName, p.Peer)
	}
	from := fmt.Sprintf("no answer from %s: seq=%d ", peer, p.Sequence)
	switch {
	case p.Outcome == measure.Answered && p.RTT != nil:
		return fmt.Sprintf("answer from %s: seq=%d %s time=%s ms", peer, p.Sequence, pongWay(p), pingTime(*p.RTT))
	case p.Outcome == measure.Lost:
		return from + fmt.Sprintf("within %v, sent %s", timeout, hopText(p.Out))
	case p.Outcome == measure.NoRoute:
		return from + "no route"
	case p.Outcome == measure.TooBig:
		return from + fmt.Sprintf("too big: the path %s carries %s bytes", hopText(p.Out), figure(p.MTU))
	case p.Outcome == measure.Silent:
		return from + fmt.Sprintf("over the control plane within %v, nothing was sent", timeout)
	case p.Outcome == measure.Refused:
		return from + "it is pinged by too many"
	}
	return from + string(p.Outcome)
}

// pongWay says by which way an echo and its answer went. What goes straight between the
// peers is over a transport, what goes to a relay first is via that. Only where both are
// known to have gone straight the way is direct.
func pongWay(p *Pong) string {
	out, back := hopText(p.Out), hopText(p.Back)
	switch {
	case p.Out == nil:
		return "way not known"
	case p.Back == nil:
		return fmt.Sprintf("out %s, way back not known", out)
	case p.Out.Straight && p.Back.Straight && p.Out.Transport == p.Back.Transport:
		return "direct " + out
	case p.Out.Straight && p.Back.Straight:
		return fmt.Sprintf("direct %s, back %s", out, back)
	case p.Out.Straight:
		return fmt.Sprintf("out %s, relayed back %s", out, back)
	}
	return fmt.Sprintf("relayed %s, back %s", out, back)
}

// hopText is "over punch 203.0.113.7:6785" or "via weave01 (punch)".
func hopText(h *PingHop) string {
	switch {
	case h == nil:
		return unknown
	case !h.Straight && h.Transport == "":
		return "via " + cmp.Or(h.NickName, h.Via)
	case !h.Straight:
		return fmt.Sprintf("via %s (%s)", cmp.Or(h.NickName, h.Via), h.Transport)
	case h.Address == "":
		return "over " + orUnknown(h.Transport)
	}
	return fmt.Sprintf("over %s %s", orUnknown(h.Transport), h.Address)
}

// pingTime prints milliseconds as ping(8) does.
func pingTime(ms float64) string {
	digits := 3
	switch {
	case ms >= 100:
		digits = 0
	case ms >= 10:
		digits = 1
	case ms >= 1:
		digits = 2
	}
	return strconv.FormatFloat(ms, 'f', digits, 64)
}
