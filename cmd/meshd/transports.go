package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"

	"meshd/config"
	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/internal/quicnet"
	"meshd/internal/udp"
	"meshd/routing/control"
	"meshd/transport"
	"meshd/transport/punch"
	"meshd/transport/quic"
	"meshd/transport/sleeve"
	"meshd/transport/tcp"
)

// transportDeps is what transports are made of.
type transportDeps struct {
	cfg     config.Config
	self    frame.PeerName
	deliver frame.Handler
	mtu     int               // of our port on the bridge, in bytes
	tcp     *control.TCP      // the control port
	mux     *mux.Mux          // nil where no configured transport shares it
	quic    *quicnet.Endpoint // nil where quic is not configured
	sockets *sockets
	stray   *transport.Counters // what no neighbour sent
	log     *slog.Logger
}

// place is where a transport speaks.
type place int

const (
	sharedUDP   place = iota // udp.listen, over the mux
	weaveUDP                 // listen
	controlPort              // listen, beside sessions over TCP
)

// transportMakers are the transports there are, one line each, in the order in
// which all peers announce them, whatever they prefer (weave protocol, section 5):
// a new one goes before sleeve.
var transportMakers = []struct {
	name string
	at   place
	open func(d transportDeps) (transport.Transport, error)
}{
	{"punch", sharedUDP, func(d transportDeps) (transport.Transport, error) {
		return punch.New(punch.Config{Mux: d.mux, Local: d.self, Deliver: d.deliver, Stray: d.stray, Log: d.log})
	}},
	{"quic", sharedUDP, func(d transportDeps) (transport.Transport, error) {
		return quic.New(quic.Config{Endpoint: d.quic, Local: d.self, Deliver: d.deliver, Log: d.log})
	}},
	{"tcp", controlPort, func(d transportDeps) (transport.Transport, error) {
		return tcp.New(tcp.Config{Port: d.tcp, Local: d.self, MTU: d.mtu, Deliver: d.deliver, Log: d.log})
	}},
	{"sleeve", weaveUDP, func(d transportDeps) (transport.Transport, error) {
		conns, err := d.sockets.listen("listen", d.cfg.Listen)
		if err != nil {
			return nil, err
		}
		return sleeve.New(sleeve.Config{
			Sockets: each(conns, func(c *udp.Conn) sleeve.PacketConn { return c }),
			Local:   d.self, Deliver: d.deliver, Stray: d.stray, Log: d.log,
		})
	}},
}

// transportIs reports whether a transport speaks at a place.
func transportIs(name string, at place) bool {
	for _, m := range transportMakers {
		if m.name == name {
			return m.at == at
		}
	}
	return false
}

// transportShares reports whether a transport uses the mux.
func transportShares(name string) bool { return transportIs(name, sharedUDP) }

// newTransportReport says where a transport listens, and on which UDP sockets.
func newTransportReport(cfg config.Config, name string, s *sockets) TransportReport {
	r := TransportReport{Name: name, Listen: cfg.Listen}
	if transportShares(name) {
		r.Listen = cfg.UDP.Listen
	}
	if !transportIs(name, controlPort) {
		r.Sockets = s.report(r.Listen)
	}
	return r
}

// transportNames are the names that a configuration may use.
func transportNames() []string {
	var names []string
	for _, m := range transportMakers {
		names = append(names, m.name)
	}
	return names
}

// openTransports opens the configured transports, in the order in which they are
// announced. On error those opened are closed again.
func openTransports(d transportDeps) (open []transport.Transport, err error) {
	for _, m := range transportMakers {
		if !slices.Contains(d.cfg.Transports, m.name) {
			continue
		}
		t, err := m.open(d)
		if err != nil {
			closeTransports(open)
			return nil, fmt.Errorf("open transport %s: %w", m.name, err)
		}
		open = append(open, t)
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
