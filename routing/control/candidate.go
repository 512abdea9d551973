package control

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"meshd/routing"
)

// The names of the carriers there are.
const (
	CarrierTCP  = "tcp"  // what stock routers speak: weave protocol section 1.1
	CarrierQUIC = "quic" // a stream of a QUIC connection, between meshd peers only
)

// DefaultQUICPort is the UDP port of the QUIC carrier where none is configured.
const DefaultQUICPort = 6785

// Candidate is an address where a peer may be reached, and the carrier that
// reaches it there.
type Candidate struct {
	Carrier string
	Addr    netip.AddrPort
}

// String is the form that a target has: 10.0.0.2:6783 over TCP, and
// quic://10.0.0.2:6785 over another carrier.
func (c Candidate) String() string {
	if c.Carrier == CarrierTCP || c.Carrier == "" {
		return c.Addr.String()
	}
	return c.Carrier + schemeSeparator + c.Addr.String()
}

// MarshalText writes the form of String.
func (c Candidate) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads the form of String.
func (c *Candidate) UnmarshalText(text []byte) error {
	carrier, addr, found := strings.Cut(string(text), schemeSeparator)
	if !found {
		carrier, addr = CarrierTCP, string(text)
	}
	if !isCarrier(carrier) {
		return fmt.Errorf("%q is not a carrier", carrier)
	}
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	*c = Candidate{carrier, a}
	return nil
}

func isCarrier(name string) bool { return name == CarrierTCP || name == CarrierQUIC }

// Addresses in topology entries. That of a session over TCP is ip:port, as stock
// routers write it. That of one over QUIC must invite no stock router to dial it
// (weave protocol, section 7.1 and appendix D), so it has no colon:
//
//	quic!10.0.0.2!6785
//	quic!fd00--2!6785
//
// with '-' in place of the colons of an IPv6 address. As both ends of a QUIC
// connection use the port that they listen on, it may be dialled whoever had
// dialled.
const (
	quicMark     = "quic"
	quicDivider  = "!"
	quicColon    = "-"
	quicOldColon = "_" // read too
)

// topologyAddress is how our topology entry writes where a neighbour is.
func topologyAddress(c Candidate) string {
	if c.Carrier != CarrierQUIC {
		return c.Addr.String()
	}
	ip := strings.ReplaceAll(c.Addr.Addr().Unmap().WithZone("").String(), ":", quicColon)
	return quicMark + quicDivider + ip + quicDivider + strconv.Itoa(int(c.Addr.Port()))
}

// parseTopologyAddress reads what topologyAddress and stock routers write.
func parseTopologyAddress(s string) (c Candidate, ok bool) {
	if len(s) > routing.MaxRemoteAddr {
		return c, false
	}
	rest, quic := strings.CutPrefix(s, quicMark+quicDivider)
	if !quic {
		a, err := netip.ParseAddrPort(s)
		return Candidate{CarrierTCP, a}, err == nil
	}
	host, port, _ := strings.Cut(rest, quicDivider)
	if strings.ContainsAny(host, ":%") {
		return c, false
	}
	ip, err := netip.ParseAddr(strings.NewReplacer(quicColon, ":", quicOldColon, ":").Replace(host))
	if err != nil {
		return c, false
	}
	n, ok := parsePort(port)
	return Candidate{CarrierQUIC, netip.AddrPortFrom(ip.Unmap(), n)}, ok
}

// parsePort reads a decimal port; 0 is refused.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0
}

// carrierPort is a carrier that the mesh has, and the port it uses where none is
// given.
type carrierPort struct {
	carrier string
	port    uint16
}

// carrierPorts are the carriers of a mesh, the most preferred first.
type carrierPorts []carrierPort

// of is a carrier's port; false: there is no such carrier.
func (ps carrierPorts) of(carrier string) (uint16, bool) {
	for _, p := range ps {
		if p.carrier == carrier {
			return p.port, true
		}
	}
	return 0, false
}
