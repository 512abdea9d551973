package sleeve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
)

// Name is the overlay's name in the handshake (weave protocol, section 5).
const Name = "sleeve"

// PacketConn is a batched UDP socket of one address family, with the contracts of
// udp.Conn.
type PacketConn interface {
	ReadBatch(ms []udp.Message) (int, error)
	WriteBatch(ms []udp.Message, df bool) (int, error)
	LocalAddr() netip.AddrPort
	PathMTU(dst netip.AddrPort) (int, error)
	// Judge is told by the reader what authentication made of runs.
	Judge(now time.Time, v udp.Verdict)
	// OnTooBig is set before reading.
	OnTooBig(told func(dst netip.AddrPort, mtu int))
	Close() error
}

var _ PacketConn = (*udp.Conn)(nil)

// Config is what a Transport needs to know.
type Config struct {
	// Listen is host:port. Without a host it is all IPv4 addresses and, where the
	// system has IPv6, all of these too. Port 0: any.
	Listen string
	// Offload is what the sockets leave to the kernel, as udp.Probe found it.
	Offload udp.Offload
	// Local is our name.
	Local frame.PeerName
	// Deliver takes the packets that arrive. It is called by one goroutine per
	// socket.
	Deliver frame.Handler
	// Log takes changes of paths; nil: nothing is logged.
	Log *slog.Logger
	// Sockets are used instead of opening any: one per address family.
	Sockets []PacketConn
	// Stray counts the datagrams that belong to no path; nil: they are not counted.
	Stray *transport.Counters
}

// Transport makes sleeve paths over its sockets. Its methods may be called
// concurrently.
type Transport struct {
	local   frame.PeerName
	deliver frame.Handler
	log     *slog.Logger
	stray   *transport.Counters
	conns   []PacketConn

	mu    sync.Mutex // guards changes of paths
	paths atomic.Pointer[pathMap]
}

// pathMap has the paths that run, by neighbour, newest first. It is never
// changed, only replaced.
type pathMap map[frame.PeerName][]*path

var _ transport.Transport = (*Transport)(nil)

// New opens the sockets. Run closes them; a Transport that is not run needs Close.
func New(c Config) (*Transport, error) {
	t := &Transport{
		local: c.Local, deliver: c.Deliver, log: c.Log, stray: c.Stray,
		conns: c.Sockets,
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.log = t.log.With("transport", Name)
	if t.stray == nil {
		t.stray = &transport.Counters{}
	}
	if t.deliver == nil {
		return nil, errors.New("sleeve: nobody takes the packets that arrive")
	}
	if !t.local.Valid() {
		return nil, fmt.Errorf("sleeve: our name: %w", frame.ErrPeerName)
	}
	t.paths.Store(&pathMap{})
	if len(t.conns) > 0 {
		return t, nil
	}
	conns, err := udp.ListenPort(c.Listen, c.Offload)
	if err != nil {
		return nil, fmt.Errorf("sleeve: %w", err)
	}
	for _, conn := range conns {
		conn.OnOffload(func(o udp.Offload) {
			t.log.Warn("socket offload changed", "addr", conn.LocalAddr(), "gso", o.GSO, "gro", o.GRO, "why", o.Why)
		})
		t.conns = append(t.conns, conn)
	}
	return t, nil
}

// Name is "sleeve".
func (t *Transport) Name() string { return Name }

// Port is the UDP port that the transport listens on.
func (t *Transport) Port() uint16 { return t.conns[0].LocalAddr().Port() }

// Close closes the sockets.
func (t *Transport) Close() error {
	var errs []error
	for _, c := range t.conns {
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run reads the sockets and delivers what arrives until ctx is done, then returns
// nil. It closes the sockets.
func (t *Transport) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer t.Close()
	defer context.AfterFunc(ctx, func() { t.Close() })()
	var wg sync.WaitGroup
	errs := make([]error, len(t.conns))
	for i, c := range t.conns {
		c.OnTooBig(t.tooBig)
		wg.Go(func() {
			if err := newReader(t, c).run(ctx); err != nil {
				errs[i] = err
				cancel(err) // one family less is not what was asked for
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tooBig is called by a socket that was told, by anybody, that datagrams to an
// address do not get through. What the kernel makes of it shows at the route.
func (t *Transport) tooBig(dst netip.AddrPort, _ int) {
	for _, paths := range *t.paths.Load() {
		for _, p := range paths {
			if p.confirmed(dst) {
				p.stale.Store(true)
				p.Rouse()
			}
		}
	}
}

// Open prepares the path of a session. The neighbour's datagrams are taken from
// Path.Run on.
func (t *Transport) Open(s transport.Session) (transport.Path, error) {
	if !s.Remote.Name.Valid() {
		return nil, fmt.Errorf("sleeve: the neighbour's name: %w", frame.ErrPeerName)
	}
	if s.SendControl == nil || s.Counters == nil || s.Done == nil {
		return nil, errors.New("sleeve: the session has no control connection or no counters")
	}
	return newPath(t, s), nil
}

// conn finds the socket for an address; nil: there is none of its family.
func (t *Transport) conn(to netip.AddrPort) PacketConn {
	for _, c := range t.conns {
		if c.LocalAddr().Addr().Is4() == to.Addr().Is4() {
			return c
		}
	}
	return nil
}

// add makes the path receive. Of too many the oldest has to end.
func (t *Transport) add(p *path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(*t.paths.Load())
	name := p.session.Remote.Name
	list := slices.Insert(slices.Clone(next[name]), 0, p)
	if len(list) > transport.MaxIncarnations {
		list[transport.MaxIncarnations].Evict()
		list = list[:transport.MaxIncarnations]
	}
	next[name] = list
	t.paths.Store(&next)
}

// remove makes the path receive no more.
func (t *Transport) remove(p *path) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(*t.paths.Load())
	name := p.session.Remote.Name
	list := slices.DeleteFunc(slices.Clone(next[name]), func(x *path) bool { return x == p })
	if len(list) == 0 {
		delete(next, name)
	} else {
		next[name] = list
	}
	t.paths.Store(&next)
}
