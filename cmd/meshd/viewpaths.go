package main

import (
	"time"

	"meshd/transport"
)

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
