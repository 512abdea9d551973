package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"meshd/config"
	"meshd/internal/identity"
	"meshd/internal/mux"
	"meshd/internal/quicnet"
	"meshd/internal/udp"
	"meshd/transport/quic"
)

// openQUIC makes the QUIC endpoint on the shared port and the ports of quic.listen,
// whose muxes are returned for the caller to run. All is nil where the transport is
// not configured.
func openQUIC(cfg config.Config, id *identity.Identity, shared *mux.Mux, s *sockets, log *slog.Logger) (_ *quicnet.Endpoint, more []*mux.Mux, err error) {
	if !slices.Contains(cfg.Transports, quic.Name) {
		return nil, nil, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeMuxes(more))
		}
	}()
	for _, address := range cfg.QUIC.Listen {
		conns, err := s.listen("quic.listen", address)
		if err != nil {
			return nil, more, err
		}
		m, err := mux.New(each(conns, func(c *udp.Conn) mux.Socket { return c }), log)
		if err != nil {
			return nil, more, err
		}
		more = append(more, m)
	}
	cert, err := id.Certificate()
	if err != nil {
		return nil, more, fmt.Errorf("make the host's certificate: %w", err)
	}
	reset, err := id.Secret("meshd QUIC stateless reset v1")
	if err != nil {
		return nil, more, err
	}
	e, err := quicnet.New(quicnet.Config{Muxes: append([]*mux.Mux{shared}, more...), Certificate: cert, ResetKey: reset, Log: log})
	return e, more, err
}

func closeMuxes(ms []*mux.Mux) error {
	var errs []error
	for _, m := range ms {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
