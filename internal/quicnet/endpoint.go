package quicnet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"meshd/internal/mux"
)

// Name is the carrier's name.
const Name = "quic"

// Bounds and times of connections.
const (
	maxStreams   = 16      // that the other end may have open at a time
	streamWindow = 1 << 20 // bytes not yet read, of a stream
	connWindow   = 2 << 20 // the same of a connection
	maxSessions  = 16      // streams that wait for Accept
	packetSize   = 1200    // bytes of a datagram to begin with: every path carries it (RFC 9000, section 14)
	tlsWithin    = time.Second * 4
	silence      = 10 * time.Second // ends a connection
	keepAlive    = 3 * time.Second
)

// connIDLen is the length in bytes of our connection IDs. quic-go sends packets in
// one run only as long as each has exactly the largest size, and takes datagrams of
// up to 37 bytes less. A packet with the longest datagram has the type, a packet
// number of 2 bytes, the frame's type and the tag besides: 20 bytes. With an ID of
// the other 17 bytes it has the largest size; with another there is no run at all.
const connIDLen = 17

// ErrNotRunning is what a call returns after Run.
var ErrNotRunning = errors.New("the QUIC endpoint does not run")

// Config is what an Endpoint needs to know.
type Config struct {
	// Muxes have the sockets. Others are dialled from the first that has the
	// family. Their owner runs them, longer than the endpoint: it says goodbye.
	Muxes []*mux.Mux
	// Certificate is what we show: self-signed with the host's Ed25519 key.
	Certificate tls.Certificate
	// ResetKey is the secret of stateless resets (RFC 9000, section 10.3), the same
	// after each start: so a neighbour whose connection an earlier run of ours has
	// left learns with its next packet that it is gone. nil: no resets are sent.
	ResetKey *[32]byte
	// Log takes what went wrong with others' connections; nil: nothing is logged.
	Log *slog.Logger
}

// Endpoint makes and takes QUIC connections. Its methods may be called
// concurrently.
type Endpoint struct {
	log      *slog.Logger
	tls      *tls.Config
	reset    *quic.StatelessResetKey
	conns    []*packetConn
	admitted *admission
	sessions chan *Stream  // any connection sends, Accept receives; full: the stream is refused
	paths    func(*Stream) // takes path streams; nil: nobody does. Written before Run
	started  chan struct{} // closed by start, or by Close before it
	begin    sync.Once     // closes started

	received atomic.Uint64 // datagrams (RFC 9221)

	mu         sync.Mutex // guards below
	transports []*quic.Transport
	open       map[*Conn]struct{}
	ctx        context.Context // Run's; nil: not running
	wg         *sync.WaitGroup // of the connections' goroutines
}

// New makes the endpoint the muxes' handler of QUIC. They must not run yet.
func New(c Config) (*Endpoint, error) {
	if len(c.Muxes) == 0 {
		return nil, errors.New("quic: there is no socket")
	}
	if len(c.Certificate.Certificate) == 0 {
		return nil, errors.New("quic: there is no certificate")
	}
	e := &Endpoint{
		log: cmp.Or(c.Log, slog.New(slog.DiscardHandler)), tls: tlsConfig(c.Certificate), reset: (*quic.StatelessResetKey)(c.ResetKey),
		admitted: newAdmission(), sessions: make(chan *Stream, maxSessions), started: make(chan struct{}), open: map[*Conn]struct{}{},
	}
	for _, m := range c.Muxes {
		p, err := newPacketConn(m, &e.received)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.conns = append(e.conns, p)
	}
	return e, nil
}

// Close frees what New has taken. Run does it too; an Endpoint that is not run
// needs it.
func (e *Endpoint) Close() error {
	e.begin.Do(func() { close(e.started) })
	var errs []error
	for _, p := range e.conns {
		if err := p.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Name is "quic".
func (e *Endpoint) Name() string { return Name }

// Port is the UDP port of the first mux.
func (e *Endpoint) Port() uint16 { return e.conns[0].mux.Port() }

// Dropped is how many datagrams quic-go was too slow for.
func (e *Endpoint) Dropped() (n uint64) {
	for _, p := range e.conns {
		n += p.dropped.Load()
	}
	return n
}

// HandlePaths registers who takes path streams. take is called by a goroutine of
// its own for each and closes the stream. It must not be called during Run.
func (e *Endpoint) HandlePaths(take func(*Stream)) { e.paths = take }

// quicConfig is what both ends of a connection use.
func quicConfig() *quic.Config {
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1, quic.Version2},
		HandshakeIdleTimeout: tlsWithin, MaxIdleTimeout: silence, KeepAlivePeriod: keepAlive,
		InitialStreamReceiveWindow: streamWindow / 2, MaxStreamReceiveWindow: streamWindow,
		InitialConnectionReceiveWindow: connWindow / 2, MaxConnectionReceiveWindow: connWindow,
		MaxIncomingStreams: maxStreams, MaxIncomingUniStreams: -1,
		InitialPacketSize: packetSize, EnableDatagrams: true,
	}
}

// Run takes connections until ctx is done, then closes all and returns nil.
func (e *Endpoint) Run(ctx context.Context) error {
	var accepting, serving sync.WaitGroup
	listeners, err := e.start(ctx, &serving)
	if err == nil {
		for _, l := range listeners {
			accepting.Go(func() { e.acceptConns(ctx, l) })
		}
		<-ctx.Done()
	}
	e.stop()
	accepting.Wait()
	serving.Wait()
	return errors.Join(err, e.Close())
}

// start makes quic-go listen.
func (e *Endpoint) start(ctx context.Context, wg *sync.WaitGroup) (listeners []*quic.Listener, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx != nil {
		return nil, errors.New("quic: Run was called twice")
	}
	for _, p := range e.conns {
		t := &quic.Transport{
			Conn: p, ConnectionIDLength: connIDLen, StatelessResetKey: e.reset,
			VerifySourceAddress: e.admitted.unverified, ConnContext: e.admitted.enter,
		}
		e.transports = append(e.transports, t)
		l, err := t.Listen(e.tls, quicConfig())
		if err != nil {
			return nil, fmt.Errorf("listen for QUIC on port %d: %w", p.mux.Port(), err)
		}
		listeners = append(listeners, l)
	}
	e.ctx, e.wg = ctx, wg
	e.begin.Do(func() { close(e.started) })
	return listeners, nil
}

// stop closes all connections, and what quic-go runs.
func (e *Endpoint) stop() {
	e.mu.Lock()
	open, transports := e.open, e.transports
	e.open, e.transports = nil, nil
	e.mu.Unlock()
	var wg sync.WaitGroup
	for c := range open {
		wg.Go(func() {
			c.idle.Stop()
			c.close(codeStopped, "meshd ends")
		})
	}
	wg.Wait()
	for _, t := range transports {
		if err := t.Close(); err != nil {
			e.log.Debug("close QUIC", "err", err)
		}
	}
	for {
		select {
		case s := <-e.sessions:
			s.abort()
		default:
			return
		}
	}
}

// acceptConns takes the connections that others open.
func (e *Endpoint) acceptConns(ctx context.Context, l *quic.Listener) {
	for {
		q, err := l.Accept(ctx)
		if err != nil {
			return // ctx is done, or the socket is closed
		}
		if g, ok := q.Context().Value(guestKey{}).(*guest); ok {
			g.settle()
		}
		if _, err := e.add(q, false); err != nil {
			e.log.Debug("QUIC connection refused", "addr", q.RemoteAddr(), "err", err)
			_ = q.CloseWithError(codeRefused, "")
		}
	}
}

// add takes a connection whose handshake is done, and serves it.
func (e *Endpoint) add(q *quic.Conn, dialled bool) (*Conn, error) {
	c, err := newConn(e, q, dialled)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open == nil {
		c.idle.Stop()
		return nil, ErrNotRunning
	}
	e.open[c] = struct{}{}
	e.wg.Go(func() { e.serve(c) })
	return c, nil
}

// serve takes the streams that the other end opens, until the connection ends.
func (e *Endpoint) serve(c *Conn) {
	var wg sync.WaitGroup
	for {
		q, err := c.q.AcceptStream(c.q.Context())
		if err != nil {
			break
		}
		wg.Go(func() { e.sort(&Stream{Stream: q, conn: c}) })
	}
	wg.Wait()
	c.end()
	e.mu.Lock()
	delete(e.open, c)
	e.mu.Unlock()
}

// favour keeps room for an address, or no longer.
func (e *Endpoint) favour(a netip.AddrPort, by int) {
	for _, p := range e.conns {
		p.favour(a, by)
	}
}

// sort hands a stream to who takes its kind.
func (e *Endpoint) sort(s *Stream) {
	p, err := s.greet()
	if err == nil {
		err = e.hand(s, p)
	}
	if err != nil {
		e.log.Debug("QUIC stream refused", "addr", s.conn.RemoteAddr(), "err", err)
		s.abort()
	}
}

func (e *Endpoint) hand(s *Stream, p purpose) error {
	switch {
	case p == purposePath && e.paths != nil:
		if err := s.accept(); err != nil {
			return err
		}
		e.paths(s)
		return nil
	case p != purposeSession:
		return fmt.Errorf("nobody takes streams for purpose %d", p)
	}
	if err := s.accept(); err != nil {
		return err
	}
	select {
	case e.sessions <- s:
		return nil
	default:
		return errTooMany
	}
}

// Accept waits for a session stream that a peer opens.
func (e *Endpoint) Accept(ctx context.Context) (net.Conn, error) {
	select {
	case s := <-e.sessions:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Dial opens a connection and a session stream on it. Before Run it waits.
func (e *Endpoint) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	c, err := e.DialConn(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.Release()
	s, err := c.open(ctx, purposeSession)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DialConn opens a connection, which the caller holds. Before Run it waits.
func (e *Endpoint) DialConn(ctx context.Context, addr netip.AddrPort) (*Conn, error) {
	addr = unmap(addr)
	select {
	case <-e.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t, err := e.transportTo(addr)
	if err != nil {
		return nil, err
	}
	q, err := t.Dial(ctx, net.UDPAddrFromAddrPort(addr), e.tls, quicConfig())
	if err != nil {
		return nil, explain(addr, err)
	}
	c, err := e.add(q, true)
	if err != nil {
		_ = q.CloseWithError(codeStopped, "")
		return nil, err
	}
	if !c.Hold() {
		return nil, c.Err()
	}
	return c, nil
}

// transportTo is what dials an address.
func (e *Endpoint) transportTo(addr netip.AddrPort) (*quic.Transport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx == nil || e.transports == nil {
		return nil, ErrNotRunning
	}
	for i, t := range e.transports {
		if e.conns[i].mux.Socket(addr) != nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("QUIC to %s: no socket for the address family", addr)
}
