package quicnet

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Times of a connection.
const (
	headerWithin = 5 * time.Second        // for the first bytes of a stream and their answer
	unheldFor    = 10 * time.Second       // a new connection that nobody holds
	lingerFor    = 250 * time.Millisecond // after the last holder is gone: what it wrote arrives
)

// Codes that connections and streams are closed with.
const (
	codeUnused  = 0
	codeStopped = 1
	codeBroken  = 2
	codeRefused = 3
)

var errNotHeld = errors.New("QUIC connection is closed")

// Conn is a QUIC connection to a host whose key is known. Its methods may be
// called concurrently.
type Conn struct {
	e       *Endpoint
	q       *quic.Conn
	key     ed25519.PublicKey
	dialled bool

	mu       sync.Mutex // guards below
	holders  int
	closing  bool // nobody holds it, and nobody may any more
	idle     *time.Timer
	owner    any            // who has its datagrams; nil: nobody
	favoured netip.AddrPort // has room kept for it because of owner
	ended    bool           // the connection is not served any more
}

// newConn takes a connection whose handshake is done. It has no holder yet.
func newConn(e *Endpoint, q *quic.Conn, dialled bool) (*Conn, error) {
	key, err := verify(q.ConnectionState().TLS, time.Now())
	if err != nil {
		return nil, err
	}
	c := &Conn{e: e, q: q, key: key, dialled: dialled}
	c.idle = time.AfterFunc(unheldFor, c.closeUnheld)
	return c, nil
}

// Hold keeps the connection open until Release; false: it is closed already.
func (c *Conn) Hold() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.q.Context().Err() != nil {
		return false
	}
	c.holders++
	c.idle.Stop()
	return true
}

// Release undoes one Hold. The last one closes the connection soon.
func (c *Conn) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders--; c.holders == 0 {
		c.idle.Reset(lingerFor)
	}
}

// closeUnheld closes a connection that nobody holds.
func (c *Conn) closeUnheld() {
	c.mu.Lock()
	if c.holders > 0 {
		c.mu.Unlock()
		return
	}
	c.closing = true
	c.mu.Unlock()
	c.close(codeUnused, "nobody uses it")
}

// Break closes the connection whoever holds it: it does not carry what it should.
func (c *Conn) Break(why string) { c.close(codeBroken, why) }

func (c *Conn) close(code quic.ApplicationErrorCode, why string) {
	_ = c.q.CloseWithError(code, why) // is always nil
}

// Own makes the datagrams of the connection the owner's; false: they are another
// one's. Only who owns them may send and receive them. From then on, strangers'
// datagrams crowd out none that come from where the other end is now.
func (c *Conn) Own(owner any) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owner == nil {
		c.owner = owner
		if !c.ended {
			c.favoured = c.RemoteAddr()
			c.e.favour(c.favoured, 1)
		}
	}
	return c.owner == owner
}

// end undoes what was kept for the connection.
func (c *Conn) end() {
	c.idle.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.favoured.IsValid() {
		c.e.favour(c.favoured, -1)
	}
}

// Done is closed when the connection is.
func (c *Conn) Done() <-chan struct{} { return c.q.Context().Done() }

// Err says why the connection was closed; nil: it is open.
func (c *Conn) Err() error {
	if c.q.Context().Err() == nil {
		return nil
	}
	return explain(c.RemoteAddr(), context.Cause(c.q.Context()))
}

// PeerKey is the Ed25519 key that the other end has proved to have.
func (c *Conn) PeerKey() ed25519.PublicKey { return c.key }

// Dialled reports whether we opened the connection.
func (c *Conn) Dialled() bool { return c.dialled }

// RemoteAddr is where the other end is now: it may move.
func (c *Conn) RemoteAddr() netip.AddrPort { return addrPort(c.q.RemoteAddr()) }

// LocalAddr is the address of the socket, which may be no particular one.
func (c *Conn) LocalAddr() netip.AddrPort {
	to := c.RemoteAddr()
	for _, p := range c.e.conns {
		if s := p.mux.Socket(to); s != nil && p.mux.Port() == addrPort(c.q.LocalAddr()).Port() {
			return s.LocalAddr()
		}
	}
	return addrPort(c.q.LocalAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		return unmap(u.AddrPort())
	}
	return netip.AddrPort{}
}

// RTT is the smoothed round-trip time; 0: unknown.
func (c *Conn) RTT() time.Duration { return c.q.ConnectionStats().SmoothedRTT }

// ExportKeyingMaterial derives a secret of the connection that both ends get
// alike (RFC 8446, section 7.5).
func (c *Conn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	s := c.q.ConnectionState().TLS
	return s.ExportKeyingMaterial(label, context, length)
}

// ErrTooBig says that a datagram is longer than the connection carries now.
var ErrTooBig = errors.New("datagram is longer than the connection carries")

// SendDatagram sends a datagram (RFC 9221). It waits while many are queued. b is
// copied. Errors: ErrTooBig; every other one means that the connection is closed.
func (c *Conn) SendDatagram(b []byte) error {
	err := c.q.SendDatagram(b)
	if _, ok := err.(*quic.DatagramTooLargeError); ok {
		return ErrTooBig
	}
	return err
}

// ReceiveDatagram waits for a datagram.
func (c *Conn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	b, err := c.q.ReceiveDatagram(ctx)
	if err == nil {
		c.e.received.Add(1)
	}
	return b, err
}

// Stats are quic-go's figures of the connection.
func (c *Conn) Stats() quic.ConnectionStats { return c.q.ConnectionStats() }

// DatagramRoom is how many bytes a datagram may have now. It grows while the MTU
// of the way is being found.
func (c *Conn) DatagramRoom() int {
	big, ok := errors.AsType[*quic.DatagramTooLargeError](c.q.SendDatagram(tooLarge[:]))
	if !ok {
		return 0 // closed, or no datagrams
	}
	return int(big.MaxDatagramPayloadSize)
}

// tooLarge fits no datagram, whose size quic-go checks first.
var tooLarge [1 << 16]byte

// OpenPath opens a path stream.
func (c *Conn) OpenPath(ctx context.Context) (*Stream, error) { return c.open(ctx, purposePath) }

// open opens a stream and waits until the other end has taken it.
func (c *Conn) open(ctx context.Context, p purpose) (_ *Stream, err error) {
	q, err := c.q.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a stream: %w", explain(c.RemoteAddr(), err))
	}
	s := &Stream{Stream: q, conn: c}
	stop := context.AfterFunc(ctx, s.abort)
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			s.abort()
		}
	}()
	if err := s.SetDeadline(time.Now().Add(headerWithin)); err != nil {
		return nil, err
	}
	if _, err := s.Write([]byte{magic0, magic1, version, byte(p)}); err != nil {
		return nil, explain(c.RemoteAddr(), err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(s, answer[:]); err != nil {
		return nil, explain(c.RemoteAddr(), err)
	}
	if answer[0] != version {
		return nil, fmt.Errorf("QUIC to %s: it answers a stream with %d, not %d", c.RemoteAddr(), answer[0], version)
	}
	if err := s.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if !s.hold() {
		return nil, errNotHeld
	}
	return s, nil
}
