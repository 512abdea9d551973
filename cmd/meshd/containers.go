package main

import (
	"fmt"
	"net"
	"slices"
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
	tcp, udp := guardedPorts(cfg)
	exposer, err := expose.New(expose.Config{Bridge: bridge, TCP: tcp, UDP: udp, RouteBetween: cfg.Expose.RouteBetween, Log: log})
	if err != nil {
		return nil, err
	}
	return containers.Open(containers.Config{
		Bridge: bridge, StateDir: cfg.StateDir, Proc: cfg.Containers.Proc, Exposer: exposer,
		Engines: engine.New(engine.Config{Sockets: cfg.Containers.Sockets, Proc: cfg.Containers.Proc, Log: log}),
		Peer:    d.holder, PortOwner: portOwner, Log: log,
	})
}

// guardedPorts are ours that containers have no business with: one that reached them
// over the bridge could join the mesh, or command it.
func guardedPorts(cfg config.Config) (tcp, udp []uint16) {
	ports := func(listen ...string) (out []uint16) {
		for _, l := range listen {
			_, digits, err := net.SplitHostPort(l)
			n, numErr := strconv.ParseUint(digits, 10, 16)
			if err == nil && numErr == nil && n > 0 && !slices.Contains(out, uint16(n)) {
				out = append(out, uint16(n))
			}
		}
		return out
	}
	return ports(cfg.Listen, cfg.API.HTTP), ports(append([]string{cfg.Listen, cfg.UDP.Listen, cfg.NAT.Listen}, cfg.QUIC.Listen...)...)
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
