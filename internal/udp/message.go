package udp

import (
	"errors"
	"net/netip"
)

// MaxBatch is how many messages one system call moves at most. ReadBatch fills
// no more; WriteBatch takes any number.
const MaxBatch = 64

// What WriteBatch says of a message that was not sent.
var (
	// ErrTooBig says that a datagram is larger than the path's MTU and must not
	// be fragmented, or larger than UDP allows.
	ErrTooBig = errors.New("datagram is larger than the path's MTU")
	// ErrFull says that the socket's send buffer or the device's queue is full.
	ErrFull = errors.New("send buffer is full")
)

// Message is one datagram or, where it was read, a run of datagrams that came
// from one sender and that the kernel left together (UDP_GRO).
type Message struct {
	Buf  []byte         // room for the datagram
	N    int            // bytes of Buf that are the datagram, or the run
	Addr netip.AddrPort // the other end; never an IPv4-mapped IPv6 address
	// Segment is the length in bytes of each datagram of a run, of which only the
	// last may be shorter; 0: Buf[:N] is one datagram. WriteBatch does not look at
	// it: it makes its own runs of neighbouring messages.
	Segment int
}
