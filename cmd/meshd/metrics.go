package main

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"meshd/routing"
	"meshd/routing/control"
	"meshd/tap"
	"meshd/transport"
)

// newRegistry has weave's metrics (weave protocol section 8.4) as far as they
// have a meaning here, ours, and those of Go and of the process.
func newRegistry(d Daemon) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		meshCollector{d},
	)
	return reg
}

// meshCollector reads the daemon at each scrape.
type meshCollector struct{ daemon Daemon }

var (
	peerLabels  = []string{"peer", "nickname"}
	pathLabels  = []string{"peer", "nickname", "transport"}
	flowLabels  = []string{"peer", "nickname", "transport", "direction"}
	dropLabels  = []string{"peer", "nickname", "transport", "direction", "reason"}
	weaveLabels = []string{"state", "type", "encryption"}

	descWeaveConnections  = describe("weave_connections", "Number of peer-to-peer connections.", weaveLabels...)
	descWeaveTerminations = describe("weave_connection_terminations_total", "Number of peer-to-peer connections terminated.")

	descInfo          = describe("meshd_info", "Version of the daemon; always 1.", "version", "goversion")
	descPeers         = describe("meshd_peers", "Peers in the topology, this one included.")
	descReachable     = describe("meshd_peers_reachable", "Peers that frames have a route to, this one included.")
	descByPath        = describe("meshd_peers_by_path", "Other peers in the topology, by how frames go to them: direct, relayed or none.", "path")
	descTargets       = describe("meshd_targets", "Configured peer addresses.")
	descProblems      = describe("meshd_problems", "What `meshd status` names first, by severity.", "severity")
	descMACs          = describe("meshd_mac_entries", "Entries of the MAC table.")
	descMACEvents     = describe("meshd_mac_events_total", "What happened to the MAC table.", "event")
	descPortJoined    = describe("meshd_port_joined", "Whether our port is in the bridge.", "device", "bridge")
	descPortMTU       = describe("meshd_port_mtu_bytes", "MTU of our port.", "device", "bridge")
	descPortOffload   = describe("meshd_port_offload", "Whether super-frames cross our port.", "device", "bridge")
	descSocketOffload = describe("meshd_socket_offload", "Whether a socket sends (gso) or reads (gro) runs of datagrams in one piece.", "transport", "address", "kind")
	descPortRepair    = describe("meshd_port_repairs_total", "How often our port was joined to the bridge again.", "device", "bridge")
	descPortDrops     = describe("meshd_port_drops_total", "Frames that our port dropped.", "device", "bridge", "reason")
	descPortFrames    = describe("meshd_port_frames_total", "Frames read from the bridge and written to it.", "device", "bridge", "direction")
	descPortBytes     = describe("meshd_port_bytes_total", "Bytes of frames read from the bridge and written to it.", "device", "bridge", "direction")
	descStrayDrops    = describe("meshd_stray_drops_total", "Datagrams dropped before it was known which path they belong to.", "reason")
	descSTUN          = describe("meshd_stun_messages_total", "STUN messages, by what came of them: answered, or of no use; withheld: not sent.", "result")
	descNameClaims    = describe("meshd_name_claims_refused_total", "What another host, or a former run of it, claimed under the name of a neighbour, and was refused.")
	descSignals       = describe("meshd_signals_refused_total", "Signals of other peers that were of no use, by why.", "reason")
	descFwdFrames     = describe("meshd_forwarder_frames_total", "Frames through the forwarder.", "way")
	descFwdBytes      = describe("meshd_forwarder_bytes_total", "Bytes through the forwarder.", "way")
	descFwdDrops      = describe("meshd_forwarder_drops_total", "Frames that the forwarder dropped.", "reason")

	descNeighbour         = describe("meshd_neighbour_connected_since_seconds", "Unix time at which the neighbour connected.", "peer", "nickname", "kind")
	descSessions          = describe("meshd_sessions", "Sessions with neighbours, by what they ride on.", "carrier")
	descSwitches          = describe("meshd_neighbour_transport_switches_total", "How often frames to the neighbour went on over another transport.", peerLabels...)
	descControlRTT        = describe("meshd_neighbour_control_rtt_seconds", "Round-trip time of the control connection, from what it rides on.", peerLabels...)
	descPathUp            = describe("meshd_path_up", "Whether the path works.", pathLabels...)
	descPathActive        = describe("meshd_path_active", "Whether frames use the path now.", pathLabels...)
	descPathRank          = describe("meshd_path_rank", "Place of the path in the order of preference for the neighbour, from 1.", pathLabels...)
	descPathEncrypted     = describe("meshd_path_encrypted", "Whether frames on the path are encrypted.", pathLabels...)
	descPathAuthenticated = describe("meshd_path_authenticated", "Whether only who knows the password can be at the other end of the path.", pathLabels...)
	descPathMTU           = describe("meshd_path_mtu_bytes", "Largest inner IP packet of the path; absent while unknown.", pathLabels...)
	descPathRTT           = describe("meshd_path_rtt_seconds", "Round-trip time of the path's probes; absent while unknown.", pathLabels...)
	descPathMinRTT        = describe("meshd_path_min_rtt_seconds", "Smallest round-trip time of the path's probes of the last 5 minutes; absent while unknown.", pathLabels...)
	descPathHandshakes    = describe("meshd_path_handshakes_total", "How often both ends agreed on a path over the transport.", pathLabels...)
	descPathRekeys        = describe("meshd_path_rekeys_total", "Changes of the path's keys after handshakes, both directions together.", pathLabels...)
	descPathLoss          = describe("meshd_path_loss_ratio", "Share of probes lost lately; absent while unknown.", pathLabels...)
	descFrames            = describe("meshd_path_frames_total", "Frames on the path.", flowLabels...)
	descBytes             = describe("meshd_path_bytes_total", "Bytes of frames on the path.", flowLabels...)
	descDatagrams         = describe("meshd_path_datagrams_total", "Datagrams on the path.", flowLabels...)
	descDrops             = describe("meshd_path_drops_total", "Frames and datagrams dropped on the path.", dropLabels...)

	allDescs = []*prometheus.Desc{
		descWeaveConnections, descWeaveTerminations, descNameClaims,
		descInfo, descPeers, descReachable, descByPath, descTargets, descProblems, descMACs, descMACEvents,
		descPortJoined, descPortMTU, descPortOffload, descSocketOffload, descPortRepair, descPortDrops, descPortFrames, descPortBytes, descStrayDrops, descSTUN, descSignals, descFwdFrames, descFwdBytes, descFwdDrops,
		descNeighbour, descSessions, descSwitches, descControlRTT, descPathUp, descPathActive, descPathRank, descPathEncrypted, descPathAuthenticated, descPathMTU, descPathRTT, descPathMinRTT, descPathHandshakes, descPathRekeys, descPathLoss,
		descFrames, descBytes, descDatagrams, descDrops,
	}
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (meshCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range allDescs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c meshCollector) Collect(ch chan<- prometheus.Metric) {
	r := c.daemon.Report()
	s := newStatus(r, time.Now())
	m := emitter(ch)
	m.weave(&s)
	m.mesh(&s)
	m.data(&s)
	m.neighbours(&s)
	m.traversal(r.Traversal)
}

type emitter chan<- prometheus.Metric

func (m emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m emitter) counter(d *prometheus.Desc, v uint64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// weave counts connections; as in weave, the established ones are there with 0
// as well.
func (m emitter) weave(s *Status) {
	type key struct{ state, kind, encryption string }
	counts := map[key]int{}
	for _, t := range s.Transports {
		counts[key{"established", t.Name, ""}] = 0
		counts[key{"established", t.Name, "yes"}] = 0
	}
	for i := range s.Connections {
		c := &s.Connections[i]
		k := key{state: c.State, kind: "unknown"}
		if c.live() && overlayOf(c) != "none" {
			k.kind = overlayOf(c)
		}
		if c.live() && pathEncrypted(c) {
			k.encryption = "yes"
		}
		counts[k]++
	}
	for k, n := range counts {
		m.gauge(descWeaveConnections, float64(n), k.state, k.kind, k.encryption)
	}
	m.counter(descWeaveTerminations, s.Terminations)
	m.counter(descNameClaims, s.NameClaims)
}

func (m emitter) mesh(s *Status) {
	m.gauge(descInfo, 1, s.Version, runtime.Version())
	reachable := 0
	for _, p := range s.Peers {
		reachable += toInt(p.Reachable)
	}
	m.gauge(descPeers, float64(len(s.Peers)))
	m.gauge(descReachable, float64(reachable))
	for path, n := range waysByPath(s) {
		m.gauge(descByPath, float64(n), path)
	}
	m.gauge(descTargets, float64(len(s.Targets)))
	bySeverity := map[Severity]int{Error: 0, Warning: 0, Note: 0}
	for _, p := range s.Problems {
		bySeverity[p.Severity]++
	}
	for severity, n := range bySeverity {
		m.gauge(descProblems, float64(n), string(severity))
	}
}

func (m emitter) data(s *Status) {
	m.gauge(descMACs, float64(s.MACTable.Entries))
	m.counter(descMACEvents, s.MACTable.Moves, "move")
	m.counter(descMACEvents, s.MACTable.Conflicts, "conflict")
	m.counter(descMACEvents, s.MACTable.Unlearned, "unlearned")
	m.counter(descMACEvents, s.MACTable.Flapping, "flapping")
	m.gauge(descPortJoined, float64(toInt(s.Port.Joined)), s.Port.Device, s.Port.Bridge)
	m.gauge(descPortOffload, float64(toInt(s.Port.Offload.On)), s.Port.Device, s.Port.Bridge)
	for _, t := range s.Transports {
		for _, so := range t.Sockets {
			m.gauge(descSocketOffload, float64(toInt(so.Offload.GSO)), t.Name, so.Address, "gso")
			m.gauge(descSocketOffload, float64(toInt(so.Offload.GRO)), t.Name, so.Address, "gro")
		}
	}
	if s.Port.MTU != nil {
		m.gauge(descPortMTU, float64(*s.Port.MTU), s.Port.Device, s.Port.Bridge)
	}
	for reason, n := range s.Port.Drops {
		m.counter(descPortDrops, n, s.Port.Device, s.Port.Bridge, reason)
	}
	for direction, n := range map[string]tap.Count{"read": s.Port.Read, "written": s.Port.Written} {
		m.counter(descPortFrames, n.Frames, s.Port.Device, s.Port.Bridge, direction)
		m.counter(descPortBytes, n.Bytes, s.Port.Device, s.Port.Bridge, direction)
	}
	for reason, n := range s.StrayDrops {
		m.counter(descStrayDrops, n, reason)
	}
	m.counter(descPortRepair, s.Port.Repairs, s.Port.Device, s.Port.Bridge)
	f := &s.Forwarder
	for way, n := range map[string]routing.Count{
		"from-port": f.FromPort, "from-links": f.FromLinks, "to-port": f.ToPort, "sent": f.Sent,
		"flooded": f.Flooded, "relayed": f.Relayed, "local": f.Local, "answered": f.Answered,
	} {
		m.counter(descFwdFrames, n.Frames, way)
		m.counter(descFwdBytes, n.Bytes, way)
	}
	for reason, n := range f.Drops {
		m.counter(descFwdDrops, n, reason)
	}
}

// neighbours emits one set of series per neighbour and transport that is used for
// it. While two
// connections to one neighbour exist, the first one counts: a series may be there
// only once.
func (m emitter) neighbours(s *Status) {
	seen := map[string]bool{}
	sessions := map[string]int{control.CarrierTCP: 0, control.CarrierQUIC: 0}
	for i := range s.Connections {
		c := &s.Connections[i]
		if !c.live() || seen[c.Name] {
			continue
		}
		seen[c.Name] = true
		since := 0.0
		if c.Since != nil {
			since = float64(c.Since.UnixMilli()) / 1000
		}
		m.gauge(descNeighbour, since, c.Name, c.NickName, c.Kind)
		m.counter(descSwitches, c.Switches, c.Name, c.NickName)
		if c.Sessioned {
			sessions[c.Carrier]++
		}
		if c.ControlRTT != nil {
			m.gauge(descControlRTT, *c.ControlRTT/1000, c.Name, c.NickName)
		}
		for j := range c.Paths {
			if p := &c.Paths[j]; !p.Unused && !seen[c.Name+p.Transport] {
				seen[c.Name+p.Transport] = true
				m.path(c, p)
			}
		}
	}
	for carrier, n := range sessions {
		m.gauge(descSessions, float64(n), carrier)
	}
}

func (m emitter) path(c *Connection, p *Path) {
	labels := []string{c.Name, c.NickName, p.Transport}
	m.gauge(descPathUp, float64(toInt(p.Up)), labels...)
	m.gauge(descPathActive, float64(toInt(p.Active)), labels...)
	m.gauge(descPathRank, float64(p.Rank), labels...)
	m.gauge(descPathEncrypted, float64(toInt(p.Encrypted)), labels...)
	m.gauge(descPathAuthenticated, float64(toInt(p.Authenticated)), labels...)
	if p.MTU != nil {
		m.gauge(descPathMTU, float64(*p.MTU), labels...)
	}
	if p.RTT != nil && p.RTTSource == "probe" {
		m.gauge(descPathRTT, *p.RTT/1000, labels...)
	}
	if p.MinRTT != nil {
		m.gauge(descPathMinRTT, *p.MinRTT/1000, labels...)
	}
	m.counter(descPathHandshakes, p.Handshakes, labels...)
	m.counter(descPathRekeys, p.Rekeys, labels...)
	if p.Loss != nil {
		m.gauge(descPathLoss, *p.Loss, labels...)
	}
	for direction, f := range map[string]*transport.FlowStats{"tx": &p.Tx, "rx": &p.Rx} {
		m.counter(descFrames, f.Frames, c.Name, c.NickName, p.Transport, direction)
		m.counter(descBytes, f.Bytes, c.Name, c.NickName, p.Transport, direction)
		m.counter(descDatagrams, f.Datagrams, c.Name, c.NickName, p.Transport, direction)
		for reason, n := range f.Drops {
			m.counter(descDrops, n, c.Name, c.NickName, p.Transport, direction, reason)
		}
	}
}

// traversal emits what others asked of us or told us in the search for direct ways.
func (m emitter) traversal(t *TraversalReport) {
	if t == nil {
		return
	}
	m.counter(descSTUN, t.STUN.Answered, "answered")
	m.counter(descSTUN, t.STUN.Malformed, "malformed")
	m.counter(descSTUN, t.STUN.Unasked, "unasked")
	m.counter(descSTUN, t.STUN.Forged, "forged")
	m.counter(descSTUN, t.STUN.Excess, "excess")
	m.counter(descSTUN, t.STUN.Refused, "refused")
	m.counter(descSTUN, t.STUN.Unspent, "withheld")
	m.counter(descSignals, t.Signalling.Forged, "forged")
	m.counter(descSignals, t.Signalling.Replayed, "replayed")
	m.counter(descSignals, t.Signalling.Refused, "refused")
	m.counter(descSignals, t.Signalling.Excess, "excess")
}
