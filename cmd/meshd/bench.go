package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"meshd/internal/frame"
	"meshd/routing/control"
	"meshd/routing/measure"
	"meshd/transport"
)

// benchGrace is how much longer than its time a measurement may take.
const benchGrace = 10 * time.Second

func newBenchCmd(connect func() *client) *cobra.Command {
	duration, asJSON := 5*time.Second, false
	cmd := &cobra.Command{
		Use:   "bench PEER",
		Short: "Measure throughput, loss and round-trip time to a peer",
		Long: `Measure what the way of frames to PEER carries now, over relays if that is how
frames go: the highest rate at which less than 1% is lost, nine tenths of that held
for the rest of the time, and round-trip times, idle and under load.

It runs between the two daemons, in the direction to PEER; bridges and containers
have no part in it. It takes all the capacity that it finds, beside other traffic.
PEER is a name, nickname or address, and must be meshd.`,
		Args:              exactly(1),
		ValidArgsFunction: completePeers(connect),
		RunE: func(cmd *cobra.Command, args []string) error {
			if duration < measure.MinTime || duration > measure.MaxTime {
				return usageError{fmt.Errorf("--time %v is not from %v to %v", duration, measure.MinTime, measure.MaxTime)}
			}
			return bench(cmd, connect(), args[0], duration, asJSON)
		},
	}
	cmd.Flags().DurationVar(&duration, "time", duration, "how long to measure")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func bench(cmd *cobra.Command, c *client, arg string, duration time.Duration, asJSON bool) error {
	s, err := c.status(cmd.Context())
	if err != nil {
		return err
	}
	p, err := findPeer(s, arg)
	switch {
	case err != nil:
		return err
	case p == nil:
		return fmt.Errorf("no peer has the name, nickname or address %s", arg)
	case p.Name == s.Name:
		return fmt.Errorf("%s is this peer itself", arg)
	}
	if isTerminal(cmd.ErrOrStderr()) {
		fmt.Fprintf(cmd.ErrOrStderr(), "measuring the way to %s(%s) for %v\n", p.Name, p.NickName, duration)
	}
	b, err := c.bench(cmd.Context(), p.Name, duration)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), b, true)
	}
	return printBench(cmd.OutOrStdout(), b)
}

// benchRequest is the body of /v1/bench.
type benchRequest struct {
	Peer    string  `json:"peer"` // a name
	Seconds float64 `json:"seconds"`
}

func (c *client) bench(ctx context.Context, peer string, d time.Duration) (*Bench, error) {
	patient := *c
	patient.timeout += d + benchGrace
	data, err := patient.call(ctx, http.MethodPost, "/v1/bench", benchRequest{Peer: peer, Seconds: d.Seconds()})
	if err != nil {
		return nil, err
	}
	b := new(Bench)
	if err := json.Unmarshal(data, b); err != nil {
		return nil, fmt.Errorf("read the answer of the daemon: %w", err)
	}
	return b, nil
}

// bench answers when the measurement is over; it ends with the connection.
func (a *api) bench(w http.ResponseWriter, r *http.Request) {
	var req benchRequest
	if !readRequest(w, r, &req) {
		return
	}
	peer, err := frame.ParsePeerName(req.Peer)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	seconds := min(max(req.Seconds, measure.MinTime.Seconds()), measure.MaxTime.Seconds())
	d := time.Duration(seconds * float64(time.Second))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d + benchGrace)) // else it ends early
	b, err := a.daemon.Bench(r.Context(), peer, d)
	switch {
	case errors.Is(err, measure.ErrBusy), errors.Is(err, measure.ErrPeerBusy):
		writeError(w, http.StatusConflict, err)
	case err != nil:
		writeError(w, http.StatusUnprocessableEntity, err)
	default:
		writeJSON(w, http.StatusOK, b)
	}
}

// Bench measures the way to a peer.
func (d *daemon) Bench(ctx context.Context, peer frame.PeerName, duration time.Duration) (Bench, error) {
	before, err := d.way(peer)
	if err != nil {
		return Bench{}, err
	}
	mtu := d.port.MTU()
	if before.MTU != nil {
		mtu = min(mtu, *before.MTU)
	}
	res, err := d.meter.Measure(ctx, peer, measure.Options{Time: duration, MTU: mtu})
	if err != nil {
		return Bench{}, fmt.Errorf("measure the way to %s: %w", peer, err)
	}
	after, err := d.way(peer)
	if err != nil {
		return Bench{}, fmt.Errorf("the peer was lost meanwhile: %w", err)
	}
	return newBench(res, before, after), nil
}

// way finds the way that frames to a peer take now. The error says in words why
// there is none, or that it leads to a stock router.
func (d *daemon) way(peer frame.PeerName) (BenchWay, error) {
	m, err := d.mesh.Snapshot()
	if err != nil {
		return BenchWay{}, err
	}
	return wayTo(m, peer)
}

func wayTo(m control.Snapshot, peer frame.PeerName) (BenchWay, error) {
	if peer == m.Self.Name {
		return BenchWay{}, fmt.Errorf("%s is this peer itself", peer)
	}
	w := BenchWay{Peer: peer.String()}
	known := false
	for _, p := range m.Peers {
		if p.Name == peer {
			w.NickName, known = clean(p.NickName), true
		}
	}
	if !known {
		return w, fmt.Errorf("no peer has the name %s", peer)
	}
	via := frame.PeerName(0)
	for _, r := range m.Unicast {
		if r.Dest == peer {
			via = r.Via
		}
	}
	for _, c := range m.Connections {
		if c.Name == peer && !c.Native {
			return w, fmt.Errorf("%s(%s) is a stock Weave router, which does not take part in measurements", peer, w.NickName)
		}
		if via.Valid() && c.Name == via {
			w.first(newConnection(c))
		}
	}
	if w.Via == "" {
		return w, fmt.Errorf("no connection leads to %s(%s) now", peer, w.NickName)
	}
	return w, nil
}

// originate sends packets of our own.
func (d *daemon) originate(packets []frame.Packet) (int, error) {
	return d.forwarder.Originate(packets)
}

// nextHop finds the first hop to a peer, and a way to send by it whatever the routes are
// by then.
func (d *daemon) nextHop(dst frame.PeerName) (measure.Hop, func([]frame.Packet) (int, error)) {
	fib := d.forwarder.FIB()
	via, way := fib.NextHop(dst)
	hop := measure.Hop{Via: via}
	if link, ok := way.(*transport.Link); ok {
		st := link.State()
		hop.Transport, hop.Addr = st.Transport, st.Addr
	}
	return hop, func(packets []frame.Packet) (int, error) { return d.forwarder.OriginateBy(fib, packets) }
}

// tellMeter sends a message to another peer's meter.
func (d *daemon) tellMeter(dst frame.PeerName, msg []byte) error {
	return d.mesh.Unicast(measure.Channel, dst, msg)
}
