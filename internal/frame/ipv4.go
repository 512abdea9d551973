package frame

import "encoding/binary"

// An IPv4 header (RFC 791, section 3.1). IHL counts 4-byte words.
//
//	0       1     2       4    6          8    9      10       12    16    20
//	+-------+-----+-------+----+----------+-----+------+--------+-----+-----+------
//	|4 | IHL| TOS |  len  | id |flags|off | TTL |proto |checksum| src | dst |options
//	+-------+-----+-------+----+----------+-----+------+--------+-----+-----+------
const (
	ipv4HeaderLen = 20
	ipv4TOS       = 1
	ipv4Len       = 2
	ipv4ID        = 4
	ipv4Frag      = 6
	ipv4TTL       = 8
	ipv4Proto     = 9
	ipv4Checksum  = 10
	ipv4Src       = 12
	ipv4Dst       = 16
)

// The flags and the fragment offset, which counts 8-byte units.
const (
	ipv4DF      = 0x4000
	ipv4MF      = 0x2000
	ipv4OffMask = 0x1fff
)

const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// ipv4Header checks the IPv4 header at the start of p and returns its length
// and the packet's total length, both in bytes and within p. The header's
// checksum is not looked at.
func ipv4Header(p []byte) (hdr, total int, ok bool) {
	if len(p) < ipv4HeaderLen || p[0]>>4 != 4 {
		return 0, 0, false
	}
	hdr = int(p[0]&0xf) * 4
	total = int(binary.BigEndian.Uint16(p[ipv4Len:]))
	if hdr < ipv4HeaderLen || total < hdr || len(p) < total {
		return 0, 0, false
	}
	return hdr, total, true
}

// putIPv4Checksum computes the checksum of the header hdr.
func putIPv4Checksum(hdr []byte) {
	binary.BigEndian.PutUint16(hdr[ipv4Checksum:], 0)
	binary.BigEndian.PutUint16(hdr[ipv4Checksum:], Checksum(hdr))
}

// ipv4Unicast reports whether addr can be one host's address: not 0.0.0.0/8,
// loopback, multicast, reserved or the limited broadcast.
func ipv4Unicast(addr []byte) bool {
	return addr[0] != 0 && addr[0] != 127 && addr[0] < 224
}
