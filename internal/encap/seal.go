package encap

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"golang.org/x/crypto/nacl/secretbox"

	"meshd/internal/frame"
)

// A sealed sleeve datagram (weave protocol, section 6.3).
//
//	0      6                14            30
//	+------+----------------+-------------+-----------------------+
//	|sender| DF bit (1 bit) | Poly1305 tag| XSalsa20 ciphertext of|
//	| name | seq (63 bits)  | 16 bytes    | the packets           |
//	+------+----------------+-------------+-----------------------+
//
// Its nonce:
//
//	0                                   1      16               24
//	+-----------------------------------+------+----------------+
//	| 0x80 if the SENDER dialled, else 0|  0 … | DF bit and seq |
//	+-----------------------------------+------+----------------+
const (
	// SleeveSealOverhead is the number of bytes that sealing adds.
	SleeveSealOverhead = seqLen + secretbox.Overhead

	seqLen      = 8
	offSeq      = SleeveNameLen
	offBox      = offSeq + seqLen
	offNonceSeq = 16
	nonceLen    = 24

	nonceDialled = 0x80
	seqDF        = 1 << 63
)

// Why a datagram does not open.
var (
	ErrShort  = errors.New("datagram is too short")
	ErrAuth   = errors.New("datagram does not open under this key")
	ErrReplay = errors.New("datagram was seen before or is too old")
)

// nonce is the nonce that goes with what stands at offSeq.
func nonce(dialled byte, seq uint64) (n [nonceLen]byte) {
	n[0] = dialled
	binary.BigEndian.PutUint64(n[offNonceSeq:], seq)
	return n
}

func dialledByte(senderDialled bool) byte {
	if senderDialled {
		return nonceDialled
	}
	return 0
}

// SleeveSeal seals the datagrams of one direction of one connection. It may be
// used concurrently.
type SleeveSeal struct {
	key     [32]byte
	dialled byte
	next    [2]atomic.Uint64 // sequence numbers: non-DF class, DF class
}

// NewSleeveSeal returns a seal whose sequence numbers begin at 0, under the
// session key of section 1.6. Two seals of one key and direction would repeat
// nonces: make one for each connection. senderDialled: we opened the control
// connection.
func NewSleeveSeal(key *[32]byte, senderDialled bool) *SleeveSeal {
	return &SleeveSeal{key: *key, dialled: dialledByte(senderDialled)}
}

// Seal appends a whole datagram to dst: the sender's name, class and sequence
// number, and the packets sealed, SleeveNameLen+SleeveSealOverhead bytes more
// than packets has. packets must not lie in dst's spare capacity. It allocates
// only if dst is too small.
func (s *SleeveSeal) Seal(dst []byte, sender frame.PeerName, packets []byte, df bool) []byte {
	class := 0
	if df {
		class = 1
	}
	// 2^63 datagrams are not sent in a machine's life: at 10^8 a second they take
	// 2900 years.
	seq := s.next[class].Add(1) - 1
	if df {
		seq |= seqDF
	}
	dst = AppendSleeveName(dst, sender)
	dst = binary.BigEndian.AppendUint64(dst, seq)
	n := nonce(s.dialled, seq)
	return secretbox.Seal(dst, packets, &n, &s.key)
}

// SleeveOpen opens the datagrams of one direction of one connection. It must
// not be used concurrently: its replay windows have no lock.
type SleeveOpen struct {
	key     [32]byte
	dialled byte
	windows [2]Window // non-DF class, DF class
}

// NewSleeveOpen returns an opener with empty replay windows under the session
// key of section 1.6. senderDialled: the neighbour opened the control
// connection.
func NewSleeveOpen(key *[32]byte, senderDialled bool) *SleeveOpen {
	return &SleeveOpen{key: *key, dialled: dialledByte(senderDialled)}
}

// Open appends to dst the packets of a whole datagram, sender's name included
// (which is not authenticated and not looked at). Errors: ErrShort, ErrAuth,
// ErrReplay; dst then returns as it was. datagram must not lie in dst's spare
// capacity. It allocates only if dst is too small.
func (o *SleeveOpen) Open(dst, datagram []byte) (packets []byte, err error) {
	if len(datagram) < SleeveNameLen+SleeveSealOverhead {
		return dst, ErrShort
	}
	seq := binary.BigEndian.Uint64(datagram[offSeq:])
	n := nonce(o.dialled, seq)
	packets, ok := secretbox.Open(dst, datagram[offBox:], &n, &o.key)
	if !ok {
		return dst, ErrAuth
	}
	if !o.windows[seq>>63].Accept(seq &^ seqDF) {
		return dst, ErrReplay
	}
	return packets, nil
}
