package measure

import (
	"bytes"
	"net/netip"

	"meshd/internal/frame"
)

// Hop is the first step on the way of a packet.
type Hop struct {
	Via       frame.PeerName // the neighbour; 0: there is none, or it is not known
	Transport string         // over which it is reached; empty: not known
	Addr      netip.AddrPort // where datagrams go; invalid: not known. Nobody tells others
}

// What an echo reply tells of its own way:
//
//	36     37     38    44          60
//	+------+------+-----+-----------+-------- - -
//	| form | zero | via | transport | padding
//	+------+------+-----+-----------+-------- - -
//
// The transport's name ends with the first zero byte, if there is one.
const (
	offHopForm      = offBody
	offHopVia       = 38
	offHopTransport = 44
	hopTransportLen = 16

	hopNone = 0 // nothing is told: the peer knows of nothing to tell
	hopTold = 1
)

// put writes h into an echo reply.
func (h Hop) put(data []byte) {
	clear(data[offHopForm:MinFrame])
	if h.Via == 0 {
		return // hopNone
	}
	data[offHopForm] = hopTold
	h.Via.Put(data[offHopVia:])
	copy(data[offHopTransport:][:hopTransportLen], h.Transport)
}

// parseHop reads what an echo reply tells; all zero where it tells nothing.
func parseHop(data []byte) (h Hop) {
	if data[offHopForm] != hopTold {
		return h
	}
	if h.Via = frame.PeerNameOf(data[offHopVia:]); h.Via == 0 {
		return h
	}
	name, _, _ := bytes.Cut(data[offHopTransport:][:hopTransportLen], []byte{0})
	h.Transport = string(name)
	return h
}
