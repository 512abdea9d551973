package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"meshd/config"
	"meshd/internal/identity"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/routing/measure"
	"meshd/tap"
	"meshd/tap/containers"
	"meshd/transport"
)

// daemon is the running daemon as the API sees it.
type daemon struct {
	opt        runOptions
	started    time.Time
	stop       context.CancelFunc
	mesh       *control.Mesh
	macs       *routing.MACTable
	forwarder  *routing.Forwarder
	port       *tap.Port
	sockets    *sockets
	set        *transport.Set
	meter      *measure.Meter
	stray      transport.Counters
	ports      ports
	identity   *identity.Identity
	pins       *identity.Pins
	policy     *identity.Policy
	containers *containers.Keeper
	memory     memory
	traversal  *traversal // nil: no transport has a socket to find ways for
	notify     notifier

	mu  sync.Mutex // guards cfg and makes reloads one at a time
	cfg config.Config
	// pending are the settings that changed in the file and take a restart.
	pending []string
}

var _ Daemon = (*daemon)(nil)

// Report reads the state of all components.
func (d *daemon) Report() Report {
	cfg := d.config()
	snapshot, _ := d.mesh.Snapshot()      // empty when the mesh has just ended
	wide, weave, _ := d.port.OtherPorts() // none where the bridge is gone, which State says
	offload := d.port.Offload()
	r := Report{
		Version: buildVersion().Version, PID: os.Getpid(), Started: d.started,
		Mesh: snapshot, MACs: slices.Collect(d.macs.All()), MACTable: d.macs.Stats(),
		Forwarder: d.forwarder.Stats(), StrayDrops: d.strayDrops(),
		Port: PortReport{
			Device: d.port.Name(), Bridge: d.port.BridgeName(), Backend: backend(offload), Offload: offload,
			MTU: d.port.MTU(), State: d.port.State(), Stats: d.port.Stats(), Wide: wide, Weave: weave,
		},
		Config:     ConfigReport{File: d.opt.file, HTTP: cfg.API.HTTP, PasswordBits: passwordBits(string(cfg.Password)), NeedRestart: d.needRestart()},
		Containers: d.containers.View(),
		Trust:      TrustReport{Identity: d.identity.Public(), Keys: cfg.Trust.Keys, Stock: cfg.Trust.Stock, Pins: d.pins.All()},
	}
	if d.traversal != nil {
		r.Traversal = d.traversal.report(snapshot.Peers)
	}
	for _, name := range cfg.Transports {
		r.Transports = append(r.Transports, newTransportReport(cfg, name, d.sockets))
	}
	return r
}

// strayDrops are the drops of datagrams before it is known whose they are, by
// reason.
func (d *daemon) strayDrops() map[string]uint64 {
	drops := d.stray.Rx.Stats().Drops
	if d.ports.quic == nil {
		return drops
	}
	if n := d.ports.quic.Dropped(); n > 0 {
		if drops == nil {
			drops = map[string]uint64{}
		}
		drops[transport.DropQueueFull.String()] += n
	}
	return drops
}

// backend names how the port's device was opened.
func backend(o tap.Offload) string {
	if o.On {
		return "offload"
	}
	return "portable"
}

func (d *daemon) config() config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

func (d *daemon) needRestart() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.pending)
}

// Connect adds targets.
func (d *daemon) Connect(targets []string, replace bool) error {
	err := d.mesh.Connect(targets, replace)
	if err == nil {
		d.opt.log.Info("targets added", "targets", targets, "replace", replace)
	}
	return err
}

// Forget removes targets.
func (d *daemon) Forget(targets []string) error {
	err := d.mesh.Forget(targets)
	if err == nil {
		d.opt.log.Info("targets forgotten", "targets", targets)
	}
	return err
}

// Containers keeps what is attached, exposed and published.
func (d *daemon) Containers() *containers.Keeper { return d.containers }

// Stop ends the daemon.
func (d *daemon) Stop() { d.stop() }

// Reload reads the configuration again, applies what can be applied to a running
// daemon and names what cannot. A configuration with a fault changes nothing.
func (d *daemon) Reload() (applied, needRestart []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify.reloading()
	defer func() { d.notify.reloaded(time.Now(), err) }()
	next, err := d.opt.load()
	if err != nil {
		return nil, nil, fmt.Errorf("nothing was changed: %w", err)
	}
	running := d.cfg
	for _, c := range next.Diff(d.cfg) {
		if c.Live {
			applied = append(applied, c.String())
		} else {
			needRestart = append(needRestart, c.String())
		}
	}
	running.Peers, running.Discovery, running.ConnectionLimit = next.Peers, next.Discovery, next.ConnectionLimit
	running.TrustedSubnets, running.MinProtocol, running.LogLevel = next.TrustedSubnets, next.MinProtocol, next.LogLevel
	running.Password, running.OtherPassword, running.Trust = next.Password, next.OtherPassword, next.Trust
	running.Overrides, running.Expose = next.Overrides, next.Expose
	if config.SameTransports(next.Transports, running.Transports) {
		running.Transports = next.Transports
	}
	d.steer(running)
	if err := d.mesh.Apply(settings(running)); err != nil {
		d.steer(d.cfg)
		return nil, nil, fmt.Errorf("nothing was changed: %w", err)
	}
	d.opt.level.Set(next.LogLevel)
	d.containers.Exposer.RouteBetween(next.Expose.RouteBetween)
	d.cfg, d.pending = running, needRestart
	d.opt.log.Info("configuration reloaded", "applied", applied)
	if len(needRestart) > 0 {
		d.opt.log.Warn("changed settings take a restart", "settings", needRestart)
	}
	return applied, needRestart, nil
}

// steer tells whom we trust and what we prefer, before sessions are judged by it.
func (d *daemon) steer(cfg config.Config) {
	d.policy.Set(cfg.Trust.Keys, cfg.Trust.Stock)
	d.set.Prefer(preferences(cfg))
	if d.traversal != nil {
		d.traversal.set(cfg)
	}
}

// reloadLogged is a reload that nobody waits for.
func (d *daemon) reloadLogged() {
	if _, _, err := d.Reload(); err != nil {
		d.opt.log.Error("configuration not reloaded", "err", err)
	}
}
