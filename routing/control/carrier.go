package control

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Carrier makes the streams that sessions ride on: TCP, and streams of QUIC
// connections. Its methods may be called concurrently.
type Carrier interface {
	// Name is CarrierTCP or CarrierQUIC.
	Name() string
	// Dial opens a stream to addr. ctx bounds the opening alone; the stream lives
	// on when it ends.
	Dial(ctx context.Context, addr netip.AddrPort) (Stream, error)
	// Accept waits for a stream that a peer opens. After ctx is done it returns an
	// error.
	Accept(ctx context.Context) (Stream, error)
}

// Stream is a reliable, ordered connection. Both ends have addresses that a
// net.TCPAddr or net.UDPAddr holds. A Stream that knows its round-trip time has a
// method RTT() time.Duration too, and one that can give up on unacknowledged
// data sooner a method SetUserTimeout(time.Duration) error; one that has none must
// itself end when its peer acknowledges nothing for about userTimeout. Closing a
// stream must not wait for the peer.
//
// A secure Stream, one over TLS 1.3, has a method
// ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error)
// (RFC 8446, section 7.5): equal at both ends, and of no use to anybody in between.
// If it has PeerKey() ed25519.PublicKey too, the peer must sign with that key.
//
// A Stream of a port that is shared with others than sessions has a method
// Other(header [HeaderLen]byte) TakeConn: who takes it over where it was accepted and
// begins with these bytes; nil: nobody.
type Stream = net.Conn

// streamRTT is the carrier's own idea of the round-trip time; 0: unknown.
func streamRTT(s Stream) time.Duration {
	if r, ok := s.(interface{ RTT() time.Duration }); ok {
		return r.RTT()
	}
	return 0
}
