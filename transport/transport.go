// Package transport has the vocabulary that all transports share: what a
// transport and a path are, what a session tells them, and the links that hold
// all paths to one neighbour. It has no implementation of a transport.
//
//	        control plane                         data plane
//	Session ──► Set.Attach ──► Transport.Open     Forwarder
//	                │                │                │ Send, Flush
//	                ▼                ▼                ▼
//	              Link  ◄── State ── Path  ◄───────  Link (best path)
package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"meshd/internal/frame"
	"meshd/internal/pathstate"
)

// ErrNoPath is what Send returns where no path to the neighbour works.
var ErrNoPath = errors.New("no working path to the neighbour")

// TooBigError is what Send returns for a frame that must not be fragmented and
// is larger than the path carries. Paths return one they keep, so that the data
// plane does not allocate.
type TooBigError struct {
	MTU int // largest inner IP packet the path carries, in bytes
}

func (e *TooBigError) Error() string {
	return fmt.Sprintf("frame is larger than the path's MTU of %d bytes", e.MTU)
}

// Sender takes packets for one neighbour. Both methods may be called
// concurrently, and never wait for the neighbour: what cannot be sent is dropped
// and counted.
type Sender interface {
	// Send queues one packet. Its bytes are borrowed for the call. A
	// *TooBigError means that the frame was not sent and its sender should be
	// told; every other outcome is counted and needs no answer.
	Send(p frame.Packet) error
	// Flush sends what is queued. It ends every batch.
	Flush() error
}

// Path is one way to a neighbour over one transport.
type Path interface {
	Sender
	// Run keeps the path alive and measures it until ctx is done (then it
	// returns nil) or the path has failed for good. It calls report from its own
	// goroutine whenever the state changes.
	Run(ctx context.Context, report func(State)) error
	// HandleControl takes an overlay control message of the neighbour, weave
	// protocol section 2.2. msg is borrowed. It does not block.
	HandleControl(tag byte, msg []byte)
}

// Transport makes paths.
type Transport interface {
	// Name is the overlay name in the handshake's Overlays feature.
	Name() string
	// Open prepares a path for a session. Nothing is sent before Path.Run.
	Open(s Session) (Path, error)
	// Run reads the transport's sockets until ctx is done.
	Run(ctx context.Context) error
}

// Peer is one incarnation of a peer.
type Peer struct {
	Name     frame.PeerName
	NickName string
	UID      uint64 // random per process start, never 0
}

// Session is what one control connection negotiated with a neighbour, as far as
// a transport needs it.
type Session struct {
	Local, Remote Peer
	UID           uint64         // connection UID, weave protocol section 1.7
	Dialled       bool           // we opened the control connection
	Stream        net.Conn       // what the session rides on, not to be read or written
	LocalAddr     netip.AddrPort // our end of the control connection
	RemoteAddr    netip.AddrPort // the other end; ephemeral port unless Dialled
	// ControlPort is the neighbour's port of TCP and of sleeve, where that is not
	// RemoteAddr's because the session rides on something else; 0: it is.
	ControlPort uint16
	// Key seals weave's sleeve (section 1.6); nil: plain, by lack of a password
	// or by mutual trust.
	Key *[32]byte
	// Secret is shared by two meshd peers even without a password: the root of
	// native paths' keys (design, section 5). nil towards stock peers.
	Secret *[32]byte
	// Authenticated: both ends proved that they know the mesh's password.
	Authenticated bool
	// Native: the neighbour is meshd and takes our probes.
	Native bool
	// Rests: both ends let idle paths be, with a probe only now and then.
	Rests bool
	// Pace is what is known of how long the way over this transport may be silent; nil:
	// nothing. Set.Attach fills it in.
	Pace *pathstate.Pace
	// SendControl queues an overlay control message on the control connection.
	// It never waits; an error means the connection is gone.
	SendControl func(tag byte, msg []byte) error
	// Done is closed when the control connection is lost. A path that still
	// works may go on; it should find out at once.
	Done <-chan struct{}
	// Counters is where the path counts.
	Counters *Counters
}

// State is what a path reports of itself.
type State struct {
	Up        bool           // frames get through, as far as this side knows
	Doubtful  bool           // Up, but signs of life are overdue: another path is to be preferred
	Unproven  bool           // Up, but nobody has asked lately whether it is
	MTU       int            // largest inner IP packet in bytes; 0: unknown
	RTT       time.Duration  // smoothed; 0: unknown
	MinRTT    time.Duration  // smallest of the last 5 minutes; 0: unknown
	Loss      float64        // share of probes lost lately, 0 to 1; negative: unknown
	Addr      netip.AddrPort // where datagrams go; invalid: unknown
	Encrypted bool
	// Authenticated: only who knows the mesh's password can be at the other end.
	Authenticated bool
	// Handshakes is how often both ends have agreed on this path, 0 until they
	// have: for punch, hellos of both ends from which keys were made; for sleeve,
	// heartbeats of both ends that the other has confirmed; for quic and tcp, connections
	// that both ends have proved to be the session's. Re-making a session
	// makes paths anew, which count for themselves; PathStats adds them up.
	Handshakes uint64
	// Rekeys is how often the keys of this path were changed after the handshake,
	// both directions together: for punch and tcp, the epochs of the sealing and of the
	// opening key. 0 for sleeve, whose keys are those of the session, and for quic,
	// which does not say when it updates keys (RFC 9001, section 6).
	Rekeys uint64
	Why    string // where not Up: what is missing, in words
}

// StateLocked is the state of a path as far as its Watch knows it, whose mutex is held.
// err: why the path has ended; nil: it has not.
func StateLocked(now time.Time, w *pathstate.Watch, err error) State {
	s := State{
		Up: w.Life.Up && err == nil, Doubtful: w.Life.Doubtful(now, w.HeardAt()), Unproven: w.Life.Unproven(now),
		RTT: w.Prober.RTT(), MinRTT: w.Prober.MinRTT(now), Loss: w.Prober.Loss(now),
	}
	if w.PMTU != nil {
		s.MTU = w.PMTU.MTU()
	}
	return s
}
