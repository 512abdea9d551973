package main

import (
	"fmt"
	"net"
	"strconv"

	"meshd/config"
	"meshd/internal/engine"
	"meshd/internal/frame"
	"meshd/tap/containers"
	"meshd/tap/expose"
)

// openContainers reads what was attached, exposed and published before.
func (d *daemon) openContainers() (*containers.Keeper, error) {
	cfg, log := d.cfg, d.opt.log
	bridge := d.port.BridgeName()
	return containers.Open(containers.Config{
		Bridge: bridge, StateDir: cfg.StateDir, Proc: cfg.Containers.Proc,
		Engines: engine.New(engine.Config{Sockets: cfg.Containers.Sockets, Log: log}),
		Exposer: expose.New(expose.Config{Bridge: bridge, Ports: guardedPorts(cfg), Log: log}),
		Peer:    d.holder, PortOwner: portOwner, Log: log,
	})
}

// guardedPorts are ours that containers have no business with: one that reached them
// over the bridge could join the mesh, or command it.
func guardedPorts(cfg config.Config) (ports []expose.Port) {
	add := func(protocol string, listen ...string) {
		for _, l := range listen {
			_, digits, err := net.SplitHostPort(l)
			number, numErr := strconv.ParseUint(digits, 10, 16)
			if err == nil && numErr == nil && number > 0 {
				ports = append(ports, expose.Port{Protocol: protocol, Number: uint16(number)})
			}
		}
	}
	add("tcp", cfg.Listen, cfg.API.HTTP)
	add("udp", cfg.Listen, cfg.UDP.Listen, cfg.NAT.Listen)
	add("udp", cfg.QUIC.Listen...)
	return ports
}

// holder says behind which peer a MAC is, in words; empty: that is not known.
func (d *daemon) holder(mac frame.MAC) string {
	name, ok := d.macs.Lookup(mac)
	if !ok {
		return ""
	}
	snapshot, err := d.mesh.Snapshot()
	if err != nil {
		return fmt.Sprintf("peer %s", name)
	}
	for _, p := range snapshot.Peers {
		if p.Name == name && p.NickName != "" {
			return fmt.Sprintf("peer %s (%s)", clean(p.NickName), name)
		}
	}
	return fmt.Sprintf("peer %s", name)
}
