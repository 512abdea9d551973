package quicnet

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// The first bytes of a stream.
const (
	magic0, magic1 = 'm', 'q'
	version        = 1
	headerLen      = 4
)

// purpose is what a stream is for.
type purpose byte

const (
	purposeSession purpose = 1 // a session rides on it
	purposePath    purpose = 2 // it makes a path's the datagrams of its connection
)

// Stream is a stream of a QUIC connection. It holds its connection until it is
// closed.
type Stream struct {
	*quic.Stream
	conn *Conn

	once sync.Once
	mu   sync.Mutex // guards held
	held bool
}

var _ net.Conn = (*Stream)(nil)

// Conn is the connection that the stream belongs to.
func (s *Stream) Conn() *Conn { return s.conn }

// PeerKey is the Ed25519 key that the other end has proved to have.
func (s *Stream) PeerKey() ed25519.PublicKey { return s.conn.key }

// RTT is the connection's smoothed round-trip time; 0: unknown.
func (s *Stream) RTT() time.Duration { return s.conn.RTT() }

// ExportKeyingMaterial derives a secret of the connection (RFC 8446, section 7.5).
func (s *Stream) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	return s.conn.ExportKeyingMaterial(label, context, length)
}

// LocalAddr is a *net.UDPAddr, never with an IPv4-mapped address.
func (s *Stream) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.conn.LocalAddr()) }

// RemoteAddr is a *net.UDPAddr, never with an IPv4-mapped address.
func (s *Stream) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(s.conn.RemoteAddr()) }

// hold makes the stream hold its connection; false: that is closed.
func (s *Stream) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = s.conn.Hold()
	return s.held
}

// Close ends both directions. What was written before arrives.
func (s *Stream) Close() error {
	err := net.ErrClosed
	s.once.Do(func() {
		// A Write that waits for the neighbour would go on, and Close not be heard.
		_ = s.SetDeadline(time.Unix(1, 0))
		s.CancelRead(codeUnused)
		err = s.Stream.Close()
		s.release()
	})
	return err
}

// abort ends both directions at once.
func (s *Stream) abort() {
	s.once.Do(func() {
		s.CancelRead(codeStopped)
		s.CancelWrite(codeStopped)
		s.release()
	})
}

func (s *Stream) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held {
		s.held = false
		s.conn.Release()
	}
}

// greet reads the first bytes of a stream that the other end has opened. Whoever
// takes it says so by accept.
func (s *Stream) greet() (purpose, error) {
	if err := s.SetDeadline(time.Now().Add(headerWithin)); err != nil {
		return 0, err
	}
	var b [headerLen]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return 0, fmt.Errorf("read the first bytes of a stream: %w", err)
	}
	if b[0] != magic0 || b[1] != magic1 || b[2] != version {
		return 0, fmt.Errorf("a stream begins with %x", b)
	}
	return purpose(b[3]), nil
}

// accept tells the other end that the stream is taken.
func (s *Stream) accept() error {
	if !s.hold() {
		return errNotHeld
	}
	if _, err := s.Write([]byte{version}); err != nil {
		return err
	}
	return s.SetDeadline(time.Time{})
}
