package encap

import (
	"encoding/binary"
	"errors"
)

// A native datagram, between two meshd peers. All numbers are big-endian.
//
//	0      1          5                     13                     n-16     n
//	+------+----------+---------------------+------------------------+------+
//	| kind | receiver | counter (63 bits)   | items, sealed          | tag  |
//	|      | index    |                     |                        |      |
//	+------+----------+---------------------+------------------------+------+
//	'------------- authenticated -----------'--- AES-128-GCM or -----------'
//	                                             ChaCha20-Poly1305
//
// kind is 0x80 and the key's epoch modulo 16: its first bits are 10, which tells
// it from STUN (RFC 8489, section 5) and QUIC (RFC 9000, section 17). The index
// selects the path at the receiver, who chose it. The counter rises by one with
// each datagram of a direction and goes on over epochs. Its nonce:
//
//	0          4                12
//	+----------+----------------+
//	| 0        | counter        |
//	+----------+----------------+
const (
	// NativeHeaderLen is how many bytes stand before the items.
	NativeHeaderLen = 13
	// NativeTagLen is how many bytes stand behind them.
	NativeTagLen = 16
	// NativeOverhead is how much longer a datagram is than its items, in bytes.
	NativeOverhead = NativeHeaderLen + NativeTagLen

	// NativeKind are the first bits of a native datagram, those of
	// NativeKindMask. Of the others two are zero and four the epoch's.
	NativeKind     = 0x80
	NativeKindMask = 0xc0

	offNativeIndex   = 1
	offNativeCounter = 5

	nativeReserved = 0x30
	nativeEpoch    = 0x0f

	nativeNonceLen     = 12
	offNonceCounter    = 4
	nativeCounterLimit = 1 << 63
)

// ErrKind says that a datagram does not begin as a native one does.
var ErrKind = errors.New("not a native datagram of a kind we know")

// NativeIndex reads which path a datagram is for. Errors: ErrShort, ErrKind.
func NativeIndex(datagram []byte) (uint32, error) {
	if len(datagram) < NativeOverhead {
		return 0, ErrShort
	}
	if datagram[0]&(NativeKindMask|nativeReserved) != NativeKind {
		return 0, ErrKind
	}
	return binary.BigEndian.Uint32(datagram[offNativeIndex:]), nil
}
