package claim

import (
	"encoding/binary"
	"net/netip"

	"meshd/internal/frame"
)

// An ARP packet for IPv4 over Ethernet (RFC 826), with its Ethernet header.
//
//	0     6     12    14     16     18     19     20   22    28    32    38    42
//	+-----+-----+-----+------+------+------+------+----+-----+-----+-----+-----+
//	| dst | src |0806 | 0001 | 0800 |   6  |   4  | op | MAC | IP  | MAC | IP  |
//	+-----+-----+-----+------+------+------+------+----+-----+-----+-----+-----+
//	                    hardware and protocol           sender      target
const (
	arpAt        = frame.HeaderLen
	arpOp        = arpAt + 6
	arpSenderMAC = arpAt + 8
	arpSenderIP  = arpAt + 14
	arpTargetIP  = arpAt + 24
	arpEnd       = arpAt + 28

	arpRequest = 1
	arpReply   = 2
)

// arpFixed begins each ARP packet for IPv4 over Ethernet.
const arpFixed = "\x00\x01\x08\x00\x06\x04"

// A neighbour solicitation or advertisement (RFC 4861, sections 4.3 and 4.4), with
// its Ethernet header. Extension headers are not looked through: nobody puts them
// before these messages.
//
//	0     6     12    14            54   55   56     58          62       78
//	+-----+-----+-----+-------------+----+----+------+-----------+--------+---------
//	| dst | src |86dd | IPv6 header |type|  0 | sum  | flags, 0  | target | options
//	+-----+-----+-----+-------------+----+----+------+-----------+--------+---------
const (
	ipv6At    = frame.HeaderLen
	ipv6Len   = ipv6At + 4
	ipv6Next  = ipv6At + 6
	ipv6Hops  = ipv6At + 7
	ipv6Src   = ipv6At + 8
	ipv6Dst   = ipv6At + 24
	icmpAt    = ipv6At + 40
	icmpSum   = icmpAt + 2
	icmpFlags = icmpAt + 4
	ndTarget  = icmpAt + 8
	ndOptions = icmpAt + 24

	protoICMPv6   = 58
	solicitation  = 135
	advertisement = 136
	ndHops        = 255 // another value has crossed a router
	flagOverride  = 0x20
	optTargetMAC  = 2
)

var (
	broadcast = frame.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.IPv6LinkLocalAllNodes()
)

// sign is what a frame says about an address.
type sign struct {
	addr    netip.Addr
	mac     frame.MAC // who sent the frame
	probing bool      // the sender asks for the address, it does not have it
}

// parse reads what a frame says about an address; ok is false where it says
// nothing, or is not well formed. Frames with a VLAN tag are of other networks.
func parse(b []byte) (s sign, ok bool) {
	if len(b) < frame.HeaderLen {
		return sign{}, false
	}
	// The Ethernet source, not what the message calls its sender, is what bridges
	// and routers learn from: it leads to the host.
	s.mac = frame.Src(b)
	if s.mac.Multicast() {
		return sign{}, false
	}
	switch binary.BigEndian.Uint16(b[frame.HeaderLen-2:]) {
	case frame.EtherTypeARP:
		s.addr, s.probing, ok = parseARP(b)
	case frame.EtherTypeIPv6:
		s.addr, s.probing, ok = parseND(b)
	}
	return s, ok
}

// parseARP finds whose address an ARP packet shows in use, be it a request or a
// reply (RFC 5227, section 2.1.1), or which one it probes for.
func parseARP(b []byte) (addr netip.Addr, probing, ok bool) {
	if len(b) < arpEnd || string(b[arpAt:arpOp]) != arpFixed {
		return addr, false, false
	}
	op := binary.BigEndian.Uint16(b[arpOp:])
	sender := netip.AddrFrom4([4]byte(b[arpSenderIP:]))
	target := netip.AddrFrom4([4]byte(b[arpTargetIP:]))
	switch {
	case op != arpRequest && op != arpReply:
		return addr, false, false
	case !sender.IsUnspecified():
		return sender, false, true
	case op == arpRequest && !target.IsUnspecified():
		return target, true, true
	}
	return addr, false, false
}

// parseND does for IPv6 what parseARP does (RFC 4862, sections 5.4.3 and 5.4.4).
func parseND(b []byte) (addr netip.Addr, probing, ok bool) {
	if len(b) < ndOptions || b[ipv6At]>>4 != 6 || b[ipv6Next] != protoICMPv6 || b[ipv6Hops] != ndHops {
		return addr, false, false
	}
	length := int(binary.BigEndian.Uint16(b[ipv6Len:]))
	if length < ndOptions-icmpAt || length > len(b)-icmpAt {
		return addr, false, false
	}
	message := b[icmpAt : icmpAt+length]
	if frame.Sum(frame.PseudoSum(b[ipv6Src:icmpAt], protoICMPv6, length), message) != 0xffff || message[1] != 0 {
		return addr, false, false
	}
	src := netip.AddrFrom16([16]byte(b[ipv6Src:]))
	target := netip.AddrFrom16([16]byte(b[ndTarget:]))
	switch {
	case message[0] == advertisement:
		addr = target
	case message[0] != solicitation:
		return addr, false, false
	case src.IsUnspecified():
		addr, probing = target, true
	default:
		addr = src
	}
	return addr, probing, !addr.IsUnspecified() && !addr.IsMulticast() && !addr.Is4In6()
}

// probeFor asks whether somebody has an address, without claiming to have it.
func probeFor(addr netip.Addr, mac frame.MAC) []byte {
	if addr.Is4() {
		return arp(mac, netip.IPv4Unspecified(), addr)
	}
	group := solicitedNode(addr)
	return nd(mac, netip.IPv6Unspecified(), group, solicitation, 0, addr, nil)
}

// announcementOf tells everybody who has an address.
func announcementOf(addr netip.Addr, mac frame.MAC) []byte {
	if addr.Is4() {
		return arp(mac, addr, addr)
	}
	option := append([]byte{optTargetMAC, 1}, mac[:]...) // 1: of 8 bytes
	return nd(mac, addr, allNodes, advertisement, flagOverride, addr, option)
}

// arp makes an ARP request to all.
func arp(mac frame.MAC, sender, target netip.Addr) []byte {
	b := make([]byte, 0, arpEnd)
	b = append(append(b, broadcast[:]...), mac[:]...)
	b = binary.BigEndian.AppendUint16(b, frame.EtherTypeARP)
	b = append(b, arpFixed...)
	b = binary.BigEndian.AppendUint16(b, arpRequest)
	b = append(append(b, mac[:]...), sender.AsSlice()...)
	b = append(b, make([]byte, len(mac))...) // RFC 5227, section 1.1: zeros
	return append(b, target.AsSlice()...)
}

// nd makes a neighbour discovery message to a multicast group.
func nd(mac frame.MAC, src, group netip.Addr, typ, flags byte, target netip.Addr, option []byte) []byte {
	b := make([]byte, ndOptions, ndOptions+len(option))
	g := group.As16()
	copy(b, []byte{0x33, 0x33, g[12], g[13], g[14], g[15]}) // RFC 2464, section 7
	copy(b[6:], mac[:])
	binary.BigEndian.PutUint16(b[frame.HeaderLen-2:], frame.EtherTypeIPv6)
	length := ndOptions - icmpAt + len(option)
	b[ipv6At] = 6 << 4
	binary.BigEndian.PutUint16(b[ipv6Len:], uint16(length))
	b[ipv6Next], b[ipv6Hops] = protoICMPv6, ndHops
	copy(b[ipv6Src:], src.AsSlice())
	copy(b[ipv6Dst:], group.AsSlice())
	b[icmpAt], b[icmpFlags] = typ, flags
	copy(b[ndTarget:], target.AsSlice())
	b = append(b, option...)
	sum := ^frame.Sum(frame.PseudoSum(b[ipv6Src:icmpAt], protoICMPv6, length), b[icmpAt:])
	binary.BigEndian.PutUint16(b[icmpSum:], sum)
	return b
}

// solicitedNode is the group that holders of an address listen to (RFC 4291,
// section 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}
