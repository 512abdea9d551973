package frame

import (
	"encoding/binary"
	"errors"
)

// ErrOffload says that a frame's Offload does not fit its bytes: lengths,
// offsets or types that lie, or what meshd cannot cut.
var ErrOffload = errors.New("offload metadata does not fit the frame")

// gsoByFrags is a segment size with a meaning of its own inside Linux
// (GSO_BY_FRAGS), which therefore refuses it from outside.
const gsoByFrags = 0xffff

// MaxSegments is how many frames may be cut from one: a TCP whose peer wants the
// smallest segments and all options sends 8 bytes in each. A peer's lie of 1 byte
// would cost more than all else that it could send.
const MaxSegments = 65536 / 8

// Wild reports whether a super-frame stands for more frames than anybody sends.
func (f *Frame) Wild() bool {
	o := &f.Offload
	return o.GSOType != GSONone && len(f.Data) > MaxSegments*int(o.GSOSize)
}

// CheckOffload tells whether a frame's Offload can be true of its bytes. Who
// reads frames with metadata from the kernel or a peer calls it before he
// hands them on. The error is ErrOffload.
//
// A super-frame has to be TCP or UDP over the IP version its type says, no
// fragment, with an IP (and UDP) length that is exactly what is there. For an
// unfinished checksum of TCP or UDP the two offsets have to be those of the
// header; of another protocol, or of a packet inside a UDP tunnel, they have to
// lie behind the IP header. HdrLen is a hint, as it is in Linux, and not looked
// at.
func CheckOffload(f Frame) error {
	_, err := checkOffload(f)
	return err
}

// checkOffload is CheckOffload, and finds the layers of a super-frame.
func checkOffload(f Frame) (layers, error) {
	switch o := f.Offload; {
	case o.Flags&^(NeedsCsum|DataValid) != 0:
		return layers{}, ErrOffload
	case o.GSOType != GSONone:
		return checkSuper(f.Data, o)
	case o.Flags&NeedsCsum != 0 && !checkPartial(f.Data, o):
		return layers{}, ErrOffload
	default:
		return layers{}, nil
	}
}

// checkSuper checks a super-frame.
func checkSuper(b []byte, o Offload) (layers, error) {
	l, ok := findLayers(b)
	if !ok || l.end != len(b) || !l.is(o.GSOType) || o.GSOSize == 0 || o.GSOSize == gsoByFrags {
		return l, ErrOffload
	}
	if o.Flags&NeedsCsum != 0 {
		if int(o.CsumStart) != l.l4 || int(o.CsumOffset) != l.checksumOffset() {
			return l, ErrOffload
		}
	} else if l.proto == protoUDP && binary.BigEndian.Uint16(b[l.l4+udpChecksum:]) != 0 {
		// A sum over the whole super-frame says nothing about its datagrams.
		return l, ErrOffload
	}
	if l.proto == protoUDP && int(binary.BigEndian.Uint16(b[l.l4+udpLen:])) != l.end-l.l4 {
		return l, ErrOffload
	}
	return l, nil
}

// is reports whether a super-frame with these layers may have this type.
func (l *layers) is(gsoType uint8) bool {
	switch gsoType {
	case GSOTCPv4, GSOTCPv4 | GSOECN:
		return l.proto == protoTCP && !l.v6
	case GSOTCPv6, GSOTCPv6 | GSOECN:
		return l.proto == protoTCP && l.v6
	case GSOUDP:
		return l.proto == protoUDP
	default:
		return false
	}
}

// checkPartial checks the place of an ordinary frame's unfinished checksum.
func checkPartial(b []byte, o Offload) bool {
	typ, l3 := EtherType(b)
	p := b[l3:]
	// Something that is not IP for us may carry IP, whose header is before start.
	proto, at, end := uint8(0), ipv4HeaderLen, len(p)
	ok := true
	switch typ {
	case EtherTypeIPv4:
		at, end, ok = ipv4Header(p)
		ok = ok && binary.BigEndian.Uint16(p[ipv4Frag:])&(ipv4MF|ipv4OffMask) == 0
		if ok {
			proto = p[ipv4Proto]
		}
	case EtherTypeIPv6:
		if end, ok = ipv6Header(p); ok {
			proto, at, ok = ipv6Transport(p[:end])
		}
	}
	start, offset := int(o.CsumStart)-l3, int(o.CsumOffset)
	switch {
	case !ok || start < at || start+offset+2 > end:
		return false
	case proto == protoTCP:
		return start == at && offset == tcpChecksum
	case proto == protoUDP:
		return start > at || offset == udpChecksum
	default:
		return true
	}
}

// partial is the Offload of a frame with an unfinished checksum.
func (l *layers) partial() Offload {
	return Offload{Flags: NeedsCsum, CsumStart: uint16(l.l4), CsumOffset: uint16(l.checksumOffset())}
}
