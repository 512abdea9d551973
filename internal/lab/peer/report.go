package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds an answer of the API in bytes.
const maxAnswer = 64 << 20

// Report is what the lab needs of `meshd status --json`.
type Report struct {
	PID         int          `json:"pid"`
	Name        string       `json:"name"`
	NickName    string       `json:"nickname"`
	Problems    []Problem    `json:"problems"`
	Connections []Connection `json:"connections"`
	Peers       []Known      `json:"peers"`
	MACs        []MAC        `json:"macs"`
	Port        Port         `json:"port"`
	Routes      Routes       `json:"routes"`
}

// Problem is one thing that is wrong.
type Problem struct {
	Severity string `json:"severity"`
	Code     string `json:"code"`
	Text     string `json:"text"`
}

// Connection is a live connection to a neighbour or an attempt to make one.
type Connection struct {
	Address   string `json:"address"`
	State     string `json:"state"`
	Name      string `json:"name"`
	NickName  string `json:"nickname"`
	UID       uint64 `json:"uid,string"`
	Carrier   string `json:"carrier"` // what the session rides on
	Transport string `json:"transport"`
	MTU       *int   `json:"mtu"`
	Paths     []Path `json:"paths"`
	Error     string `json:"error"`
}

// Path is one way to a neighbour.
type Path struct {
	Transport string   `json:"transport"`
	Active    bool     `json:"active"`
	Up        bool     `json:"up"`
	Address   string   `json:"address"`
	Encrypted bool     `json:"encrypted"`
	MTU       *int     `json:"mtu"`
	RTT       *float64 `json:"rtt_ms"`
}

// Known is a peer of the topology.
type Known struct {
	Name      string `json:"name"`
	NickName  string `json:"nickname"`
	UID       uint64 `json:"uid,string"`
	Version   uint64 `json:"version"`
	Reachable bool   `json:"reachable"`
}

// MAC is an entry of the MAC table.
type MAC struct {
	MAC  string `json:"mac"`
	Name string `json:"name"`
}

// Port is the peer's end on the bridge.
type Port struct {
	Device string `json:"device"`
	Bridge string `json:"bridge"`
	MTU    *int   `json:"mtu"`
	Joined bool   `json:"joined"`
}

// Routes is where frames go.
type Routes struct {
	Unicast   []UnicastRoute   `json:"unicast"`
	Broadcast []BroadcastRoute `json:"broadcast"`
}

// BroadcastRoute says to whom a frame flooded by Source is passed on.
type BroadcastRoute struct {
	Source string   `json:"source"`
	Via    []string `json:"via"`
}

// UnicastRoute says over which neighbour frames to Dest leave.
type UnicastRoute struct {
	Dest string `json:"dest"`
	Via  string `json:"via"`
}

// Active returns the live connection to a neighbour whose path carries frames.
func (r Report) Active(name string) (Connection, bool) {
	for _, c := range r.Connections {
		if c.Name != name || c.State != "established" {
			continue
		}
		for _, p := range c.Paths {
			if p.Active && p.Up {
				return c, true
			}
		}
	}
	return Connection{}, false
}

// Via returns the neighbour over which frames to a peer leave, "" for none.
func (r Report) Via(dest string) string {
	for _, u := range r.Routes.Unicast {
		if u.Dest == dest {
			return u.Via
		}
	}
	return ""
}

// Reaches reports whether frames to a peer have a route.
func (r Report) Reaches(name string) bool {
	for _, p := range r.Peers {
		if p.Name == name {
			return p.Reachable
		}
	}
	return false
}

// Report reads the peer's state.
func (p *Peer) Report(ctx context.Context) (Report, error) {
	var r Report
	body, err := p.get(ctx, "/v1/report")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("report of %s: %w", p.NickName, err)
	}
	return r, nil
}

func (p *Peer) get(ctx context.Context, path string) ([]byte, error) {
	if _, err := p.Process(); err != nil {
		return nil, fmt.Errorf("%s: %w", p.NickName, err)
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.Socket())
		},
	}}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://meshd"+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", p.NickName, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", p.NickName, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s for %s: %s", p.NickName, path, res.Status)
	}
	return body, nil
}

// Usage is what a peer's program uses.
type Usage struct {
	Goroutines int
	Heap       int64 // bytes of live objects and such that are not yet swept
	RSS        int64 // bytes
}

// Usage reads what the program uses from its metrics and the kernel.
func (p *Peer) Usage(ctx context.Context) (Usage, error) {
	body, err := p.get(ctx, "/metrics")
	if err != nil {
		return Usage{}, err
	}
	goroutines, err1 := metric(body, "go_goroutines")
	heap, err2 := metric(body, "go_memstats_heap_alloc_bytes")
	proc, err3 := p.Process()
	if err := errors.Join(err1, err2, err3); err != nil {
		return Usage{}, fmt.Errorf("usage of %s: %w", p.NickName, err)
	}
	rss, err := proc.RSS()
	return Usage{Goroutines: int(goroutines), Heap: int64(heap), RSS: rss}, err
}

// Metric reads one figure of the peer's metrics: the sum over its labels.
func (p *Peer) Metric(ctx context.Context, name string) (float64, error) {
	body, err := p.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	return sumOf(body, name)
}

// sumOf adds up a metric in Prometheus' text format.
func sumOf(body []byte, name string) (sum float64, err error) {
	found := false
	for line := range strings.Lines(string(body)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:]), 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("no metric %s", name)
	}
	return sum, nil
}

// metric finds a metric without labels in Prometheus' text format.
func metric(body []byte, name string) (float64, error) {
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}
