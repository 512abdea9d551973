package routing

import "meshd/internal/frame"

// Offsets and values of the frames that announce an address.
const (
	// ARP for Ethernet and IPv4 (RFC 826):
	// hardware, protocol, lengths, operation, sender MAC and IP, target MAC and IP
	arpSenderMAC = 8
	arpSenderIP  = 14
	arpTargetIP  = 24
	arpLen       = 28

	// IPv6 header and neighbour advertisement (RFC 4861, section 4.4)
	ipv6NextHeader = 6
	ipv6HeaderLen  = 40
	icmpv6         = 58
	naType         = 136
	naFlags        = ipv6HeaderLen + 4
	naSolicited    = 0x40
	naLen          = ipv6HeaderLen + 24
)

// announces reports whether a frame is one by which its sender tells everyone
// where it is: a gratuitous ARP (RFC 5227, section 3) or an unsolicited neighbour
// advertisement, behind VLAN tags or not. data has an Ethernet header. Only
// frames to a group address announce anything, which keeps the test cheap.
func announces(data []byte) bool {
	if data[0]&1 == 0 {
		return false
	}
	etherType, l3 := frame.EtherType(data)
	body := data[l3:]
	switch etherType {
	case frame.EtherTypeARP:
		return len(body) >= arpLen &&
			string(body[arpSenderMAC:arpSenderIP]) == string(data[6:12]) &&
			string(body[arpSenderIP:arpSenderIP+4]) == string(body[arpTargetIP:arpLen])
	case frame.EtherTypeIPv6:
		return len(body) >= naLen && body[ipv6NextHeader] == icmpv6 &&
			body[ipv6HeaderLen] == naType && body[naFlags]&naSolicited == 0
	}
	return false
}
