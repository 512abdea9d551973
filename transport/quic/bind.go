package quic

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"meshd/internal/quicnet"
)

// A connection is bound to a path on a stream for this purpose. The session's
// dialler begins, and both close the stream then:
//
//	0         1       9                   41          0                    32
//	+---------+-------+-------------------+           +--------------------+
//	| version | index | dialler's proof   |  answer:  | acceptor's proof   |
//	+---------+-------+-------------------+           +--------------------+
//
// index is the acceptor's, from its hello. Until it has verified the other's proof
// an end takes no datagram of the connection.
const (
	bindVersion = 1
	bindLen     = 1 + 8 + sha256.Size
	offProof    = 9
)

// Times of binding.
const (
	dialWithin  = 2 * time.Second        // for a connection that is bound
	retryAfter  = 300 * time.Millisecond // after a failure
	lookEvery   = 500 * time.Millisecond // whether another connection is needed
	aliveWithin = 2 * time.Second        // a bound connection must bring the path up
	bindWithin  = 2 * time.Second        // for the other end's message, and for its hello
	stopWithin  = 250 * time.Millisecond // what waits in quic-go may go before it is broken
)

var (
	errProof  = errors.New("the other end does not know the session's secret")
	errTaken  = errors.New("the connection carries another path")
	errEnding = errors.New("the path is ending")
)

// dial keeps the path of who dialled the session bound to a working connection,
// until ctx is done.
func (p *path) dial(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-p.met:
	}
	for attempt := 0; ctx.Err() == nil; {
		wait := p.unneeded(time.Now())
		if wait == 0 {
			err := p.connect(ctx, attempt)
			if p.dialled(err); err == nil {
				continue
			}
			attempt++
			p.log.Debug("QUIC connection for a path", "err", err)
			wait = retryAfter
		}
		select {
		case <-ctx.Done():
		case <-p.redial:
		case <-time.After(wait):
		}
	}
}

// unneeded is for how long there is no need of another connection.
func (p *path) unneeded(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.bound == nil || p.bound.conn.Err() != nil:
		return 0
	case !p.Life.Up && now.Sub(p.bound.since) >= aliveWithin:
		return 0
	}
	return lookEvery
}

// connect opens a connection, or takes the session's at the first attempt, and
// binds it.
func (p *path) connect(ctx context.Context, attempt int) error {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	conn, err := p.open(ctx, attempt)
	if err != nil {
		return err
	}
	if err := p.bindDialled(ctx, conn); err != nil {
		conn.Release()
		return err
	}
	return nil
}

// open gives a connection that is held.
func (p *path) open(ctx context.Context, attempt int) (*quicnet.Conn, error) {
	if s, ok := p.session.Stream.(*quicnet.Stream); ok && attempt == 0 && s.Conn().Own(p) && s.Conn().Hold() {
		return s.Conn(), nil
	}
	to := p.target(attempt)
	if !to.IsValid() {
		return nil, errors.New("the neighbour's address is not known")
	}
	return p.t.endpoint.DialConn(ctx, to)
}

// target is where a connection of our own goes: the port of the neighbour's hello
// or, where the session is one over QUIC, in turns the session's, which may have
// been another.
func (p *path) target(attempt int) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.session.Stream.(*quicnet.Stream); ok && attempt%2 == 0 {
		return p.session.RemoteAddr
	}
	ip := p.session.RemoteAddr.Addr().Unmap()
	if !ip.IsValid() || ip.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, p.neighbour.port)
}

// bindDialled proves the session's secret on a connection and takes it for the
// path, with the caller's hold.
func (p *path) bindDialled(ctx context.Context, conn *quicnet.Conn) error {
	exported, err := conn.ExportKeyingMaterial(exporterLabel, nil, exportedLen)
	if err != nil {
		return fmt.Errorf("bind the connection: %w", err)
	}
	s, err := conn.OpenPath(ctx)
	if err != nil {
		return fmt.Errorf("bind the connection: %w", err)
	}
	defer s.Close()
	if err := s.SetDeadline(time.Now().Add(bindWithin)); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	key, index := p.bindKey()
	msg := binary.BigEndian.AppendUint64([]byte{bindVersion}, index)
	if _, err := s.Write(append(msg, prove(key, byDialler, exported)...)); err != nil {
		return fmt.Errorf("bind the connection: %w", err)
	}
	var proof [sha256.Size]byte
	if _, err := io.ReadFull(s, proof[:]); err != nil {
		return fmt.Errorf("bind the connection: the neighbour's proof: %w", err)
	}
	if !hmac.Equal(proof[:], prove(key, byAcceptor, exported)) {
		return errProof
	}
	return p.take(conn)
}

// take takes a stream by which a neighbour binds its connection to a path.
func (t *Transport) take(s *quicnet.Stream) {
	defer s.Close()
	if err := t.bindAccepted(s); err != nil {
		t.log.Debug("QUIC connection refused for a path", "addr", s.Conn().RemoteAddr(), "err", err)
	}
}

func (t *Transport) bindAccepted(s *quicnet.Stream) error {
	if err := s.SetDeadline(time.Now().Add(bindWithin)); err != nil {
		return err
	}
	var msg [bindLen]byte
	if _, err := io.ReadFull(s, msg[:]); err != nil {
		return fmt.Errorf("read a binding: %w", err)
	}
	if msg[0] != bindVersion {
		return fmt.Errorf("a binding of version %d, not %d", msg[0], bindVersion)
	}
	p := t.paths.Find(binary.BigEndian.Uint64(msg[1:]))
	if p == nil || p.session.Dialled {
		return errors.New("a binding for no path of ours")
	}
	select {
	case <-p.met:
	case <-s.Context().Done():
		return context.Cause(s.Context())
	case <-time.After(bindWithin):
		return errors.New("the neighbour's hello is missing")
	}
	exported, err := s.ExportKeyingMaterial(exporterLabel, nil, exportedLen)
	if err != nil {
		return err
	}
	key, _ := p.bindKey()
	if !hmac.Equal(msg[offProof:], prove(key, byDialler, exported)) {
		return errProof
	}
	conn := s.Conn()
	if !conn.Hold() {
		return conn.Err()
	}
	if err := p.take(conn); err != nil {
		conn.Release()
		return err
	}
	_, err = s.Write(prove(key, byAcceptor, exported))
	return err
}

// bound is a connection that a path has, and holds.
type bound struct {
	conn   *quicnet.Conn
	since  time.Time
	cancel context.CancelFunc
	fed    chan struct{} // closed when the queue is not fed to it any more
}

// take makes a connection, which the caller holds, the path's, in place of the one
// before.
func (p *path) take(conn *quicnet.Conn) error {
	if !conn.Own(p) {
		return errTaken
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.ctx.Err() != nil {
		return errEnding
	}
	ctx, cancel := context.WithCancel(p.ctx)
	b := &bound{conn: conn, since: time.Now(), cancel: cancel, fed: make(chan struct{})}
	old := p.bound
	p.bound = b
	p.bindings++
	p.RenewLocked(b.since)
	p.PMTU.Suspect(b.since)
	p.roomAt, p.shortAt = time.Time{}, time.Time{}
	if old != nil {
		p.wg.Go(func() { p.leave(old) })
	}
	p.tx.open(b)
	p.wg.Go(func() { p.feed(ctx, b) })
	a := &arrivals{more: make(chan struct{}, 1)}
	p.wg.Go(func() { p.drain(ctx, b, a) })
	p.wg.Go(func() { p.receive(ctx, a) })
	p.Rouse()
	return nil
}

// leave gives a connection up. What quic-go has queued may wait for a neighbour
// that is silent: such a connection is of no use to anybody else either.
func (p *path) leave(b *bound) {
	b.cancel()
	p.tx.close(b)
	b.conn.Release()
	select {
	case <-b.fed:
	case <-time.After(stopWithin):
		b.conn.Break("its datagrams do not leave")
	}
}

// broken notes that a connection does not work any more.
func (p *path) broken(b *bound, err error) {
	p.log.Debug("QUIC connection of a path ended", "addr", b.conn.RemoteAddr(), "err", err)
	p.tx.close(b)
	p.mu.Lock()
	if p.bound == b {
		p.Life.Interrupt(time.Now())
		p.Prober.Hurry()
	}
	p.mu.Unlock()
	select {
	case p.redial <- struct{}{}:
	default:
	}
	p.Rouse()
}

// dialled notes how an attempt to connect ended.
func (p *path) dialled(err error) {
	p.mu.Lock()
	p.dialErr = err
	p.mu.Unlock()
	p.Rouse()
}

// bindKey is what both ends prove that they know, and the neighbour's index. Both
// hellos are there.
func (p *path) bindKey() (key []byte, index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.key, p.neighbour.index
}
