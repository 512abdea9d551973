// Package control is the weave-compatible control plane: handshake, gossip,
// sessions and the making of connections.
package control

import (
	"net/netip"
	"time"

	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/transport"
)

// Snapshot is the control plane at one moment, for status and report. It shares
// no memory with the mesh.
type Snapshot struct {
	Self           PeerSnapshot
	MinProtocol    int
	MaxProtocol    int
	Encrypted      bool // a password is configured
	Discovery      bool
	Port           int // control port
	ConnLimit      int
	TrustedSubnets []netip.Prefix
	Targets        []TargetSnapshot     // configured ones, in order of configuration
	Peers          []PeerSnapshot       // all known, self included, by name
	Connections    []ConnectionSnapshot // live ones, then attempts
	Unicast        []UnicastRoute       // frames, strict; by destination
	Broadcast      []BroadcastRoute     // frames, strict; by source
	Terminations   uint64               // connections ended since start
	NameClaims     uint64               // refused claims of names of neighbours by other hosts, since start
}

// PeerSnapshot is one entry of the topology.
type PeerSnapshot struct {
	Name        frame.PeerName
	NickName    string
	UID         uint64
	Version     uint64
	ShortID     uint16
	HasShortID  bool
	Connections []PeerConnection
}

// PeerConnection is one connection that a peer says it has.
type PeerConnection struct {
	Name        frame.PeerName
	NickName    string // empty while the peer is only named by others
	Address     string // the other end's control address as that peer sees it
	Carrier     string // that the address is for; a stock router's is CarrierTCP
	Outbound    bool
	Established bool
}

// ConnState is where a connection or an attempt stands, in weave's words.
type ConnState string

// The states of weave protocol section 8.3.
const (
	StateEstablished ConnState = "established"
	StatePending     ConnState = "pending"    // handshake done, no path yet
	StateConnecting  ConnState = "connecting" // dialling or shaking hands
	StateRetrying    ConnState = "retrying"   // failed before, trying now
	StateFailed      ConnState = "failed"     // waits for the next attempt
	StateWaiting     ConnState = "waiting"    // not tried yet
)

// Refusal says which end did not let the other one in.
type Refusal string

// The ends. What they have against each other only an operator can mend.
const (
	RefusedHere  Refusal = "here"
	RefusedThere Refusal = "there"
)

// ConnectionSnapshot is a live connection, or an attempt to make one.
type ConnectionSnapshot struct {
	Address  string // the other end; for an attempt the target's address
	Carrier  string // of the session; of an attempt the only one to be tried, or ""
	Outbound bool
	State    ConnState
	// The rest is set for live connections only.
	Name      frame.PeerName
	NickName  string
	UID       uint64        // of the peer's incarnation
	Native    bool          // the neighbour is meshd
	Version   int           // protocol version
	Encrypted bool          // the control connection is
	Key       *identity.Key // of the neighbour; nil: it showed none
	// Authentication says how it is known who the neighbour is.
	Authentication Authentication
	Since          time.Time
	TCPRTT         time.Duration         // the carrier's; over TCP the kernel's TCP_INFO. 0: unknown
	Paths          []transport.PathStats // most preferred first
	MTU            int                   // of the path in use; 0: unknown
	Transport      string                // overlay name of the path in use; "" while none is up
	// Switches counts how often frames went on over another transport, SwitchReason
	// says why they did last.
	Switches     uint64
	SwitchReason string
	Unsessioned  bool   // the control connection is lost, the path still works
	Rival        *Rival // another host that claims the neighbour's name; nil: there is none
	// For attempts.
	For     frame.PeerName // whom it is to reach; not valid: not known
	Err     string         // why the last attempt failed
	Refused Refusal        // that it was for; "": for another reason
	NextTry time.Time      // zero: never, or now
	Never   bool           // not tried again until `connect`
}

// TargetSnapshot is one configured peer address.
type TargetSnapshot struct {
	Target    string           // as configured
	Addresses []netip.AddrPort // what it resolved to
	Err       string           // why it did not resolve
}

// UnicastRoute says over which neighbour frames to Dest leave; Via is zero for
// ourselves.
type UnicastRoute struct {
	Dest, Via frame.PeerName
}

// BroadcastRoute says to whom a frame flooded by Source is passed on.
type BroadcastRoute struct {
	Source frame.PeerName
	Via    []frame.PeerName
}
