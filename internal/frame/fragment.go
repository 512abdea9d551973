package frame

import (
	"encoding/binary"
	"errors"
)

// What FragmentIPv4 refuses.
var (
	// ErrNotIPv4 says that a frame has no valid IPv4 header; one that claims more
	// bytes than the frame has is not valid.
	ErrNotIPv4 = errors.New("frame has no valid IPv4 header")
	// ErrDontFragment says that the packet has the don't-fragment flag.
	ErrDontFragment = errors.New("packet must not be fragmented")
	// ErrSmallMTU says that an MTU leaves no room for 8 bytes of payload.
	ErrSmallMTU = errors.New("MTU leaves no room for a fragment")
)

// maxFragmentEnd is where the last byte of an IPv4 payload can be at most.
const maxFragmentEnd = 65535

// FragmentIPv4 splits the IPv4 packet in the frame b, which may have VLAN tags,
// so that no fragment's frame is longer than mtu+HeaderLen bytes, and calls emit
// for each in order (weave protocol, section 6.8; RFC 791, section 3.2). Options
// are kept in every fragment as they are; a packet that is a fragment already
// keeps its offset and its last more-fragments flag. What follows the packet
// in the frame is left out. Fragments are built in scratch, which is only
// replaced if it has less capacity than b, and are borrowed for the call of
// emit. Errors: ErrNotIPv4, ErrDontFragment, ErrSmallMTU; emit was not called.
func FragmentIPv4(b []byte, mtu int, scratch []byte, emit func(frag []byte)) error {
	typ, l3 := EtherType(b)
	if typ != EtherTypeIPv4 {
		return ErrNotIPv4
	}
	hdr, total, ok := ipv4Header(b[l3:])
	if !ok {
		return ErrNotIPv4
	}
	b = b[:l3+total]
	mtu = min(max(mtu, 0), maxFragmentEnd)
	if len(b) <= mtu+HeaderLen {
		emit(b)
		return nil
	}
	flags := binary.BigEndian.Uint16(b[l3+ipv4Frag:])
	if flags&ipv4DF != 0 {
		return ErrDontFragment
	}
	head, payload := b[:l3+hdr], b[l3+hdr:]
	room := (mtu + HeaderLen - len(head)) &^ 7
	if room < 8 {
		return ErrSmallMTU
	}
	// A packet that reassembles to more than IPv4 can hold is an attack, and its
	// offset would not fit the field.
	if int(flags&ipv4OffMask)*8+len(payload) > maxFragmentEnd {
		return ErrNotIPv4
	}
	for len(payload) > 0 {
		n := min(room, len(payload))
		scratch = append(append(scratch[:0], head...), payload[:n]...)
		payload = payload[n:]
		putFragment(scratch[l3:], hdr, flags, len(payload) > 0)
		emit(scratch)
		flags += uint16(n / 8)
	}
	return nil
}

// putFragment writes what is a fragment's own into the header of the packet p:
// length, flags and offset, checksum.
func putFragment(p []byte, hdr int, flags uint16, more bool) {
	if more {
		flags |= ipv4MF
	}
	binary.BigEndian.PutUint16(p[ipv4Len:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[ipv4Frag:], flags)
	putIPv4Checksum(p[:hdr])
}
