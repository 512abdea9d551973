package frame

import "encoding/binary"

// An ICMP error about a packet that is too big (RFC 1191, section 4; RFC 4443,
// section 3.2).
//
//	0    1    2        4        6     8
//	+----+----+--------+--------+-----+---------------------------
//	| 3  | 4  |checksum|   0    | MTU | IP header + 8 bytes           ICMPv4
//	| 2  | 0  |checksum|     MTU      | as much as 1280 bytes allow   ICMPv6
//	+----+----+--------+--------+-----+---------------------------
const (
	icmpHeaderLen = 8
	icmpChecksum  = 2
	icmpMTU       = 4
	icmpMTUv4     = 6
)

const (
	icmpUnreachable  = 3
	icmpFragNeeded   = 4 // code
	icmpSourceQuench = 4
	icmpRedirect     = 5
	icmpTimeExceeded = 11
	icmpParameter    = 12
	icmpLastType     = 18 // highest type that is known not to be an error

	icmpv6TooBig   = 2
	icmpv6Redirect = 137
	icmpv6Info     = 0x80 // bit of the types that are not errors
)

const (
	icmpTTL    = 64
	icmpQuoted = 8 // bytes of payload in an ICMPv4 error, RFC 792
)

// MaxFragNeededLen is the length in bytes of the longest frame that
// AppendFragNeeded makes, with two tags and a header full of options.
const MaxFragNeededLen = HeaderLen + 2*VLANTagLen + ipv4HeaderLen + icmpHeaderLen + 60 + icmpQuoted

// MaxPacketTooBigLen is the same of AppendPacketTooBig.
const MaxPacketTooBigLen = HeaderLen + 2*VLANTagLen + MinMTUIPv6

// AppendFragNeeded appends the frame that tells the sender of orig, an IPv4
// packet with the don't-fragment flag, that its frame is longer than
// mtu+HeaderLen bytes: ICMP type 3 code 4 as weave protocol, section 6.8, has
// it, with the tags of orig; each tag lowers the MTU that it tells by 4. It
// comes from the address that orig was sent to. There is no such frame, and
// dst returns unchanged with false, for what is not a whole IPv4 packet with
// the flag and for what RFC 1122, section 3.2.2, wants no error about: ICMP
// errors, fragments other than the first, and packets from or to anything but
// one host.
func AppendFragNeeded(dst, orig []byte, mtu int) ([]byte, bool) {
	c := Classify(orig)
	p := orig[c.L3 : c.L3+c.Len]
	if c.Kind != IPv4DF || !unicastHeader(orig) || !ipv4Answerable(p) {
		return dst, false
	}
	hdr := int(p[0]&0xf) * 4
	quote := p[:min(hdr+icmpQuoted, len(p))]
	mtu -= c.L3 - HeaderLen

	dst = appendSwapped(dst, orig, c.L3)
	ip := len(dst)
	dst = append(dst, 0x45, p[ipv4TOS])
	dst = binary.BigEndian.AppendUint16(dst, uint16(ipv4HeaderLen+icmpHeaderLen+len(quote)))
	dst = append(dst, 0, 0, 0, 0, icmpTTL, protoICMP, 0, 0)
	dst = append(dst, p[ipv4Dst:ipv4Dst+4]...)
	dst = append(dst, p[ipv4Src:ipv4Src+4]...)
	putIPv4Checksum(dst[ip:])

	icmp := len(dst)
	dst = append(dst, icmpUnreachable, icmpFragNeeded, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(min(max(mtu, 0), 0xffff)))
	dst = append(dst, quote...)
	binary.BigEndian.PutUint16(dst[icmp+icmpChecksum:], Checksum(dst[icmp:]))
	return dst, true
}

// AppendPacketTooBig appends the frame that tells the sender of orig, an IPv6
// packet, that its frame is longer than mtu+HeaderLen bytes: ICMPv6 type 2 (RFC
// 4443, section 3.2), with the tags of orig, from the address that orig was
// sent to. The MTU it tells is at least 1280, which IPv6 demands. dst returns
// unchanged with false for what is not a whole IPv6 packet and for what section
// 2.4 (e) wants no error about: ICMPv6 errors and redirects, and packets from
// anything but one host; also for those to a multicast address, since the error
// would have no source.
func AppendPacketTooBig(dst, orig []byte, mtu int) ([]byte, bool) {
	c := Classify(orig)
	p := orig[c.L3 : c.L3+c.Len]
	if c.Kind != IPv6 || !unicastHeader(orig) || !ipv6Answerable(p) {
		return dst, false
	}
	quote := p[:min(MinMTUIPv6-ipv6HeaderLen-icmpHeaderLen, len(p))]
	mtu = max(mtu-(c.L3-HeaderLen), MinMTUIPv6)

	dst = appendSwapped(dst, orig, c.L3)
	ip := len(dst)
	dst = append(dst, p[0], p[1]&0xf0, 0, 0) // traffic class as it came, no flow label
	dst = binary.BigEndian.AppendUint16(dst, uint16(icmpHeaderLen+len(quote)))
	dst = append(dst, protoICMPv6, icmpTTL)
	dst = append(dst, p[ipv6Dst:ipv6Dst+ipv6AddrLen]...)
	dst = append(dst, p[ipv6Src:ipv6Src+ipv6AddrLen]...)

	icmp := len(dst)
	dst = append(dst, icmpv6TooBig, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(mtu))
	dst = append(dst, quote...)
	pseudo := PseudoSum(dst[ip+ipv6Src:ip+ipv6HeaderLen], protoICMPv6, len(dst)-icmp)
	binary.BigEndian.PutUint16(dst[icmp+icmpChecksum:], ^Sum(pseudo, dst[icmp:]))
	return dst, true
}

// unicastHeader reports whether a frame goes from one station to one station.
func unicastHeader(b []byte) bool { return !Dst(b).Multicast() && !Src(b).Multicast() }

// ipv4Answerable reports whether the packet p may be answered with an ICMP error.
func ipv4Answerable(p []byte) bool {
	if binary.BigEndian.Uint16(p[ipv4Frag:])&ipv4OffMask != 0 {
		return false
	}
	if !ipv4Unicast(p[ipv4Src:]) || !ipv4Unicast(p[ipv4Dst:]) {
		return false
	}
	if p[ipv4Proto] != protoICMP {
		return true
	}
	hdr := int(p[0]&0xf) * 4
	if len(p) <= hdr {
		return false
	}
	switch typ := p[hdr]; typ {
	case icmpUnreachable, icmpSourceQuench, icmpRedirect, icmpTimeExceeded, icmpParameter:
		return false
	default:
		return typ <= icmpLastType
	}
}

// ipv6Answerable reports whether the packet p may be answered with an ICMPv6
// error.
func ipv6Answerable(p []byte) bool {
	if !ipv6Unicast(p[ipv6Src:]) || !ipv6Unicast(p[ipv6Dst:]) {
		return false
	}
	proto, at, ok := ipv6Upper(p)
	if !ok {
		return false
	}
	if proto != protoICMPv6 {
		return true
	}
	return len(p) > at && p[at]&icmpv6Info != 0 && p[at] != icmpv6Redirect
}
