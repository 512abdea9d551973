package main

import (
	"context"
	"net/netip"
	"time"

	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/internal/udp"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/routing/measure"
	"meshd/tap"
	"meshd/tap/containers"
)

// Daemon is what the local API needs of the running daemon. All methods may be
// called concurrently.
type Daemon interface {
	// Report reads the state of all components.
	Report() Report
	// Connect adds targets (host or host:port); replace drops all others. The
	// error names each target that is no address.
	Connect(targets []string, replace bool) error
	// Forget removes targets; existing connections stay.
	Forget(targets []string) error
	// Reload reads the configuration again. The keys that changed are in applied
	// where the change works already, else in needRestart.
	Reload() (applied, needRestart []string, err error)
	// ForgetKey forgets the key that a peer's name is pinned to.
	ForgetKey(peer frame.PeerName) (identity.Pin, error)
	// UseTransport chooses a transport for a neighbour by hand; empty: takes that
	// back.
	UseTransport(peer frame.PeerName, transport string) error
	// Bench measures the way of frames to a peer, for about d.
	Bench(ctx context.Context, peer frame.PeerName, d time.Duration) (Bench, error)
	// Why says how frames go to a peer, and why so.
	Why(peer frame.PeerName) (Why, error)
	// NAT asks STUN servers what the NATs before us do.
	NAT(ctx context.Context) (NATReport, error)
	// Ping pings a peer and reports each try when it is over, until ctx is done or
	// there were as many as were asked for.
	Ping(ctx context.Context, peer frame.PeerName, o measure.PingOptions, report func(Pong)) error
	// Containers keeps what is attached, exposed and published on this host.
	Containers() *containers.Keeper
	// Stop asks the daemon to end and returns at once.
	Stop()
}

// Report is the state of the daemon at one moment.
type Report struct {
	Version    string
	PID        int
	Started    time.Time
	Mesh       control.Snapshot
	MACs       []routing.MACEntry
	MACTable   routing.MACStats
	Forwarder  routing.Stats
	Port       PortReport
	Transports []TransportReport // in order of preference
	StrayDrops map[string]uint64 // datagrams that belong to no path, by reason
	Config     ConfigReport
	Trust      TrustReport
	Containers containers.View
	Traversal  *TraversalReport // nil: no transport has a socket to find ways for
}

// PortReport is our end on the bridge.
type PortReport struct {
	Device  string
	Bridge  string
	Backend string // how the device was opened, say "offload" or "portable"
	MTU     int    // of the device, bytes
	Offload tap.Offload
	State   tap.State
	Stats   tap.Stats
	Wide    []tap.WidePort // ports of the bridge with a larger MTU
	Weave   string         // the port that a Weave router has on the bridge, "" for none
}

// TransportReport is one transport that is configured.
type TransportReport struct {
	Name    string
	Listen  string // local socket address, "" where it has none
	Sockets []SocketReport
	Problem string // why it makes no paths, in words
}

// SocketReport is a UDP socket.
type SocketReport struct {
	Address netip.AddrPort // that it is bound to
	Offload udp.Offload    // in force now
}

// ConfigReport is what a status says about the configuration.
type ConfigReport struct {
	File         string   // "": no file
	HTTP         string   // address of weave's API, "": off
	PasswordBits float64  // estimated strength; 0: unknown or no password
	NeedRestart  []string // settings that changed in the file since the start, in words
}
