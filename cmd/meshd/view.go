package main

import (
	"net/netip"
	"time"

	"meshd/routing"
	"meshd/tap"
	"meshd/tap/containers"
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
	Weave   string            `json:"weave_port,omitempty"` // of a Weave router, on the bridge
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

func newPort(p PortReport) Port {
	v := Port{
		Device: p.Device, Bridge: p.Bridge, Backend: p.Backend, Offload: p.Offload, MTU: known(p.MTU),
		Joined: p.State.Joined, Since: known(p.State.Since), Repairs: p.State.Repairs,
		Read: p.Stats.Read, Written: p.Stats.Written, Drops: p.Stats.Drops,
		Wide: p.Wide, Weave: p.Weave,
	}
	if !v.Joined {
		v.Problem = clean(p.State.Why)
	}
	return v
}
