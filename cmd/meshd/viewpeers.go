package main

import (
	"net/netip"
	"time"

	"meshd/internal/frame"
	"meshd/routing/control"
	"meshd/transport"
)

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
	Refused string     `json:"refused,omitempty"` // the attempt was, "here" or "there"
	NextTry *time.Time `json:"next_try,omitempty"`
	Never   bool       `json:"never_retried,omitempty"`
}

// refused reports whether one of the ends does not let the other in: looking for another
// way to it does not help.
func (c *Connection) refused() bool { return c.Refused != "" }

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

func newTarget(t control.TargetSnapshot) Target {
	return Target{Target: clean(t.Target), Addresses: each(t.Addresses, netip.AddrPort.String), Error: clean(t.Err)}
}

func newConnection(c control.ConnectionSnapshot) Connection {
	v := Connection{Address: clean(c.Address), Carrier: c.Carrier, Outbound: c.Outbound, State: string(c.State)}
	if !c.Name.Valid() {
		v.Error, v.Refused, v.NextTry, v.Never = clean(c.Err), string(c.Refused), known(c.NextTry), c.Never
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
