package punch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/transport"
)

// Name is the overlay's name in the handshake.
const Name = "punch"

// Config is what a Transport needs to know.
type Config struct {
	// Mux has the sockets. Its owner runs it.
	Mux *mux.Mux
	// Local is our name.
	Local frame.PeerName
	// Deliver takes the packets that arrive. It is called by one goroutine per
	// socket.
	Deliver frame.Handler
	// Stray counts the datagrams that belong to no path; nil: they are not counted.
	Stray *transport.Counters
	// Log takes changes of paths; nil: nothing is logged.
	Log *slog.Logger
	// NoAES makes us seal with ChaCha20-Poly1305 even where there is hardware for
	// AES.
	NoAES bool
}

// Transport makes paths of native datagrams. Its methods may be called
// concurrently.
type Transport struct {
	mux     *mux.Mux
	local   frame.PeerName
	deliver frame.Handler
	log     *slog.Logger
	stray   *transport.Counters
	can     abilities
	rekey   rekeying
	paths   transport.Table[uint32, *path] // by the index of the datagrams to them
}

var _ transport.Transport = (*Transport)(nil)

// New makes the transport the mux's handler of native datagrams. The mux must
// not run yet.
func New(c Config) (*Transport, error) {
	t := &Transport{
		mux: c.Mux, local: c.Local, deliver: c.Deliver, log: c.Log, stray: c.Stray,
		rekey: rekeying{after: rekeyAfter, used: rekeyUsed},
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.log = t.log.With("transport", Name)
	if t.stray == nil {
		t.stray = &transport.Counters{}
	}
	switch {
	case t.mux == nil:
		return nil, errors.New("punch: there is no socket")
	case t.deliver == nil:
		return nil, errors.New("punch: nobody takes the packets that arrive")
	case !t.local.Valid():
		return nil, fmt.Errorf("punch: our name: %w", frame.ErrPeerName)
	}
	if !c.NoAES && encap.AESHardware() {
		t.can |= canAES
	}
	t.mux.Handle(mux.Native, t.newReader)
	t.mux.OnTooBig(t.tooBig)
	return t, nil
}

// Name is "punch".
func (t *Transport) Name() string { return Name }

// Run waits until ctx is done, then returns nil: the mux reads the sockets.
func (t *Transport) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Open prepares the path of a session. Nothing is sent, and no datagram taken,
// before Path.Run.
func (t *Transport) Open(s transport.Session) (transport.Path, error) {
	switch {
	case !s.Remote.Name.Valid():
		return nil, fmt.Errorf("punch: the neighbour's name: %w", frame.ErrPeerName)
	case s.Secret == nil:
		return nil, errors.New("punch: the session has no secret to derive keys from: the neighbour sent no ephemeral key")
	case s.SendControl == nil || s.Counters == nil || s.Done == nil:
		return nil, errors.New("punch: the session has no control connection or no counters")
	}
	return newPath(t, s), nil
}

// tooBig passes on a hint, which may be forged, about the MTU of a way.
func (t *Transport) tooBig(dst netip.AddrPort, _ int) {
	now := time.Now()
	for _, p := range t.paths.All() {
		p.hint(now, dst)
	}
}
