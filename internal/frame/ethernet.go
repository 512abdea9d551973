package frame

import "encoding/binary"

// The EtherTypes that meshd looks at.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
	EtherTypeVLAN = 0x8100 // 802.1Q, customer tag
	EtherTypeQinQ = 0x88a8 // 802.1ad, service tag
)

// VLANTagLen is the length in bytes of one 802.1Q or 802.1ad tag.
const VLANTagLen = 4

// maxTags is how many VLAN tags EtherType looks through.
const maxTags = 2

// An Ethernet header (IEEE 802.3), and one with a tag (IEEE 802.1Q).
//
//	0     6     12   14
//	+-----+-----+----+---------+
//	| dst | src |type| payload |    untagged
//	+-----+-----+----+---------+
//	0     6     12   14   16   18
//	+-----+-----+----+----+----+---------+
//	| dst | src |8100|TCI |type| payload |    one tag; a second one repeats it
//	+-----+-----+----+----+----+---------+
const (
	offSrc  = 6
	offType = 12
)

// Dst returns the destination MAC of a frame of at least HeaderLen bytes.
func Dst(b []byte) MAC { return MAC(b[:offSrc]) }

// Src returns the source MAC of a frame of at least HeaderLen bytes.
func Src(b []byte) MAC { return MAC(b[offSrc:offType]) }

// EtherType returns the type of a frame's payload and the offset where the
// payload begins, looking through at most two VLAN tags. l3 is HeaderLen if and
// only if the frame has no tag. A frame that ends before its type does has type
// 0 and l3 len(b). Types below 0x600 are lengths of 802.3 frames.
func EtherType(b []byte) (typ uint16, l3 int) {
	if len(b) < HeaderLen {
		return 0, len(b)
	}
	typ, l3 = binary.BigEndian.Uint16(b[offType:]), HeaderLen
	for range maxTags {
		if typ != EtherTypeVLAN && typ != EtherTypeQinQ {
			break
		}
		if len(b) < l3+VLANTagLen {
			return 0, len(b)
		}
		typ = binary.BigEndian.Uint16(b[l3+2:])
		l3 += VLANTagLen
	}
	return typ, l3
}

// appendSwapped appends the Ethernet header of orig, tags included, with source
// and destination exchanged: the header of an answer to orig.
func appendSwapped(dst, orig []byte, l3 int) []byte {
	dst = append(dst, orig[offSrc:offType]...)
	dst = append(dst, orig[:offSrc]...)
	return append(dst, orig[offType:l3]...)
}
