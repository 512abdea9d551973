package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	ossignal "os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"meshd/config"
	"meshd/internal/atomicfile"
	"meshd/internal/frame"
	"meshd/internal/identity"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/routing/measure"
	"meshd/routing/signal"
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

// stockOnly is empty but in the binary that integration tests build, by -ldflags, to
// have a peer that speaks the stock protocol only.
var stockOnly string

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
	d := &daemon{cfg: cfg, opt: opt, started: time.Now(), stop: stop, notify: newNotifier(opt.log)}
	who, err := d.prepare()
	if err != nil {
		return err
	}
	defer who.lock.Close()
	in, err := listen(ctx, cfg, opt.log)
	if err != nil {
		return err
	}
	defer in.Close()
	defer func() { err = errors.Join(err, d.leaveHost()) }()
	if err := d.enterHost(who); err != nil {
		return err
	}
	transports, err := d.makeDataPlane(who, in)
	if err != nil {
		return err
	}
	if err := d.makeControlPlane(who, in); err != nil {
		closeTransports(transports)
		return err
	}
	if err := d.runAll(ctx, who, in); err != nil {
		return err
	}
	d.memory.forget()
	opt.log.Info("meshd ends")
	return nil
}

// self is who this daemon is.
type self struct {
	lock io.Closer // that no other daemon runs in this network namespace
	name frame.PeerName
	id   *identity.Identity
}

// prepare checks what can be checked before anything is made, and finds out who we
// are and whom we let in.
func (d *daemon) prepare() (who self, err error) {
	for _, w := range d.cfg.Warnings {
		d.opt.log.Warn(w)
	}
	if err := tap.Check(); err != nil {
		return who, err
	}
	if err := checkStateDir(d.cfg.StateDir); err != nil {
		return who, err
	}
	if err := atomicfile.Tidy(d.cfg.StateDir); err != nil {
		d.opt.log.Debug("files of a crash stay", "dir", d.cfg.StateDir, "err", err)
	}
	lock, err := lockNamespace()
	if err != nil {
		return who, err
	}
	who.lock = lock
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if who.name, err = peerName(d.cfg, d.opt.log); err != nil {
		return who, err
	}
	who.id, d.policy, d.pins, err = openTrust(d.cfg, d.opt.log)
	d.identity = who.id
	return who, err
}

// enterHost makes our port on the bridge, opens UDP ports, and reads what is to be done
// for containers. What it has done when it fails leaveHost takes back.
func (d *daemon) enterHost(who self) (err error) {
	cfg, log := d.cfg, d.opt.log
	if d.sockets, err = openSockets(cfg, log); err != nil {
		return err
	}
	if d.port, err = openPort(cfg, who.name, log); err != nil {
		return err
	}
	if d.ports, err = openPorts(cfg, who.id, d.sockets, log); err != nil {
		return err
	}
	d.containers, err = d.openContainers()
	return err
}

// leaveHost closes what enterHost has opened.
func (d *daemon) leaveHost() (err error) {
	if d.containers != nil {
		err = d.containers.Exposer.Close()
	}
	d.ports.Close()
	if d.port != nil {
		err = errors.Join(err, d.port.Close())
	}
	return err
}

// makeDataPlane makes what frames pass: the forwarder between the port and transports.
func (d *daemon) makeDataPlane(who self, in listeners) ([]transport.Transport, error) {
	log := d.opt.log
	d.macs = routing.NewMACTable(routing.MACConfig{Self: who.name})
	d.meter = measure.New(measure.Config{Self: who.name, Send: d.originate, Way: d.nextHop, Tell: d.tellMeter})
	d.forwarder = routing.NewForwarder(routing.Config{Self: who.name, Port: d.port, MACs: d.macs, Local: d.meter.Take, Log: log})
	transports, err := openTransports(transportDeps{
		cfg: d.cfg, self: who.name, deliver: d.forwarder.FromLinks, mtu: d.port.MTU(), tcp: in.tcp,
		mux: d.ports.shared, quic: d.ports.quic, sockets: d.sockets, stray: &d.stray, log: log,
	})
	if err != nil {
		return nil, err
	}
	d.set = transport.NewSet(func() { d.mesh.LinksChanged() }, transports...)
	d.set.Prefer(preferences(d.cfg))
	return transports, nil
}

// makeControlPlane makes what decides where frames go: the mesh of sessions, and the
// search for direct ways.
func (d *daemon) makeControlPlane(who self, in listeners) (err error) {
	cfg, log := d.cfg, d.opt.log
	d.memory = newMemory(cfg.StateDir, log)
	local := transport.Peer{Name: who.name, NickName: cfg.Nickname, UID: rand.Uint64N(1<<63) + 1}
	refuse := newOverlay(d.port.BridgeName()).refuse
	d.traversal, err = newTraversal(traversalDeps{
		cfg: cfg, self: local, id: who.id, policy: d.policy, ports: d.ports, set: d.set,
		mesh: func() *control.Mesh { return d.mesh }, refuse: refuse, log: log,
	})
	if err != nil {
		return err
	}
	d.mesh, err = control.New(control.Config{
		Self: local,
		Port: in.tcp.Port(), QUICPort: d.ports.quicPort(), Settings: settings(cfg), Set: d.set,
		Carriers: d.ports.carriers(in.tcp), Identity: who.id, Trust: d.policy, Stock: stockOnly != "",
		Refuse: refuse, PublishFIB: d.forwarder.SetFIB,
		Watch: d.watch, Punched: d.punched(), Channels: d.channels(),
		ForgetMACs: func(peers []frame.PeerName) { d.macs.Forget(peers...) },
		Remembered: d.memory.load(), Remember: d.memory.save, Log: log,
	})
	return err
}

// runAll runs everything until ctx is done or something fails.
func (d *daemon) runAll(ctx context.Context, who self, in listeners) error {
	cfg := d.cfg
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.port.Run(ctx, d.forwarder.FromPort) })
	d.ports.run(ctx, g)
	g.Go(func() error { return d.set.Run(ctx) })
	g.Go(func() error { return d.mesh.Run(ctx) })
	if d.traversal != nil {
		d.traversal.run(ctx, g)
	}
	g.Go(func() error { return d.containers.Run(ctx) })
	g.Go(func() error { return d.serve(ctx, in.api, in.http) })
	g.Go(func() error { d.housekeep(ctx); return nil })
	g.Go(func() error { d.memory.run(ctx); return nil })
	g.Go(func() error { d.pins.Run(ctx); return nil })
	g.Go(func() error {
		d.notify.run(ctx, fmt.Sprintf("%s (%s) on bridge %s", who.name, cfg.Nickname, d.port.BridgeName()), func() { d.Report() })
		return nil
	})
	context.AfterFunc(ctx, d.notify.stopping)
	d.opt.log.Info("meshd is up", "name", who.name, "nickname", cfg.Nickname, "listen", cfg.Listen,
		"bridge", d.port.BridgeName(), "device", d.port.Name(), "mtu", d.port.MTU(), "encrypted", cfg.Password != "")
	return g.Wait()
}

// channels are our gossip channels, and who takes what comes on them.
func (d *daemon) channels() map[string]func(frame.PeerName, []byte) {
	out := map[string]func(frame.PeerName, []byte){measure.Channel: d.meter.Told}
	if d.traversal != nil {
		out[signal.Name] = d.traversal.channel.Told
	}
	return out
}

// punched tells to which peers a way is looked for; nil: to none.
func (d *daemon) punched() func(frame.PeerName) bool {
	if d.traversal == nil {
		return nil
	}
	return func(name frame.PeerName) bool {
		_, announced := d.traversal.channel.Find(name)
		return announced
	}
}

// watch hands on what the mesh knows of its peers.
func (d *daemon) watch(peers []control.PeerView) {
	if d.traversal != nil {
		d.traversal.watch(peers)
	}
}

// openPort makes our port on the bridge.
func openPort(cfg config.Config, name frame.PeerName, log *slog.Logger) (*tap.Port, error) {
	port, err := tap.Open(tap.Config{
		Bridge: cfg.Bridge.Name, MTU: cfg.Bridge.MTU, CreateBridge: cfg.Bridge.Create,
		Device: cfg.TAP.Name, Offload: string(cfg.TAP.Offload), PeerName: name, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("open the port: %w", err)
	}
	return port, nil
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
	ossignal.Notify(hup, syscall.SIGHUP)
	defer ossignal.Stop(hup)
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
