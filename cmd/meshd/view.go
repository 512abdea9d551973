package main

import (
	"net/netip"
	"strings"
	"time"
	"unicode"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/tap"
	"meshd/tap/containers"
	"meshd/transport"
)

// Status is what users see of the daemon; its JSON is the schema of --json and
// of GET /v1/report. Field names are stable. A figure that is not known is null.
type Status struct {
	Version        string          `json:"version"`
	PID            int             `json:"pid"`
	Started        time.Time       `json:"started"`
	Now            time.Time       `json:"now"`
	Problems       []Problem       `json:"problems"`
	Name           string          `json:"name"`
	NickName       string          `json:"nickname"`
	Protocol       ProtocolRange   `json:"protocol"`
	ControlPort    int             `json:"control_port"`
	PasswordSet    bool            `json:"password_set"`
	Identity       string          `json:"identity"` // our public key
	Trust          TrustView       `json:"trust"`
	Discovery      bool            `json:"discovery"`
	ConnLimit      int             `json:"connection_limit"`
	TrustedSubnets []string        `json:"trusted_subnets"`
	ConfigFile     string          `json:"config_file,omitempty"`
	Targets        []Target        `json:"targets"`
	Connections    []Connection    `json:"connections"`
	Terminations   uint64          `json:"connections_terminated"`
	NameClaims     uint64          `json:"name_claims_refused"`
	Peers          []Peer          `json:"peers"`
	Ways           []Way           `json:"ways"`
	Routes         Routes          `json:"routes"`
	MACs           []MAC           `json:"macs"`
	MACTable       MACTable        `json:"mac_table"`
	Forwarder      routing.Stats   `json:"forwarder"`
	Port           Port            `json:"port"`
	Transports     []TransportView `json:"transports"`
	Containers     containers.View `json:"containers"`
	// StrayDrops counts datagrams that belong to no path, by reason.
	StrayDrops map[string]uint64 `json:"stray_drops,omitempty"`
}

// ProtocolRange is the range of weave protocol versions that we speak.
type ProtocolRange struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// Target is a configured peer address.
type Target struct {
	Target    string   `json:"target"`
	Addresses []string `json:"addresses"`
	Error     string   `json:"error,omitempty"` // why it does not resolve
}

// Connection is a live connection to a neighbour, or an attempt to make one.
type Connection struct {
	Address  string `json:"address"`
	Carrier  string `json:"carrier,omitempty"` // of the session: tcp or quic
	Outbound bool   `json:"outbound"`
	State    string `json:"state"` // in weave's words

	Name      string `json:"name,omitempty"`
	NickName  string `json:"nickname,omitempty"`
	UID       uint64 `json:"uid,string,omitempty"`
	Kind      string `json:"kind,omitempty"` // meshd or weave
	Protocol  int    `json:"protocol,omitempty"`
	Encrypted bool   `json:"control_encrypted"`
	Key       string `json:"key,omitempty"` // of the neighbour, which has proved that it holds it
	// Authentication says how it is known who the neighbour is: "trusted key",
	// "password", or "" for not at all.
	Authentication string     `json:"authentication,omitempty"`
	Since          *time.Time `json:"since,omitempty"`
	Sessioned      bool       `json:"control_connected"`
	ControlRTT     *float64   `json:"control_rtt_ms"`
	Transport      string     `json:"transport,omitempty"` // of the path in use
	MTU            *int       `json:"mtu"`
	// Switches counts how often frames went on over another transport.
	Switches     uint64 `json:"transport_switches"`
	SwitchReason string `json:"transport_switch_reason,omitempty"` // of the last one
	Paths        []Path `json:"paths,omitempty"`

	// Rival is another host that claims the neighbour's name.
	Rival *Rival `json:"name_claimed_by,omitempty"`
	// For is the peer that an attempt is for, where it is known.
	For     string     `json:"for,omitempty"`
	Error   string     `json:"error,omitempty"`
	NextTry *time.Time `json:"next_try,omitempty"`
	Never   bool       `json:"never_retried,omitempty"`
}

// Rival is another host that claims the peer name of a neighbour, and is refused.
type Rival struct {
	NickName string    `json:"nickname"`
	UID      uint64    `json:"uid,string"`
	Address  string    `json:"address,omitempty"` // where it connected from
	Via      string    `json:"via,omitempty"`     // the neighbour that tells of it, by its nickname
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
}

// newRival is the view of r; nil: there is none.
func newRival(r *control.Rival) *Rival {
	if r == nil {
		return nil
	}
	v := &Rival{NickName: clean(r.NickName), UID: r.UID, Via: clean(r.Via), First: r.First, Last: r.Last}
	if r.Addr.IsValid() {
		v.Address = r.Addr.String()
	}
	return v
}

// Path is one way to a neighbour.
type Path struct {
	Transport string `json:"transport"`
	Active    bool   `json:"active"`
	Up        bool   `json:"up"`
	Why       string `json:"why,omitempty"` // what is missing, where not up
	Address   string `json:"address,omitempty"`
	Encrypted bool   `json:"encrypted"`
	// Authenticated: only who knows the password can be at the other end.
	Authenticated bool     `json:"authenticated"`
	MTU           *int     `json:"mtu"`
	RTT           *float64 `json:"rtt_ms"`               // smoothed
	MinRTT        *float64 `json:"min_rtt_ms"`           // of the last 5 minutes
	RTTSource     string   `json:"rtt_source,omitempty"` // probe or tcp_info
	Loss          *float64 `json:"loss"`                 // 0 to 1
	// Rank is the place in the order of preference for this neighbour, from 1; 0: the
	// transport is not used for it.
	Rank   int  `json:"rank"`
	Pinned bool `json:"pinned"` // chosen by hand
	Unused bool `json:"unused"` // one end's overrides leave it out for the other
	Lossy  bool `json:"lossy"`  // up, but loses too much to be preferred
	// Since is when frames came to use it, where Active. HealthySince is since when it
	// is up and not lossy. TakesOver is when it becomes active if it stays so.
	Since        *time.Time          `json:"active_since"`
	HealthySince *time.Time          `json:"healthy_since"`
	TakesOver    *time.Time          `json:"takes_over_at"`
	Tx           transport.FlowStats `json:"tx"`
	Rx           transport.FlowStats `json:"rx"`
	TxRate       *transport.Rate     `json:"tx_rate"` // over the last one to two seconds
	RxRate       *transport.Rate     `json:"rx_rate"`
	Handshakes   uint64              `json:"handshakes"` // over all sessions since the neighbour is here
	Rekeys       uint64              `json:"rekeys"`     // changes of keys after them, both directions
}

// Peer is one entry of the topology.
type Peer struct {
	Name        string           `json:"name"`
	NickName    string           `json:"nickname"`
	UID         uint64           `json:"uid,string"`
	Version     uint64           `json:"version"`
	ShortID     *uint16          `json:"short_id"`
	Reachable   bool             `json:"reachable"` // frames have a route
	Connections []PeerConnection `json:"connections"`
}

// PeerConnection is a connection that a peer says it has.
type PeerConnection struct {
	Name        string `json:"name"`
	NickName    string `json:"nickname"`
	Address     string `json:"address"`
	Carrier     string `json:"carrier,omitempty"`
	Outbound    bool   `json:"outbound"`
	Established bool   `json:"established"`
}

// Routes is what the forwarder goes by.
type Routes struct {
	Unicast   []UnicastRoute   `json:"unicast"`
	Broadcast []BroadcastRoute `json:"broadcast"`
}

// UnicastRoute says over which neighbour frames to Dest leave; Via is empty for
// ourselves.
type UnicastRoute struct {
	Dest string `json:"dest"`
	Via  string `json:"via"`
}

// BroadcastRoute says to whom a frame flooded by Source is passed on.
type BroadcastRoute struct {
	Source string   `json:"source"`
	Via    []string `json:"via"`
}

// MAC is an entry of the MAC table.
type MAC struct {
	MAC      string    `json:"mac"`
	Name     string    `json:"name"`
	NickName string    `json:"nickname"`
	LastSeen time.Time `json:"last_seen"`
	Flapping bool      `json:"flapping,omitempty"` // moves between peers again and again
}

// MACTable counts what happened to the MAC table since the start.
type MACTable struct {
	Entries   int    `json:"entries"`
	Moves     uint64 `json:"moves"`     // addresses that moved to another peer
	Conflicts uint64 `json:"conflicts"` // frames dropped because their address is held elsewhere
	Unlearned uint64 `json:"unlearned"` // frames whose address was not learned
	Flapping  uint64 `json:"flapping"`  // addresses that began to flap
}

// Port is our end on the bridge.
type Port struct {
	Device  string            `json:"device"`
	Bridge  string            `json:"bridge"`
	Backend string            `json:"backend,omitempty"`
	Offload tap.Offload       `json:"offload"`
	MTU     *int              `json:"mtu"`
	Joined  bool              `json:"joined"`
	Problem string            `json:"problem,omitempty"` // why not joined
	Since   *time.Time        `json:"since"`             // of joined or not
	Repairs uint64            `json:"repairs"`           // how often it was joined again
	Read    tap.Count         `json:"read"`              // from the bridge
	Written tap.Count         `json:"written"`           // to the bridge
	Drops   map[string]uint64 `json:"drops,omitempty"`
	Wide    []tap.WidePort    `json:"wide_ports,omitempty"` // ports of the bridge with a larger MTU
}

// TransportView is one transport that is configured.
type TransportView struct {
	Order   int      `json:"order"` // 1 is the most preferred
	Name    string   `json:"name"`
	Listen  string   `json:"listen,omitempty"`
	Sockets []Socket `json:"sockets"`
	// Paths counts all paths over the transport; of those Up work, of which
	// Encrypted and Authenticated are, and InUse carry frames now.
	Paths         int `json:"paths"`
	Up            int `json:"up"`
	Encrypted     int `json:"encrypted"`
	Authenticated int `json:"authenticated"`
	InUse         int `json:"in_use"`
	// Tx and Rx add up the paths that there are now; rates are unknown while all
	// of theirs are.
	Tx         transport.FlowStats `json:"tx"`
	Rx         transport.FlowStats `json:"rx"`
	TxRate     *transport.Rate     `json:"tx_rate"`
	RxRate     *transport.Rate     `json:"rx_rate"`
	TxBytes    uint64              `json:"tx_bytes"` // as tx.bytes
	RxBytes    uint64              `json:"rx_bytes"`
	Handshakes uint64              `json:"handshakes"`
	Rekeys     uint64              `json:"rekeys"`
	Problem    string              `json:"problem,omitempty"`
}

// Socket is a UDP socket of a transport.
type Socket struct {
	Address string        `json:"address"`
	Offload SocketOffload `json:"offload"`
}

// SocketOffload says what a socket leaves to the kernel: sending (gso) and reading
// (gro) runs of datagrams in one piece.
type SocketOffload struct {
	GSO bool   `json:"gso"`
	GRO bool   `json:"gro"`
	Why string `json:"why,omitempty"` // where one of them is off
}

// newStatus makes the view of r as of now.
func newStatus(r Report, now time.Time) Status {
	m := r.Mesh
	s := Status{
		Version: r.Version, PID: r.PID, Started: r.Started, Now: now,
		Name: m.Self.Name.String(), NickName: clean(m.Self.NickName),
		Protocol:    ProtocolRange{Min: m.MinProtocol, Max: m.MaxProtocol},
		ControlPort: m.Port, PasswordSet: m.Encrypted, Discovery: m.Discovery, ConnLimit: m.ConnLimit,
		Identity: r.Trust.Identity.String(), Trust: newTrustView(r.Trust), Containers: r.Containers,
		TrustedSubnets: each(m.TrustedSubnets, netip.Prefix.String),
		ConfigFile:     r.Config.File,
		Targets:        each(m.Targets, newTarget),
		Connections:    each(m.Connections, newConnection),
		Terminations:   m.Terminations, NameClaims: m.NameClaims,
		Peers: newPeers(m),
		Routes: Routes{
			Unicast:   each(m.Unicast, newUnicastRoute),
			Broadcast: each(m.Broadcast, newBroadcastRoute),
		},
		MACTable:  MACTable(r.MACTable),
		Forwarder: r.Forwarder,
		Port:      newPort(r.Port), StrayDrops: r.StrayDrops,
	}
	s.Transports = newTransports(r.Transports, s.Connections)
	s.MACs = newMACs(r, s.Peers)
	s.Ways = newWays(&s, &r)
	s.Problems = problems(&s, r.Config)
	return s
}

func newTarget(t control.TargetSnapshot) Target {
	return Target{Target: clean(t.Target), Addresses: each(t.Addresses, netip.AddrPort.String), Error: clean(t.Err)}
}

func newConnection(c control.ConnectionSnapshot) Connection {
	v := Connection{Address: clean(c.Address), Carrier: c.Carrier, Outbound: c.Outbound, State: string(c.State)}
	if !c.Name.Valid() {
		v.Error, v.NextTry, v.Never = clean(c.Err), known(c.NextTry), c.Never
		if c.For.Valid() {
			v.For = c.For.String()
		}
		return v
	}
	v.Name, v.NickName, v.UID = c.Name.String(), clean(c.NickName), c.UID
	v.Kind = kindOf(c.Native)
	v.Protocol, v.Encrypted, v.Since = c.Version, c.Encrypted, known(c.Since)
	v.Sessioned = !c.Unsessioned
	v.Authentication = string(c.Authentication)
	if c.Key != nil {
		v.Key = c.Key.String()
	}
	v.Rival = newRival(c.Rival)
	v.ControlRTT = milliseconds(c.TCPRTT)
	v.Transport, v.MTU = c.Transport, known(c.MTU)
	v.Switches, v.SwitchReason = c.Switches, clean(c.SwitchReason)
	v.Paths = each(c.Paths, func(p transport.PathStats) Path { return newPath(p, c.Native, c.TCPRTT) })
	return v
}

// newPath takes the control connection's round-trip time for a path to a stock
// router that has none: such routers do not answer probes.
func newPath(p transport.PathStats, native bool, tcpRTT time.Duration) Path {
	st := p.State
	v := Path{
		Transport: p.Transport, Active: p.Active, Up: st.Up, Encrypted: st.Encrypted, Authenticated: st.Authenticated,
		MTU: known(st.MTU), MinRTT: milliseconds(st.MinRTT), Tx: p.Tx, Rx: p.Rx, TxRate: p.TxRate, RxRate: p.RxRate,
		Handshakes: p.Handshakes, Rekeys: p.Rekeys,
		Rank: p.Rank, Pinned: p.Pinned, Unused: p.Unused, Lossy: p.Lossy,
		Since: known(p.Since), HealthySince: known(p.HealthySince), TakesOver: known(p.TakesOver),
	}
	if !st.Up {
		v.Why = clean(st.Why)
	}
	if st.Addr.IsValid() {
		v.Address = st.Addr.String()
	}
	if st.Loss >= 0 {
		v.Loss = &st.Loss
	}
	switch {
	case st.RTT > 0:
		v.RTT, v.RTTSource = milliseconds(st.RTT), "probe"
	case !native && tcpRTT > 0:
		v.RTT, v.RTTSource = milliseconds(tcpRTT), "tcp_info"
	}
	return v
}

func newPeers(m control.Snapshot) []Peer {
	routed := map[frame.PeerName]bool{m.Self.Name: true}
	for _, r := range m.Unicast {
		routed[r.Dest] = true
	}
	return each(m.Peers, func(p control.PeerSnapshot) Peer {
		v := Peer{
			Name: p.Name.String(), NickName: clean(p.NickName), UID: p.UID, Version: p.Version,
			Reachable: routed[p.Name],
			Connections: each(p.Connections, func(c control.PeerConnection) PeerConnection {
				return PeerConnection{
					Name: c.Name.String(), NickName: clean(c.NickName), Address: clean(c.Address), Carrier: c.Carrier,
					Outbound: c.Outbound, Established: c.Established,
				}
			}),
		}
		if p.HasShortID {
			v.ShortID = &p.ShortID
		}
		return v
	})
}

func newUnicastRoute(r control.UnicastRoute) UnicastRoute {
	v := UnicastRoute{Dest: r.Dest.String()}
	if r.Via.Valid() {
		v.Via = r.Via.String()
	}
	return v
}

func newBroadcastRoute(r control.BroadcastRoute) BroadcastRoute {
	return BroadcastRoute{Source: r.Source.String(), Via: each(r.Via, frame.PeerName.String)}
}

func newMACs(r Report, peers []Peer) []MAC {
	nick := make(map[string]string, len(peers))
	for _, p := range peers {
		nick[p.Name] = p.NickName
	}
	out := make([]MAC, 0, len(r.MACs))
	for _, e := range r.MACs {
		name := e.Peer.String()
		out = append(out, MAC{MAC: e.MAC.String(), Name: name, NickName: nick[name], LastSeen: e.LastSeen, Flapping: e.Flapping})
	}
	return out
}

func newPort(p PortReport) Port {
	v := Port{
		Device: p.Device, Bridge: p.Bridge, Backend: p.Backend, Offload: p.Offload, MTU: known(p.MTU),
		Joined: p.State.Joined, Since: known(p.State.Since), Repairs: p.State.Repairs,
		Read: p.Stats.Read, Written: p.Stats.Written, Drops: p.Stats.Drops,
		Wide: p.Wide,
	}
	if !v.Joined {
		v.Problem = clean(p.State.Why)
	}
	return v
}

// newTransports counts what each transport's paths do.
func newTransports(reports []TransportReport, conns []Connection) []TransportView {
	out := make([]TransportView, 0, len(reports))
	for i, t := range reports {
		v := TransportView{
			Order: i + 1, Name: t.Name, Listen: t.Listen, Problem: clean(t.Problem),
			Sockets: each(t.Sockets, func(s SocketReport) Socket {
				return Socket{Address: s.Address.String(), Offload: SocketOffload(s.Offload)}
			}),
		}
		for j := range conns {
			for k := range conns[j].Paths {
				if p := &conns[j].Paths[k]; p.Transport == t.Name {
					v.count(p)
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// count adds one path.
func (v *TransportView) count(p *Path) {
	v.Paths++
	v.Up += toInt(p.Up)
	v.Encrypted += toInt(p.Up && p.Encrypted)
	v.Authenticated += toInt(p.Up && p.Authenticated)
	v.InUse += toInt(p.Active)
	v.Tx, v.Rx = sumFlows(v.Tx, p.Tx), sumFlows(v.Rx, p.Rx)
	v.TxRate, v.RxRate = sumRates(v.TxRate, p.TxRate), sumRates(v.RxRate, p.RxRate)
	v.TxBytes, v.RxBytes = v.Tx.Bytes, v.Rx.Bytes
	v.Handshakes, v.Rekeys = v.Handshakes+p.Handshakes, v.Rekeys+p.Rekeys
}

// kindOf names the software of a neighbour.
func kindOf(native bool) string {
	if native {
		return "meshd"
	}
	return "weave"
}

// live reports whether c is a connection, not an attempt.
func (c *Connection) live() bool { return c.Name != "" }

// activePath returns the path in use, nil while there is none.
func (c *Connection) activePath() *Path {
	for i := range c.Paths {
		if c.Paths[i].Active {
			return &c.Paths[i]
		}
	}
	return nil
}

// known returns nil for the zero value, which stands for not known.
func known[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

func milliseconds(d time.Duration) *float64 {
	if d <= 0 {
		return nil
	}
	ms := float64(d) / float64(time.Millisecond)
	return &ms
}

// each maps a slice; the result is never nil, so that JSON has [] and not null.
func each[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}

// maxText bounds texts that come from other peers, in bytes.
const maxText = 1024

// clean makes a text of another peer fit to print: no control characters (they
// steer terminals), valid UTF-8 (metrics refuse the rest), bounded.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}
