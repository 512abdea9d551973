package main

import (
	"fmt"
	"io"
	"log/slog"

	"meshd/config"
	"meshd/internal/frame"
	"meshd/transport"
	"meshd/transport/sleeve"
)

// transportDeps is what transports are made of.
type transportDeps struct {
	cfg     config.Config
	self    frame.PeerName
	deliver frame.Handler
	stray   *transport.Counters // what no neighbour sent
	log     *slog.Logger
}

// closingTransport is a transport with sockets that must be closed where it is
// opened but never run.
type closingTransport interface {
	transport.Transport
	io.Closer
}

// transportMakers are the transports there are, one line each.
var transportMakers = []struct {
	name string
	open func(d transportDeps) (closingTransport, error)
}{
	{"sleeve", func(d transportDeps) (closingTransport, error) {
		return sleeve.New(sleeve.Config{Listen: d.cfg.Listen, Local: d.self, Deliver: d.deliver, Stray: d.stray, Log: d.log})
	}},
}

// transportNames are the names that a configuration may use.
func transportNames() []string {
	var names []string
	for _, m := range transportMakers {
		names = append(names, m.name)
	}
	return names
}

// openTransports opens the configured transports in their order of preference. On
// error those opened are closed again.
func openTransports(d transportDeps) (open []transport.Transport, err error) {
	for _, name := range d.cfg.Transports {
		for _, m := range transportMakers {
			if m.name != name {
				continue
			}
			t, err := m.open(d)
			if err != nil {
				closeTransports(open)
				return nil, fmt.Errorf("open transport %s: %w", name, err)
			}
			open = append(open, t)
		}
	}
	return open, nil
}

// closeTransports closes the sockets of transports that were not run.
func closeTransports(open []transport.Transport) {
	for _, t := range open {
		if c, ok := t.(io.Closer); ok {
			c.Close()
		}
	}
}
