package udp

import (
	"errors"
	"net/netip"
)

// What one system call moves at most.
const (
	// MaxBatch is how many datagrams or runs WriteBatch hands over in one system
	// call; it takes any number of messages.
	MaxBatch = 64
	// MaxRead is how many messages ReadBatch fills, so more need not have a
	// buffer. With buffers for whole runs (MaxDatagram) they are 2 MiB, of which
	// memory is used only for what was once filled.
	MaxRead = 32
	// MaxDatagram is room in bytes for every datagram and every run.
	MaxDatagram = 1 << 16
)

// What WriteBatch says of a message that was not sent.
var (
	// ErrTooBig says that a datagram is larger than the path's MTU and must not
	// be fragmented, or larger than UDP allows.
	ErrTooBig = errors.New("datagram is larger than the path's MTU")
	// ErrFull says that the socket's send buffer or the device's queue is full.
	ErrFull = errors.New("send buffer is full")
	// ErrNoWay says that the host has no route, neighbour or device that is up for
	// the address: what follows to it would not be sent either.
	ErrNoWay = errors.New("no way to the address")
)

// Message is one datagram or, where it was read, a run of datagrams that came
// from one sender and that the kernel left together (UDP_GRO).
type Message struct {
	Buf  []byte         // room for the datagram
	N    int            // bytes of Buf that are the datagram, or the run
	Addr netip.AddrPort // the other end; never an IPv4-mapped IPv6 address
	// Segment is the length in bytes of each datagram of a run, of which only the
	// last may be shorter; 0: Buf[:N] is one datagram. WriteBatch makes its own
	// runs of neighbouring messages, but for those whose Segment is Alone.
	Segment int
}

// Alone as a message's Segment keeps it out of the runs of WriteBatch, where they
// are known to arrive mangled.
const Alone = -1

// What a run may be, whatever the kernel would take (UDP_MAX_SEGMENTS; the
// length of an IP packet less the longest headers).
const (
	maxSegments = 64
	maxRunBytes = 65000
)

// runLen returns how many of the first messages may leave as one run: they go to
// one place and have one length, but for the last, which may be shorter. ms is
// not empty.
func runLen(ms []Message) int {
	first, total := &ms[0], ms[0].N
	if first.N == 0 || first.Segment == Alone {
		return 1 // an empty datagram would vanish in a run
	}
	n := 1
	for n < min(len(ms), maxSegments) {
		m := &ms[n]
		if m.N == 0 || m.N > first.N || total+m.N > maxRunBytes || m.Addr != first.Addr || m.Segment == Alone {
			break
		}
		total += m.N
		n++
		if m.N < first.N {
			break
		}
	}
	return n
}
