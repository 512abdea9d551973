package mux

import "encoding/binary"

// Kind is whose a datagram is, by its first bytes.
type Kind uint8

// The kinds of datagrams. RFC 9443 has the ranges of the first byte for those
// who share a port with QUIC.
const (
	Stray  Kind = iota // nobody's
	Native             // meshd's own
	STUN               // RFC 8489
	QUIC               // RFC 9000
	kinds
)

var kindNames = [kinds]string{"stray", "native", "stun", "quic"}

// String returns the kind in lower case.
func (k Kind) String() string {
	if k < kinds {
		return kindNames[k]
	}
	return "unknown"
}

const (
	nativeMask, native = 0xc0, 0x80
	quicFixedBit       = 0x40 // RFC 9000, section 17: the fixed bit, also of short headers

	stunTypes  = 4 // the first byte of a STUN message is below that (RFC 8489, section 5)
	stunLen    = 20
	stunCookie = 0x2112a442
	offCookie  = 4
)

// Classify tells whose a datagram is. It looks at no more than the first bytes:
// who gets it checks the rest.
func Classify(datagram []byte) Kind {
	switch {
	case len(datagram) == 0:
		return Stray
	case datagram[0]&nativeMask == native:
		return Native
	case datagram[0]&quicFixedBit != 0:
		return QUIC
	case datagram[0] < stunTypes && len(datagram) >= stunLen &&
		binary.BigEndian.Uint32(datagram[offCookie:]) == stunCookie:
		return STUN
	}
	return Stray
}
