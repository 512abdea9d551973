package quic

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"meshd/internal/frame"
	"meshd/internal/quicnet"
	"meshd/transport"
)

// Name is the overlay's name in the handshake.
const Name = "quic"

// Config is what a Transport needs to know.
type Config struct {
	// Endpoint makes and takes connections. Its owner runs it.
	Endpoint *quicnet.Endpoint
	// Local is our name.
	Local frame.PeerName
	// Deliver takes the packets that arrive. It is called by one goroutine per
	// path.
	Deliver frame.Handler
	// Log takes changes of paths; nil: nothing is logged.
	Log *slog.Logger
}

// Transport makes paths over QUIC. Its methods may be called concurrently.
type Transport struct {
	endpoint *quicnet.Endpoint
	deliver  frame.Handler
	log      *slog.Logger
	paths    transport.Table[uint64, *path] // by the index that connections are bound by
}

var _ transport.Transport = (*Transport)(nil)

// New makes the transport the endpoint's taker of path streams. The endpoint must
// not run yet.
func New(c Config) (*Transport, error) {
	t := &Transport{
		endpoint: c.Endpoint, deliver: c.Deliver,
		log: cmp.Or(c.Log, slog.New(slog.DiscardHandler)).With("transport", Name),
	}
	switch {
	case t.endpoint == nil:
		return nil, errors.New("quic: there is no endpoint")
	case t.deliver == nil:
		return nil, errors.New("quic: nobody takes the packets that arrive")
	case !c.Local.Valid():
		return nil, fmt.Errorf("quic: our name: %w", frame.ErrPeerName)
	}
	t.endpoint.HandlePaths(t.take)
	return t, nil
}

// Name is "quic".
func (t *Transport) Name() string { return Name }

// Run waits until ctx is done, then returns nil: the endpoint reads.
func (t *Transport) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Open prepares the path of a session. Nothing is sent, and no connection taken,
// before Path.Run.
func (t *Transport) Open(s transport.Session) (transport.Path, error) {
	switch {
	case !s.Remote.Name.Valid():
		return nil, fmt.Errorf("quic: the neighbour's name: %w", frame.ErrPeerName)
	case s.Secret == nil:
		return nil, errors.New("quic: the session has no secret to prove a connection by: the neighbour sent no ephemeral key")
	case s.SendControl == nil || s.Counters == nil || s.Done == nil:
		return nil, errors.New("quic: the session has no control connection or no counters")
	}
	return newPath(t, s), nil
}
