package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"

	"meshd/config"
	"meshd/internal/identity"
	"meshd/internal/mux"
	"meshd/internal/quicnet"
	"meshd/internal/udp"
	"meshd/routing/control"
	"meshd/transport/quic"
)

// ports are the UDP ports that transports and carriers share.
//
//	udp.listen ──── shared ──┬── native datagrams: punch
//	                         └── quic: sessions, frames
//	quic.listen ─── more ────────┘
//
//	nat.listen ──── stun: answers STUN, as shared does
type ports struct {
	shared *mux.Mux          // nil: no configured transport uses it
	more   []*mux.Mux        // of quic.listen
	stun   *mux.Mux          // nil: nat.listen is empty, or shared is nil
	quic   *quicnet.Endpoint // nil: shared is
}

// openPorts opens what the configured transports use, or nothing.
func openPorts(cfg config.Config, id *identity.Identity, s *sockets, log *slog.Logger) (p ports, err error) {
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if slices.ContainsFunc(cfg.Transports, transportShares) {
		if p.shared, err = openMux("udp.listen", cfg.UDP.Listen, s, log); err != nil {
			return p, err
		}
	}
	if p.shared != nil && cfg.NAT.Listen != "" {
		if p.stun, err = openMux("nat.listen", cfg.NAT.Listen, s, log); err != nil {
			return p, err
		}
	}
	if p.shared == nil {
		return p, nil
	}
	more := cfg.QUIC.Listen
	if !slices.Contains(cfg.Transports, quic.Name) { // sessions ride on QUIC all the same: behind NATs there is nothing else
		more = nil
	}
	for _, address := range more {
		m, err := openMux("quic.listen", address, s, log)
		if err != nil {
			return p, err
		}
		p.more = append(p.more, m)
	}
	p.quic, err = openQUIC(append([]*mux.Mux{p.shared}, p.more...), id, log)
	return p, err
}

// openMux opens the sockets for [address]:port, which the setting named key has.
func openMux(key, address string, s *sockets, log *slog.Logger) (*mux.Mux, error) {
	conns, err := s.listen(key, address)
	if err != nil {
		return nil, err
	}
	return mux.New(each(conns, func(c *udp.Conn) mux.Socket { return c }), log)
}

// openQUIC makes the QUIC endpoint, which shows the host's key.
func openQUIC(muxes []*mux.Mux, id *identity.Identity, log *slog.Logger) (*quicnet.Endpoint, error) {
	cert, err := id.Certificate()
	if err != nil {
		return nil, fmt.Errorf("make the host's certificate: %w", err)
	}
	reset, err := id.Secret("meshd QUIC stateless reset v1")
	if err != nil {
		return nil, err
	}
	return quicnet.New(quicnet.Config{Muxes: muxes, Certificate: cert, ResetKey: reset, Log: log})
}

// carriers are what sessions ride on: TCP, and QUIC where it is.
func (p ports) carriers(tcp *control.TCP) []control.Carrier {
	if p.quic == nil {
		return []control.Carrier{tcp}
	}
	return []control.Carrier{tcp, p.quic}
}

// quicPort is the port that neighbours find QUIC at; 0: it is not there.
func (p ports) quicPort() uint16 {
	if p.quic == nil {
		return 0
	}
	return p.quic.Port()
}

// muxes are all that are open.
func (p ports) muxes() []*mux.Mux {
	all := append([]*mux.Mux{p.shared, p.stun}, p.more...)
	return slices.DeleteFunc(all, func(m *mux.Mux) bool { return m == nil })
}

// run reads the ports until ctx is done. The QUIC endpoint says goodbye then, and
// needs the sockets to.
func (p ports) run(ctx context.Context, g *errgroup.Group) {
	sockets := ctx
	if p.quic != nil {
		var stop context.CancelFunc
		sockets, stop = context.WithCancel(context.WithoutCancel(ctx))
		g.Go(func() error { defer stop(); return p.quic.Run(ctx) })
	}
	for _, m := range p.muxes() {
		g.Go(func() error { return m.Run(sockets) })
	}
}

// Close closes what run has not.
func (p ports) Close() error {
	var errs []error
	if p.quic != nil {
		errs = append(errs, p.quic.Close())
	}
	for _, m := range p.muxes() {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
