package frame

import "encoding/binary"

// An IPv6 header (RFC 8200, section 3).
//
//	0                  4       6      7     8     24    40
//	+------------------+-------+------+-----+-----+-----+-----------
//	|6|class|flow label|  len  | next | hops| src | dst | extensions, payload
//	+------------------+-------+------+-----+-----+-----+-----------
const (
	ipv6HeaderLen = 40
	ipv6Len       = 4
	ipv6Next      = 6
	ipv6Hops      = 7
	ipv6Src       = 8
	ipv6Dst       = 24
	ipv6AddrLen   = 16
)

// MinMTUIPv6 is the MTU in bytes that every IPv6 link has (RFC 8200, section 5).
const MinMTUIPv6 = 1280

// Extension headers (RFC 8200, section 4; RFC 4302 for authentication).
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAuth     = 51
	extDstOpts  = 60
)

// maxExtensions bounds how many extension headers are skipped.
const maxExtensions = 8

// ipv6Header checks the IPv6 header at the start of p and returns the packet's
// total length in bytes, which is within p.
func ipv6Header(p []byte) (total int, ok bool) {
	if len(p) < ipv6HeaderLen || p[0]>>4 != 6 {
		return 0, false
	}
	total = ipv6HeaderLen + int(binary.BigEndian.Uint16(p[ipv6Len:]))
	if len(p) < total {
		return 0, false
	}
	return total, true
}

// ipv6Upper finds the upper layer of the packet p, whose header is valid: its
// protocol number and where it begins. It stops at what it cannot look
// through: extFragment for a fragment other than the first. ok is false where
// the chain is cut short or too long.
func ipv6Upper(p []byte) (proto uint8, at int, ok bool) {
	proto, at = p[ipv6Next], ipv6HeaderLen
	for range maxExtensions {
		var n int
		switch proto {
		case extHopByHop, extRouting, extFragment, extAuth, extDstOpts:
			if len(p) < at+8 {
				return 0, 0, false
			}
		default:
			return proto, at, true
		}
		switch proto {
		case extFragment:
			if binary.BigEndian.Uint16(p[at+2:])>>3 != 0 {
				return extFragment, at, true
			}
			n = 8
		case extAuth:
			n = (int(p[at+1]) + 2) * 4
		default:
			n = (int(p[at+1]) + 1) * 8
		}
		proto, at = p[at], at+n
	}
	return 0, 0, false
}

// ipv6Unicast reports whether addr can be one host's address.
func ipv6Unicast(addr []byte) bool {
	addr = addr[:ipv6AddrLen]
	if addr[0] == 0xff {
		return false
	}
	// :: and ::1
	var or byte
	for _, x := range addr[:ipv6AddrLen-1] {
		or |= x
	}
	return or != 0 || addr[ipv6AddrLen-1] > 1
}
