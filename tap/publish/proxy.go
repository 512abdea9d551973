package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Options are settings of a Proxy. The zero value works.
type Options struct {
	// Limit is how many TCP connections (0: 4096) or UDP clients (0: 1024) there
	// may be at a time. A connection beyond it is refused; a client beyond it takes
	// the place of the one that has been silent for the longest time.
	Limit int
	// Idle is how long a UDP client may be silent in both directions before it is
	// forgotten (0: 90 s). TCP connections are kept.
	Idle time.Duration
	// DialTimeout bounds one try to reach the target, with the look-up (0: 3 s), and
	// Retry how long after the first try another may begin (0: 5 s, negative: none).
	DialTimeout, Retry time.Duration
	// Local returns the address of this host to reach a target from. Without it, or
	// where it returns the zero Addr or one of the other family, the kernel chooses.
	Local func(target netip.Addr) netip.Addr
	// Log is told when the target is lost and found, and when Limit is reached; nil
	// for silence.
	Log *slog.Logger
}

// server serves one protocol.
type server interface {
	// run returns when ctx has ended and its goroutines have.
	run(ctx context.Context)
	// close closes the listening sockets.
	close() error
}

// Proxy publishes one port. Its methods may be called concurrently.
type Proxy struct {
	spec   Spec
	addrs  []netip.AddrPort
	counts *counts
	server server
	ctx    context.Context // ends with Close
	stop   context.CancelFunc

	mu    sync.Mutex    // guards ended
	ended chan struct{} // made by Run, and closed when it returns
}

// Open listens on the published port: from then on the kernel takes connections,
// which Run serves. resolve returns the present address of the target; it is called
// for each connection and client, concurrently, and its ctx ends after DialTimeout.
//
// A port that is taken is an *InUseError, a HOSTIP that this host does not have
// syscall.EADDRNOTAVAIL, a port that the process must not have syscall.EACCES, and a
// target that is the published port ErrLoop. Port 0 is any free port.
//
// The listening sockets belong to the network namespace of the calling thread, those
// to the target to that of the threads of Run.
func Open(spec Spec, resolve func(context.Context) (netip.AddrPort, error), o Options) (*Proxy, error) {
	log := cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	p := &Proxy{counts: &counts{log: log.With("published", spec.String())}}
	t := &target{
		host:    spec.HostPort,
		resolve: resolve,
		local:   o.Local,
		timeout: cmp.Or(o.DialTimeout, 3*time.Second),
		retry:   cmp.Or(o.Retry, 5*time.Second),
		connect: connectWith(spec.Protocol()),
		isLocal: isLocal,
	}
	if ip, ok := spec.TargetIP(); ok && t.loops(netip.AddrPortFrom(ip, spec.TargetPort)) {
		return nil, fmt.Errorf("publish %s: %w", spec, ErrLoop)
	}
	open := openStreams
	if spec.UDP {
		open = openDatagrams
	}
	var err error
	if p.server, p.addrs, err = open(spec.HostPort, t, p.counts, o); err != nil {
		return nil, err
	}
	spec.Port = p.addrs[0].Port()
	t.host.Port = spec.Port
	p.spec = spec
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Run serves clients until ctx is done or the proxy is closed, then returns nil
// after all connections are closed and all goroutines have ended. It runs once.
func (p *Proxy) Run(ctx context.Context) error {
	p.mu.Lock()
	again := p.ended != nil
	if !again {
		p.ended = make(chan struct{})
	}
	p.mu.Unlock()
	if again {
		return errors.New("run a published port: it has been run before")
	}
	defer close(p.ended)
	defer context.AfterFunc(ctx, p.stop)()
	// The port is free at once, not only after the last connection has ended.
	defer context.AfterFunc(p.ctx, func() { _ = p.server.close() })()
	p.server.run(p.ctx)
	return nil
}

// Close frees the port, ends all connections, and returns after Run has, so that
// resolve and what else Run calls must not call it. It may be called again.
func (p *Proxy) Close() error {
	p.stop()
	err := p.server.close()
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended != nil {
		<-ended
	}
	return err
}

// Addrs returns the addresses that are listened on: one, or one of each family, of
// which IPv4 is the first and IPv6 is missing where the host has none.
func (p *Proxy) Addrs() []netip.AddrPort { return slices.Clone(p.addrs) }

// Stats returns the counts so far.
func (p *Proxy) Stats() Stats { return p.counts.stats() }
