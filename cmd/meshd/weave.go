package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// The text layouts and the report of weave protocol section 8.3, which scripts
// parse.

// noPeer stands for no peer where weave prints one.
const noPeer = "00:00:00:00:00:00"

// weaveStates is the order in which weave counts states.
var weaveStates = []string{"established", "pending", "retrying", "failed", "connecting", "waiting"}

// weaveReport is the answer to GET /report. Field names and their order are
// weave's.
type weaveReport struct {
	Ready        bool
	Version      string
	VersionCheck weaveVersionCheck
	Router       weaveRouter
	// Subsystems that this daemon does not have; templates may ask for them.
	IPAM   any `json:",omitempty"`
	DNS    any `json:",omitempty"`
	Proxy  any `json:",omitempty"`
	Plugin any `json:",omitempty"`
}

type weaveVersionCheck struct {
	Enabled     bool
	Success     bool
	NewVersion  string
	NextCheckAt time.Time
}

type weaveRouter struct {
	Protocol           string
	ProtocolMinVersion int
	ProtocolMaxVersion int
	Encryption         bool
	PeerDiscovery      bool
	Name               string
	NickName           string
	Port               int
	Peers              []weavePeer
	UnicastRoutes      []weaveUnicastRoute
	BroadcastRoutes    []weaveBroadcastRoute
	Connections        []weaveConnection
	TerminationCount   uint64
	Targets            []string
	OverlayDiagnostics map[string]any
	TrustedSubnets     []string
	Interface          string
	CaptureStats       weaveCaptureStats
	MACs               []weaveMAC
}

type weavePeer struct {
	Name        string
	NickName    string
	UID         uint64
	ShortID     uint16
	Version     uint64
	Connections []weavePeerConnection
}

type weavePeerConnection struct {
	Name        string
	NickName    string
	Address     string
	Outbound    bool
	Established bool
}

type weaveUnicastRoute struct {
	Dest, Via string
}

type weaveBroadcastRoute struct {
	Source string
	Via    []string
}

type weaveConnection struct {
	Address  string
	Outbound bool
	State    string
	Info     string
	Attrs    map[string]any
}

type weaveCaptureStats struct {
	PacketsDropped   uint64
	PacketsIfDropped uint64
	PacketsReceived  uint64
}

type weaveMAC struct {
	Mac      string
	Name     string
	NickName string
	LastSeen time.Time
}

// newWeaveReport makes weave's report of a status.
func newWeaveReport(s *Status) *weaveReport {
	r := weaveRouter{
		Protocol: "weave", ProtocolMinVersion: s.Protocol.Min, ProtocolMaxVersion: s.Protocol.Max,
		Encryption: s.PasswordSet, PeerDiscovery: s.Discovery,
		Name: s.Name, NickName: s.NickName, Port: s.ControlPort,
		Peers:              each(s.Peers, newWeavePeer),
		UnicastRoutes:      each(s.Routes.Unicast, newWeaveUnicastRoute),
		BroadcastRoutes:    each(s.Routes.Broadcast, newWeaveBroadcastRoute),
		Connections:        each(s.Connections, func(c Connection) weaveConnection { return newWeaveConnection(s, &c) }),
		TerminationCount:   s.Terminations,
		Targets:            orNull(each(s.Targets, func(t Target) string { return t.Target })),
		OverlayDiagnostics: map[string]any{},
		TrustedSubnets:     s.TrustedSubnets,
		Interface:          s.Port.Device + " (via tap)",
		CaptureStats:       weaveCaptureStats{PacketsReceived: s.Port.Read.Frames, PacketsDropped: s.Port.Drops["too-big"]},
		MACs: orNull(each(s.MACs, func(m MAC) weaveMAC {
			return weaveMAC{Mac: m.MAC, Name: m.Name, NickName: m.NickName, LastSeen: m.LastSeen}
		})),
	}
	for _, t := range s.Transports {
		r.OverlayDiagnostics[t.Name] = nil
	}
	return &weaveReport{Ready: true, Version: s.Version, Router: r}
}

func newWeavePeer(p Peer) weavePeer {
	v := weavePeer{Name: p.Name, NickName: p.NickName, UID: p.UID, Version: p.Version}
	if p.ShortID != nil {
		v.ShortID = *p.ShortID
	}
	v.Connections = each(p.Connections, func(c PeerConnection) weavePeerConnection {
		return weavePeerConnection{
			Name: c.Name, NickName: c.NickName, Address: withCarrier(c.Carrier, c.Address),
			Outbound: c.Outbound, Established: c.Established,
		}
	})
	return v
}

func newWeaveUnicastRoute(r UnicastRoute) weaveUnicastRoute {
	if r.Via == "" {
		r.Via = noPeer
	}
	return weaveUnicastRoute(r)
}

func newWeaveBroadcastRoute(r BroadcastRoute) weaveBroadcastRoute {
	return weaveBroadcastRoute{Source: r.Source, Via: orNull(r.Via)}
}

func newWeaveConnection(s *Status, c *Connection) weaveConnection {
	w := weaveConnection{Address: withCarrier(c.Carrier, c.Address), Outbound: c.Outbound, State: c.State}
	if !c.live() {
		w.Info = attemptInfo(c)
		return w
	}
	encrypted := pathEncrypted(c)
	overlay := overlayOf(c)
	w.Attrs = map[string]any{"name": overlay}
	if encrypted {
		w.Attrs["encrypted"] = true
	}
	if c.MTU != nil {
		w.Attrs["mtu"] = *c.MTU
	}
	w.Info = fmt.Sprintf("%-6s %s(%s)", overlay, c.Name, c.NickName)
	p := c.activePath()
	switch {
	case encrypted && p != nil && !p.Authenticated:
		w.Info = unauthenticated + " " + w.Info
	case encrypted:
		w.Info = fmt.Sprintf("%-11s %s", "encrypted", w.Info)
	case s.PasswordSet:
		w.Info = fmt.Sprintf("%-11s %s", "unencrypted", w.Info)
	}
	return w
}

// attemptInfo says why an attempt waits, and until when.
func attemptInfo(c *Connection) string {
	switch {
	case c.Error == "":
		return ""
	case c.Never:
		return c.Error + ", retry: never"
	case c.NextTry == nil:
		return c.Error
	}
	return c.Error + ", retry: " + c.NextTry.String()
}

// overlayOf names the transport of the path in use, or of the path that is most
// likely to come up.
func overlayOf(c *Connection) string {
	switch {
	case c.Transport != "":
		return c.Transport
	case len(c.Paths) > 0:
		return c.Paths[0].Transport
	}
	return "none"
}

// pathEncrypted reports whether frames on the connection's path are encrypted;
// while there is no path, whether the control connection is.
func pathEncrypted(c *Connection) bool {
	if p := c.activePath(); p != nil {
		return p.Encrypted
	}
	if len(c.Paths) > 0 {
		return c.Paths[0].Encrypted
	}
	return c.Encrypted
}

// writeWeaveStatus writes GET /status.
func writeWeaveStatus(w io.Writer, r *weaveReport) {
	rt := &r.Router
	fmt.Fprintf(w, "        Version: %s (version check update disabled)\n\n", r.Version)
	fmt.Fprintf(w, "        Service: router\n")
	fmt.Fprintf(w, "       Protocol: %s %s\n", rt.Protocol, versions(rt.ProtocolMinVersion, rt.ProtocolMaxVersion))
	fmt.Fprintf(w, "           Name: %s(%s)\n", rt.Name, rt.NickName)
	fmt.Fprintf(w, "     Encryption: %s\n", onOff(rt.Encryption))
	fmt.Fprintf(w, "  PeerDiscovery: %s\n", onOff(rt.PeerDiscovery))
	fmt.Fprintf(w, "        Targets: %d\n", len(rt.Targets))
	fmt.Fprintf(w, "    Connections: %d%s\n", len(rt.Connections), parenthesized("", connectionCounts(rt.Connections), ""))
	fmt.Fprintf(w, "          Peers: %d%s\n", len(rt.Peers), parenthesized("with ", peerConnectionCounts(rt.Peers), " connections"))
	fmt.Fprintf(w, " TrustedSubnets: %s\n", orNone(rt.TrustedSubnets))
}

// writeWeaveConnections writes GET /status/connections.
func writeWeaveConnections(w io.Writer, r *weaveReport) {
	for _, c := range r.Router.Connections {
		fmt.Fprintf(w, "%s %-21s %-11s %s %s\n", arrow(c.Outbound), c.Address, c.State, c.Info, attributes(c.Attrs))
	}
}

// attributes joins what weave joins, without separator.
func attributes(attrs map[string]any) string {
	var out []string
	for key, value := range attrs {
		if key != "name" {
			out = append(out, fmt.Sprintf("%s=%v", key, value))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// writeWeavePeers writes GET /status/peers.
func writeWeavePeers(w io.Writer, r *weaveReport) {
	for _, p := range r.Router.Peers {
		fmt.Fprintf(w, "%s(%s)\n", p.Name, p.NickName)
		for _, c := range p.Connections {
			fmt.Fprintf(w, "   %s %-21s %-37s %s\n",
				arrow(c.Outbound), c.Address, c.Name+"("+c.NickName+")", establishedWord(c.Established))
		}
	}
}

// writeWeaveTargets writes GET /status/targets.
func writeWeaveTargets(w io.Writer, r *weaveReport) {
	for _, t := range r.Router.Targets {
		fmt.Fprintln(w, t)
	}
}

func connectionCounts(conns []weaveConnection) string {
	counts := map[string]int{}
	for _, c := range conns {
		counts[c.State]++
	}
	return countWords(counts)
}

func peerConnectionCounts(peers []weavePeer) string {
	counts := map[string]int{}
	for _, p := range peers {
		for _, c := range p.Connections {
			counts[establishedWord(c.Established)]++
		}
	}
	return countWords(counts)
}

// countWords says "1 established, 2 failed", "" for none.
func countWords(counts map[string]int) string {
	var out []string
	for _, state := range weaveStates {
		if n := counts[state]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(out, ", ")
}

func parenthesized(before, s, after string) string {
	if s == "" {
		return ""
	}
	return " (" + before + s + after + ")"
}

func versions(low, high int) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d..%d", low, high)
}

func onOff(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

func arrow(outbound bool) string {
	if outbound {
		return "->"
	}
	return "<-"
}

func establishedWord(established bool) string {
	if established {
		return "established"
	}
	return "pending"
}

// orNull returns nil for an empty slice: weave says null where a list is empty.
func orNull[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}
