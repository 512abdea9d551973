package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"meshd/config"
	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/internal/udp"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/routing/measure"
	"meshd/tap"
	"meshd/transport"
)

// macExpiry is how often MACs that were not seen for long are looked for.
const macExpiry = time.Minute

// runOptions are what `meshd up` hands in beside the configuration.
type runOptions struct {
	file  string                        // configuration file; empty: none
	load  func() (config.Config, error) // reads the configuration again
	level *slog.LevelVar                // of log
	log   *slog.Logger
	pprof bool // profiles on the API socket
}

// run is a daemon's life: it opens everything, runs until ctx is done or
// something fails, and takes back what it made. The way of a frame is
//
//	port.Run ──► forwarder.FromPort ──► Link ──► Path ──► socket
//	port.Write ◄── forwarder.FromLinks ◄── transport.Run ◄── socket
//
// and mesh, the control plane, gives the forwarder its FIB.
func run(ctx context.Context, cfg config.Config, opt runOptions) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	log := opt.log
	for _, w := range cfg.Warnings {
		log.Warn(w)
	}

	if err := tap.Check(); err != nil {
		return err
	}
	if err := checkStateDir(cfg.StateDir); err != nil {
		return err
	}
	lock, err := lockNamespace()
	if err != nil {
		return err
	}
	defer lock.Close()
	name, err := peerName(cfg, log)
	if err != nil {
		return err
	}
	id, policy, pins, err := openTrust(cfg, log)
	if err != nil {
		return err
	}
	api, err := listenSocket(cfg.API.Socket)
	if err != nil {
		return err
	}
	defer api.Close()
	var http net.Listener // weave's API, where it is wanted
	if cfg.API.HTTP != "" {
		if http, err = listenHTTP(cfg.API.HTTP, log); err != nil {
			return fmt.Errorf("%w (api.http; empty: off)", err)
		}
		defer http.Close()
	}
	tcp, err := control.ListenTCP(ctx, cfg.Listen)
	if err != nil {
		return portTaken(err, "listen", cfg.Listen, "tcp")
	}
	defer tcp.Close()
	offload, err := udpOffload(cfg.UDP.Offload, udp.Probe)
	if err != nil {
		return err
	}
	if cfg.UDP.Offload != config.Off && offload.Why != "" {
		log.Warn("UDP offload", "gso", offload.GSO, "gro", offload.GRO, "why", offload.Why)
	}
	port, err := tap.Open(tap.Config{
		Bridge: cfg.Bridge.Name, MTU: cfg.Bridge.MTU, CreateBridge: cfg.Bridge.Create,
		Device: cfg.TAP.Name, Offload: string(cfg.TAP.Offload), PeerName: name, Log: log,
	})
	if err != nil {
		return fmt.Errorf("open the port: %w", err)
	}
	defer func() { err = errors.Join(err, port.Close()) }()

	macs := routing.NewMACTable(routing.MACConfig{Self: name})
	d := &daemon{cfg: cfg, opt: opt, started: time.Now(), stop: stop, macs: macs, port: port, sockets: newSockets(offload, log)}
	d.identity, d.policy, d.pins = id, policy, pins
	d.meter = measure.New(measure.Config{Self: name, Send: d.originate, Tell: d.tellMeter})
	d.forwarder = routing.NewForwarder(routing.Config{Self: name, Port: port, MACs: macs, Local: d.meter.Take, Log: log})
	shared, err := openMux(cfg, d.sockets, log)
	if err != nil {
		return err
	}
	if shared != nil {
		defer shared.Close()
	}
	endpoint, more, err := openQUIC(cfg, id, shared, d.sockets, log)
	if err != nil {
		return err
	}
	carriers, quicPort := []control.Carrier{tcp}, uint16(0)
	if endpoint != nil {
		quicPort, d.quic = endpoint.Port(), endpoint
		defer endpoint.Close()
		defer closeMuxes(more)
		carriers = append(carriers, endpoint)
	}
	transports, err := openTransports(transportDeps{
		cfg: cfg, self: name, deliver: d.forwarder.FromLinks, mux: shared, quic: endpoint, sockets: d.sockets, stray: &d.stray, log: log,
	})
	if err != nil {
		return err
	}
	set := transport.NewSet(func() { d.mesh.LinksChanged() }, transports...)
	set.Prefer(preferences(cfg))
	d.set = set
	memory := newMemory(cfg.StateDir, log)
	d.mesh, err = control.New(control.Config{
		Self: transport.Peer{Name: name, NickName: cfg.Nickname, UID: rand.Uint64N(1<<63) + 1},
		Port: tcp.Port(), Settings: settings(cfg), Set: set, Carriers: carriers, QUICPort: quicPort,
		Identity: id, Trust: policy,
		Refuse: newOverlay(port.BridgeName()).refuse, PublishFIB: d.forwarder.SetFIB,
		Channels:   map[string]func(frame.PeerName, []byte){measure.Channel: d.meter.Told},
		ForgetMACs: func(peers []frame.PeerName) { macs.Forget(peers...) },
		Remembered: memory.load(), Remember: memory.save, Log: log,
	})
	if err != nil {
		closeTransports(transports)
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return port.Run(ctx, d.forwarder.FromPort) })
	sockets, stopSockets := ctx, func() {}
	if endpoint != nil { // it says goodbye, and needs them to
		sockets, stopSockets = context.WithCancel(context.WithoutCancel(ctx))
		g.Go(func() error { defer stopSockets(); return endpoint.Run(ctx) })
	}
	for _, m := range append(more, shared) {
		if m != nil {
			g.Go(func() error { return m.Run(sockets) })
		}
	}
	g.Go(func() error { return set.Run(ctx) })
	g.Go(func() error { return d.mesh.Run(ctx) })
	g.Go(func() error { return d.serve(ctx, api, http) })
	g.Go(func() error { d.housekeep(ctx); return nil })
	g.Go(func() error { memory.run(ctx); return nil })
	g.Go(func() error { pins.Run(ctx); return nil })
	log.Info("meshd is up", "name", name, "nickname", cfg.Nickname, "listen", cfg.Listen,
		"bridge", port.BridgeName(), "device", port.Name(), "mtu", port.MTU(), "encrypted", cfg.Password != "")
	if err := g.Wait(); err != nil {
		return err
	}
	memory.forget()
	log.Info("meshd ends")
	return nil
}

// settings are the parts of the configuration that the mesh takes live.
func settings(cfg config.Config) control.Settings {
	return control.Settings{
		Peers: cfg.Peers, Discovery: cfg.Discovery, ConnLimit: cfg.ConnectionLimit,
		TrustedSubnets: cfg.TrustedSubnets, MinProtocol: cfg.MinProtocol, Passwords: control.Passwords([]byte(cfg.Password), []byte(cfg.OtherPassword)),
	}
}

// openTrust reads who we are and whom we let in.
func openTrust(cfg config.Config, log *slog.Logger) (*identity.Identity, *identity.Policy, *identity.Pins, error) {
	id, made, err := identity.Open(cfg.StateDir)
	if err != nil {
		return nil, nil, nil, err
	}
	if made {
		log.Info("identity made", "key", id.Public(), "state_dir", cfg.StateDir)
	}
	pins, err := identity.OpenPins(cfg.StateDir, log)
	if err != nil {
		return nil, nil, nil, err
	}
	policy := identity.NewPolicy(pins)
	policy.Set(cfg.Trust.Keys, cfg.Trust.Stock)
	return id, policy, pins, nil
}

// peerName is the configured name, or the one that this host keeps.
func peerName(cfg config.Config, log *slog.Logger) (frame.PeerName, error) {
	if cfg.Name != 0 {
		return cfg.Name, nil
	}
	mac, _ := tap.BridgeMAC(cfg.Bridge.Name)
	name, source, err := config.DefaultPeerName(config.NameSources{BridgeMAC: mac, StateDir: cfg.StateDir})
	if err != nil {
		return 0, err
	}
	log.Info("peer name derived", "name", name, "source", source)
	return name, nil
}

// housekeep expires MACs and follows SIGHUP.
func (d *daemon) housekeep(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	tick := time.NewTicker(macExpiry)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			d.macs.Expire(now)
		case <-hup:
			d.reloadLogged()
		}
	}
}

// serve answers the local API, and weave's on TCP where there is a listener for it.
func (d *daemon) serve(ctx context.Context, socket, public net.Listener) error {
	api := newAPI(d, d.opt.log)
	api.pprof = d.opt.pprof
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(ctx, socket, api.local(), d.opt.log) })
	if public != nil {
		g.Go(func() error { return serve(ctx, public, api.public(), d.opt.log) })
	}
	return g.Wait()
}
