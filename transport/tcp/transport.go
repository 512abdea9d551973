package tcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
)

// Name is the overlay's name in the handshake.
const Name = "tcp"

// Port is the control port, which is shared with sessions.
type Port interface {
	// Handle has take take over the accepted connections that begin with header, which
	// is read and answered with weave's. take blocks until it knows what to do with
	// the connection, or ctx is done. Handle is called before anything is accepted.
	Handle(header [headerLen]byte, take func(ctx context.Context, c net.Conn))
	// Dial opens a connection to a control port.
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

// Config is what a Transport needs to know.
type Config struct {
	// Port makes and takes connections. Its owner runs it.
	Port Port
	// Local is our name.
	Local frame.PeerName
	// MTU is the largest IP packet in bytes that our port on the bridge carries; 0:
	// any.
	MTU int
	// Deliver takes the packets that arrive. It is called by one goroutine per
	// path.
	Deliver frame.Handler
	// Log takes changes of paths; nil: nothing is logged.
	Log *slog.Logger
	// NoAES makes us seal with ChaCha20-Poly1305 even where there is hardware for
	// AES.
	NoAES bool
}

// maxMTU is the largest IP packet in bytes that an item has.
const maxMTU = encap.NativePacketMax - frame.HeaderLen

// Transport makes paths over TCP. Its methods may be called concurrently.
type Transport struct {
	port    Port
	deliver frame.Handler
	log     *slog.Logger
	mtu     int
	can     abilities
	paths   transport.Table[uint64, *path] // by the index that connections are bound by
}

var _ transport.Transport = (*Transport)(nil)

// New makes the transport the port's taker of paths' connections. The port must not
// accept yet.
func New(c Config) (*Transport, error) {
	t := &Transport{
		port: c.Port, deliver: c.Deliver, mtu: maxMTU,
		log: cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("transport", Name),
	}
	switch {
	case t.port == nil:
		return nil, errors.New("tcp: there is no control port")
	case t.deliver == nil:
		return nil, errors.New("tcp: nobody takes the packets that arrive")
	case !c.Local.Valid():
		return nil, fmt.Errorf("tcp: our name: %w", frame.ErrPeerName)
	}
	if c.MTU > 0 {
		t.mtu = min(max(c.MTU, minMTU), maxMTU)
	}
	if !c.NoAES && encap.AESHardware() {
		t.can |= canAES
	}
	t.port.Handle(header, t.takeConn)
	return t, nil
}

// Name is "tcp".
func (t *Transport) Name() string { return Name }

// Run waits until ctx is done, then returns nil: the paths read their connections.
func (t *Transport) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Open prepares the path of a session. Nothing is sent, and no connection taken,
// before Path.Run.
func (t *Transport) Open(s transport.Session) (transport.Path, error) {
	switch {
	case !s.Remote.Name.Valid():
		return nil, fmt.Errorf("tcp: the neighbour's name: %w", frame.ErrPeerName)
	case s.Secret == nil:
		return nil, errors.New("tcp: the session has no secret to prove a connection by: the neighbour sent no ephemeral key")
	case s.SendControl == nil || s.Counters == nil || s.Done == nil:
		return nil, errors.New("tcp: the session has no control connection or no counters")
	}
	return newPath(t, s), nil
}
