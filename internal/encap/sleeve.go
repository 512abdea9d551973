package encap

import (
	"encoding/binary"
	"errors"
	"math"

	"meshd/internal/frame"
)

// A plain sleeve datagram (weave protocol, section 6.2).
//
//	0      6       12      18    20              20+n
//	+------+-------+-------+-----+----------------+-------- next packet
//	|sender| src   | dst   |  n  | frame          | src dst n frame …
//	| name | peer  | peer  |u16  | n bytes        |
//	+------+-------+-------+-----+----------------+--------
//	:      '------------- packets ------------------------- …
const (
	// SleeveNameLen is the length in bytes of the sender's name, which selects
	// the connection.
	SleeveNameLen = frame.PeerNameLen
	// SleevePacketHeader is the length in bytes of what stands before each frame.
	SleevePacketHeader = 14
	// MaxDatagram is the longest UDP payload over IPv4 in bytes.
	MaxDatagram = 65507
)

// Offsets in a packet's header.
const (
	offPacketSrc = 0
	offPacketDst = 6
	offPacketLen = 12
)

// ErrTrailing says that a datagram ends with bytes that do not make a packet.
var ErrTrailing = errors.New("trailing bytes do not make a packet")

// AppendSleeveName appends the sender's name, which begins every datagram.
func AppendSleeveName(b []byte, sender frame.PeerName) []byte {
	var name [SleeveNameLen]byte
	sender.Put(name[:])
	return append(b, name[:]...)
}

// AppendSleevePacket appends a packet: the frame data from src to dst. A frame
// over 65535 bytes has no encoding, and b is returned as it was.
func AppendSleevePacket(b []byte, src, dst frame.PeerName, data []byte) []byte {
	if len(data) > math.MaxUint16 {
		return b
	}
	return append(AppendSleeveHeader(b, src, dst, len(data)), data...)
}

// AppendSleeveHeader appends what stands before a frame of n bytes, at most
// 65535, from src to dst; the caller appends the frame.
func AppendSleeveHeader(b []byte, src, dst frame.PeerName, n int) []byte {
	var header [SleevePacketHeader]byte
	src.Put(header[offPacketSrc:])
	dst.Put(header[offPacketDst:])
	binary.BigEndian.PutUint16(header[offPacketLen:], uint16(n))
	return append(b, header[:]...)
}

// SleeveReader walks the packets of one datagram. It does not allocate.
type SleeveReader struct {
	rest []byte
	err  error
}

// NewSleeveReader reads packets: a plain datagram after the sender's name, or
// what SleeveOpen gave. The bytes are borrowed as long as the reader and its
// packets are used.
func NewSleeveReader(packets []byte) SleeveReader { return SleeveReader{rest: packets} }

// Next returns the next packet, whose frame lies in the datagram and may be of
// any length, 0 included; false at the end.
func (r *SleeveReader) Next() (frame.Packet, bool) {
	if len(r.rest) == 0 {
		return frame.Packet{}, false
	}
	if len(r.rest) < SleevePacketHeader {
		return r.fail()
	}
	end := SleevePacketHeader + int(binary.BigEndian.Uint16(r.rest[offPacketLen:]))
	if len(r.rest) < end {
		return r.fail()
	}
	p := frame.Packet{
		Src: frame.PeerNameOf(r.rest[offPacketSrc:]),
		Dst: frame.PeerNameOf(r.rest[offPacketDst:]),
	}
	p.Frame.Data = r.rest[SleevePacketHeader:end:end]
	r.rest = r.rest[end:]
	return p, true
}

// Err returns ErrTrailing if the datagram ended with bytes that do not make a
// packet. The packets before them count.
func (r *SleeveReader) Err() error { return r.err }

func (r *SleeveReader) fail() (frame.Packet, bool) {
	r.rest, r.err = nil, ErrTrailing
	return frame.Packet{}, false
}
