package frame

import "encoding/binary"

// layers says where the headers of a TCP segment or a UDP datagram lie in its
// frame, all in bytes from the frame's first.
//
//	0       l3       l4           payload   end
//	+-------+--------+------------+---------+---------+
//	|MACs,  | IP,    | TCP or UDP |         |trailing |
//	|tags   | options| header     |         |bytes    |
//	+-------+--------+------------+---------+---------+
type layers struct {
	l3, l4, payload, end int
	v6                   bool
	proto                uint8 // protoTCP or protoUDP
}

// findLayers finds the layers of a frame. ok is false for all that is not TCP or
// UDP over IP, for fragments and for headers that do not hold; every offset of
// layers lies within b. Checksums are not looked at, nor UDP's length.
func findLayers(b []byte) (l layers, ok bool) {
	typ, l3 := EtherType(b)
	l.l3 = l3
	p := b[l3:]
	switch typ {
	case EtherTypeIPv4:
		hdr, total, ok := ipv4Header(p)
		if !ok || binary.BigEndian.Uint16(p[ipv4Frag:])&(ipv4MF|ipv4OffMask) != 0 {
			return l, false
		}
		l.proto, l.l4, l.end = p[ipv4Proto], l3+hdr, l3+total
	case EtherTypeIPv6:
		total, ok := ipv6Header(p)
		if !ok {
			return l, false
		}
		proto, at, ok := ipv6Transport(p[:total])
		if !ok {
			return l, false
		}
		l.v6, l.proto, l.l4, l.end = true, proto, l3+at, l3+total
	default:
		return l, false
	}
	return l, l.findPayload(b)
}

// findPayload looks at the TCP or UDP header of b and sets payload.
func (l *layers) findPayload(b []byte) bool {
	t := b[l.l4:l.end]
	switch l.proto {
	case protoTCP:
		if len(t) < tcpHeaderLen {
			return false
		}
		hdr := int(t[tcpOff]>>4) * 4
		l.payload = l.l4 + hdr
		return hdr >= tcpHeaderLen && hdr <= len(t)
	case protoUDP:
		l.payload = l.l4 + udpHeaderLen
		return len(t) >= udpHeaderLen
	default:
		return false
	}
}

// checksumOffset is where the checksum lies, counted from l4.
func (l *layers) checksumOffset() int {
	if l.proto == protoTCP {
		return tcpChecksum
	}
	return udpChecksum
}

// addrs returns the source and destination address in b.
func (l *layers) addrs(b []byte) []byte {
	if l.v6 {
		return b[l.l3+ipv6Src : l.l3+ipv6HeaderLen]
	}
	return b[l.l3+ipv4Src : l.l3+ipv4HeaderLen]
}

// ipv6Transport finds the upper layer of the packet p, whose header is valid,
// behind those extension headers behind which Linux offloads it: hop-by-hop,
// routing and destination options. proto is what stands there, and at may be
// len(p). ok is false for fragments and where the chain is cut short or too
// long.
func ipv6Transport(p []byte) (proto uint8, at int, ok bool) {
	proto, at = p[ipv6Next], ipv6HeaderLen
	for range maxExtensions {
		switch proto {
		case extHopByHop, extRouting, extDstOpts:
			if len(p) < at+8 {
				return 0, 0, false
			}
			proto, at = p[at], at+(int(p[at+1])+1)*8
			if len(p) < at {
				return 0, 0, false
			}
		case extFragment:
			return 0, 0, false
		default:
			return proto, at, true
		}
	}
	return 0, 0, false
}
