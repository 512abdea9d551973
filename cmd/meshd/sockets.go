package main

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"meshd/config"
	"meshd/internal/udp"
)

// errNoUDPOffload says that udp.offload is on and the canary failed.
var errNoUDPOffload = errors.New("set udp.offload to auto or off")

// udpOffload is what the sockets are to leave to the kernel. probe, which sends
// through loopback, is asked unless that is switched off.
func udpOffload(s config.Switch, probe func() udp.Offload) (udp.Offload, error) {
	if s == config.Off {
		return udp.Offload{Why: "off by udp.offload"}, nil
	}
	o := probe()
	if s == config.On && !(o.GSO && o.GRO) {
		return o, fmt.Errorf("the kernel cannot send and read runs of datagrams in one piece (%s): %w", o.Why, errNoUDPOffload)
	}
	return o, nil
}

// openSockets finds out what the kernel can do for UDP. It opens nothing yet.
func openSockets(cfg config.Config, log *slog.Logger) (*sockets, error) {
	offload, err := udpOffload(cfg.UDP.Offload, udp.Probe)
	if err != nil {
		return nil, err
	}
	if cfg.UDP.Offload != config.Off && offload.Why != "" {
		log.Warn("UDP offload", "gso", offload.GSO, "gro", offload.GRO, "why", offload.Why)
	}
	return newSockets(offload, log), nil
}

// sockets are the UDP sockets of this daemon: transports open theirs here, so that
// a status can show what they leave to the kernel.
type sockets struct {
	offload udp.Offload
	log     *slog.Logger

	mu   sync.Mutex // guards open
	open map[string][]*udp.Conn
}

func newSockets(o udp.Offload, log *slog.Logger) *sockets {
	return &sockets{offload: o, log: log, open: map[string][]*udp.Conn{}}
}

// listen opens the sockets for [address]:port, which the setting named key has. The
// caller closes them.
func (s *sockets) listen(key, address string) ([]*udp.Conn, error) {
	conns, err := udp.ListenPort(address, s.offload)
	if err != nil {
		return nil, portTaken(err, key, address, "udp")
	}
	for _, c := range conns {
		c.OnOffload(func(o udp.Offload) {
			s.log.Warn("the socket's offload has changed", "addr", c.LocalAddr(), "gso", o.GSO, "gro", o.GRO, "why", o.Why)
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[address] = conns
	return conns, nil
}

// report describes the sockets that were opened for an address.
func (s *sockets) report(address string) []SocketReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	return each(s.open[address], func(c *udp.Conn) SocketReport {
		return SocketReport{Address: c.LocalAddr(), Offload: c.Offload()}
	})
}
