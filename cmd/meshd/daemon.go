package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"meshd/config"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/tap"
	"meshd/transport"
)

// daemon is the running daemon as the API sees it.
type daemon struct {
	opt       runOptions
	started   time.Time
	stop      context.CancelFunc
	mesh      *control.Mesh
	macs      *routing.MACTable
	forwarder *routing.Forwarder
	port      *tap.Port
	stray     transport.Counters

	mu  sync.Mutex // guards cfg and makes reloads one at a time
	cfg config.Config
}

var _ Daemon = (*daemon)(nil)

// Report reads the state of all components.
func (d *daemon) Report() Report {
	cfg := d.config()
	snapshot, _ := d.mesh.Snapshot() // empty when the mesh has just ended
	r := Report{
		Version: buildVersion().Version, PID: os.Getpid(), Started: d.started,
		Mesh: snapshot, MACs: slices.Collect(d.macs.All()), MACTable: d.macs.Stats(),
		Forwarder: d.forwarder.Stats(),
		Port: PortReport{
			Device: d.port.Name(), Bridge: d.port.BridgeName(), Backend: "portable",
			MTU: d.port.MTU(), State: d.port.State(), Stats: d.port.Stats(),
		},
		Config: ConfigReport{File: d.opt.file, HTTP: cfg.API.HTTP, PasswordBits: passwordBits(string(cfg.Password))},
	}
	for _, name := range cfg.Transports {
		r.Transports = append(r.Transports, TransportReport{Name: name, Listen: cfg.Listen})
	}
	return r
}

func (d *daemon) config() config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// Connect adds targets.
func (d *daemon) Connect(targets []string, replace bool) error {
	return d.mesh.Connect(targets, replace)
}

// Forget removes targets.
func (d *daemon) Forget(targets []string) error { return d.mesh.Forget(targets) }

// Stop ends the daemon.
func (d *daemon) Stop() { d.stop() }

// Reload reads the configuration again, applies what can be applied to a running
// daemon and names what cannot. A configuration with a fault changes nothing.
func (d *daemon) Reload() (applied, needRestart []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
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
	if err := d.mesh.Apply(settings(running)); err != nil {
		return nil, nil, err
	}
	d.opt.level.Set(next.LogLevel)
	d.cfg = running
	return applied, needRestart, nil
}

// reloadLogged is a reload that nobody waits for.
func (d *daemon) reloadLogged() {
	applied, needRestart, err := d.Reload()
	if err != nil {
		d.opt.log.Error("configuration not reloaded", "err", err)
		return
	}
	d.opt.log.Info("configuration reloaded", "applied", applied, "need_restart", needRestart)
}
