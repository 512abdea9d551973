package frame

import "encoding/binary"

// Kind is what a transport needs to know of a frame to choose how it travels
// (weave protocol, section 6.8).
type Kind uint8

const (
	Other  Kind = iota // not IP, or a header that does not hold
	IPv4               // IPv4 that may be fragmented
	IPv4DF             // IPv4 with the don't-fragment flag
	IPv6
)

var kindNames = [...]string{"other", "ipv4", "ipv4-df", "ipv6"}

// String returns the kind in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// Class is what Classify found out about a frame.
type Class struct {
	Kind Kind
	// Tagged: the IP header stands behind VLAN tags. Stock routers do not look
	// there and take such a frame for Other.
	Tagged bool
	// L3 is the offset of what follows the Ethernet header and its tags.
	L3 int
	// Len is the length in bytes of the IP packet, which ends within the frame;
	// for Other that of all that follows the Ethernet header.
	Len int
}

// Classify looks at a frame's headers. A frame whose IP header is cut short, or
// claims more bytes than are there, is Other. It does not allocate.
func Classify(b []byte) Class {
	typ, l3 := EtherType(b)
	c := Class{Tagged: l3 > HeaderLen, L3: l3, Len: len(b) - l3}
	p := b[l3:]
	switch typ {
	case EtherTypeIPv4:
		if _, total, ok := ipv4Header(p); ok {
			c.Kind, c.Len = IPv4, total
			if binary.BigEndian.Uint16(p[ipv4Frag:])&ipv4DF != 0 {
				c.Kind = IPv4DF
			}
		}
	case EtherTypeIPv6:
		if total, ok := ipv6Header(p); ok {
			c.Kind, c.Len = IPv6, total
		}
	}
	return c
}
