package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"meshd/internal/frame"
	"meshd/routing/control"
	"meshd/routing/measure"
)

// Bounds of what a ping may ask for.
const (
	minPingSize = measure.MinFrame - frame.HeaderLen // bytes
	maxPingTime = time.Hour                          // between tries, and for an answer
)

// Exit codes of ping are those of ping(8).
const (
	exitNoAnswer = 1
	exitNoPing   = 2 // something else is wrong
)

func newPingCmd(connect func() *client) *cobra.Command {
	var asJSON bool
	req := pingRequest{Interval: 1, Size: 56, Timeout: 2}
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "Ping a peer, and show by which path each answer came",
		Long: `Ping PEER until interrupted, from daemon to daemon: bridges and containers have no
part in it. Each answer says how it came:

  direct over T ADDR   both peers sent straight to each other, over the transport T
  relayed via R (T)    the echo left to the relay R first
  back via R (T)       the answer left to the relay R first
  back over T          the answer was sent straight to us, over another transport or
                       where the echo was relayed

Of several relays one after the other the first is shown. A try that is not answered in
time, or has no route, says so and counts as lost.

PEER is a name, nickname or address, and must be meshd. The exit code is 0 if an answer
came, 1 if none did, and 2 if something else is wrong.`,
		Args:              exactly(1),
		ValidArgsFunction: completePeers(connect),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := req.check(); err != nil {
				return usageError{err}
			}
			return ping(cmd, connect(), args[0], req, asJSON)
		},
	}
	f := cmd.Flags()
	f.IntVarP(&req.Count, "count", "c", req.Count, "`N` tries; 0: until interrupted")
	f.Float64VarP(&req.Interval, "interval", "i", req.Interval, fmt.Sprintf("`SECONDS` between tries, at least %g", measure.MinInterval.Seconds()))
	f.IntVarP(&req.Size, "size", "s", req.Size, fmt.Sprintf("`BYTES` of each frame behind its Ethernet header, both ways; at least %d", minPingSize))
	f.Float64VarP(&req.Timeout, "timeout", "W", req.Timeout, "`SECONDS` to wait for an answer")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// pingRequest is the body of /v1/ping. It is answered by a line of JSON, a Pong, for
// each try.
type pingRequest struct {
	Peer     string  `json:"peer"`     // a name
	Count    int     `json:"count"`    // tries; 0: until the client closes the connection
	Interval float64 `json:"interval"` // seconds
	Size     int     `json:"size"`     // bytes of each frame behind its Ethernet header
	Timeout  float64 `json:"timeout"`  // seconds
}

// check says what is wrong with a request, in the words of the command line.
func (r *pingRequest) check() error {
	longest := maxPingTime.Seconds()
	switch {
	case r.Count < 0:
		return fmt.Errorf("--count %d is negative", r.Count)
	case !(r.Interval >= measure.MinInterval.Seconds() && r.Interval <= longest): // not even NaN
		return fmt.Errorf("--interval %g is not from %g to %g seconds", r.Interval, measure.MinInterval.Seconds(), longest)
	case r.Size < minPingSize:
		return fmt.Errorf("--size %d is less than %d bytes", r.Size, minPingSize)
	case !(r.Timeout >= 0.001 && r.Timeout <= longest):
		return fmt.Errorf("--timeout %g is not from 0.001 to %g seconds", r.Timeout, longest)
	}
	return nil
}

func (r *pingRequest) options() measure.PingOptions {
	return measure.PingOptions{Count: r.Count, Interval: inSeconds(r.Interval), Timeout: inSeconds(r.Timeout), Size: r.Size}
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// ping runs until all tries are over, or until it is interrupted, which is a normal end.
func ping(cmd *cobra.Command, c *client, arg string, req pingRequest, asJSON bool) error {
	s, p, err := pingedPeer(cmd.Context(), c, arg)
	if err != nil {
		return exitError{err, exitNoPing}
	}
	req.Peer = p.Name
	view := newPingView(cmd, p.Name, arg, inSeconds(req.Timeout), asJSON)
	view.warned = isMeshd(s, p.Name)
	begun := time.Now()
	err = c.ping(cmd.Context(), req, view.pong)
	if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
		err = nil
	}
	if err != nil && view.tried() == 0 {
		return exitError{err, exitNoPing}
	}
	err = errors.Join(err, view.end(time.Since(begun)))
	switch {
	case err != nil:
		return exitError{err, exitNoPing}
	case view.received() == 0:
		return exitError{errSilent, exitNoAnswer}
	}
	return nil
}

func pingedPeer(ctx context.Context, c *client, arg string) (*Status, *Peer, error) {
	s, err := c.status(ctx)
	if err != nil {
		return nil, nil, err
	}
	p, err := findPeer(s, arg)
	switch {
	case err != nil:
		return nil, nil, err
	case p == nil:
		return nil, nil, fmt.Errorf("no peer has the name, nickname or address %s: `meshd status peers` lists them", arg)
	case p.Name == s.Name:
		return nil, nil, fmt.Errorf("%s is this peer itself: ping another one", arg)
	}
	return s, p, nil
}

// isMeshd reports whether a peer is known to be meshd; of neighbours alone it is known.
func isMeshd(s *Status, name string) bool {
	return slices.ContainsFunc(s.Connections, func(c Connection) bool { return c.Name == name && c.Kind == kindOf(true) })
}

// ping hands over each try when it is over.
func (c *client) ping(ctx context.Context, req pingRequest, pong func(*Pong) error) error {
	patient := *c
	patient.timeout += inSeconds(req.Interval) + inSeconds(req.Timeout)
	tries := 0
	err := patient.stream(ctx, "/v1/ping", req, func(line []byte) error {
		p := new(Pong)
		if err := json.Unmarshal(line, p); err != nil {
			return fmt.Errorf("read the answer of the daemon: %w", err)
		}
		tries++
		return pong(p)
	})
	if err == nil && (req.Count == 0 || tries < req.Count) {
		return c.ended()
	}
	return err
}

// ping answers with the tries as they end; it ends with the connection.
func (a *api) ping(w http.ResponseWriter, r *http.Request) {
	var req pingRequest
	if !readRequest(w, r, &req) {
		return
	}
	peer, err := frame.ParsePeerName(req.Peer)
	if err = errors.Join(err, req.check()); err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	lines := newLineWriter(w)
	err = a.daemon.Ping(ctx, peer, req.options(), func(p Pong) {
		if lines.write(p) != nil {
			cancel() // nobody reads
		}
	})
	switch {
	case err == nil, lines.begun:
	case errors.Is(err, measure.ErrTooManyPings):
		writeError(w, http.StatusConflict, err)
	default:
		writeError(w, http.StatusUnprocessableEntity, err)
	}
}

// lineWriter answers with lines of JSON, each of which is sent at once.
type lineWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	begun   bool
}

func newLineWriter(w http.ResponseWriter) *lineWriter {
	l := &lineWriter{w: w, control: http.NewResponseController(w)}
	l.mayTake(0)
	return l
}

// mayTake bounds the time of the next write; 0: it may come at any time.
func (l *lineWriter) mayTake(d time.Duration) {
	var end time.Time
	if d > 0 {
		end = time.Now().Add(d)
	}
	_ = l.control.SetWriteDeadline(end) // a recorder of tests has none
}

func (l *lineWriter) write(v any) error {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/jsonl")
	}
	l.mayTake(answerTimeout)
	defer l.mayTake(0)
	if err := json.NewEncoder(l.w).Encode(v); err != nil {
		return err
	}
	return l.control.Flush()
}

// Ping pings a peer.
func (d *daemon) Ping(ctx context.Context, peer frame.PeerName, o measure.PingOptions, report func(Pong)) error {
	m, err := d.mesh.Snapshot()
	if err != nil {
		return err
	}
	if err := pingable(m, peer); err != nil {
		return err
	}
	if mtu := d.port.MTU(); o.Size > mtu {
		return fmt.Errorf("frames of %d bytes do not come from the bridge, whose MTU is %d: ask for %d bytes at most", o.Size, mtu, mtu)
	}
	names := nickNames{of: d.nickNames}
	return d.meter.Ping(ctx, peer, o, func(t measure.Try) { report(newPong(t, peer, m.Self.Name, &names)) })
}

// pingable says in words why a peer cannot be pinged. That there is no route to it is no
// reason: there may be one soon.
func pingable(m control.Snapshot, peer frame.PeerName) error {
	if peer == m.Self.Name {
		return fmt.Errorf("%s is this peer itself: ping another one", peer)
	}
	for _, c := range m.Connections {
		if c.Name == peer && !c.Native {
			return fmt.Errorf("%s(%s) is a stock Weave router and answers no pings; ping a container's address instead", peer, clean(c.NickName))
		}
	}
	for _, p := range m.Peers {
		if p.Name == peer {
			return nil
		}
	}
	return fmt.Errorf("no peer has the name %s", peer)
}

// nickNames reads the nicknames of all known peers.
func (d *daemon) nickNames() map[frame.PeerName]string {
	m, _ := d.mesh.Snapshot() // empty when the mesh has just ended
	return nickNamesOf(m)
}

func nickNamesOf(m control.Snapshot) map[frame.PeerName]string {
	names := make(map[frame.PeerName]string, len(m.Peers))
	for _, p := range m.Peers {
		names[p.Name] = clean(p.NickName)
	}
	return names
}
