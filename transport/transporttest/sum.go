package transporttest

import "meshd/internal/frame"

// L4Sum is the sum of the TCP segment or UDP datagram that an IP packet without
// options carries to the end of the frame, and of its pseudo header: 0xffff if
// the checksum is right.
func L4Sum(b []byte) uint16 {
	typ, l3 := frame.EtherType(b)
	proto, addrs, l4 := b[l3+9], b[l3+12:l3+20], b[l3+20:]
	if typ == frame.EtherTypeIPv6 {
		proto, addrs, l4 = b[l3+6], b[l3+8:l3+40], b[l3+40:]
	}
	return frame.Sum(frame.PseudoSum(addrs, proto, len(l4)), l4)
}
