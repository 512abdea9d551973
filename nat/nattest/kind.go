package nattest

import "time"

// Kind names a NAT by what it does with UDP. The lab (internal/lab) has NATs of
// the same names in the kernel.
type Kind string

// The kinds. Those that keep ports do it as long as no other host has the port.
const (
	None              Kind = "none"
	FullCone          Kind = "full-cone"
	AddressRestricted Kind = "address-restricted"
	// PortRestricted is Linux with masquerade and a firewall.
	PortRestricted Kind = "port-restricted"
	// PortRestrictedOpen is Linux with masquerade alone: see
	// Behaviour.InputPoisons.
	PortRestrictedOpen Kind = "port-restricted-open"
	// Symmetric gives each destination another port, by chance.
	Symmetric Kind = "symmetric"
	// Double is a PortRestricted NAT behind another.
	Double Kind = "double"
	// ShortLived is a PortRestricted NAT that forgets after 10 s.
	ShortLived Kind = "short-lived"
	// UDPBlocked passes no UDP.
	UDPBlocked Kind = "udp-blocked"
)

// Kinds lists the kinds.
func Kinds() []Kind {
	return []Kind{
		None, FullCone, AddressRestricted, PortRestricted, PortRestrictedOpen,
		Symmetric, Double, ShortLived, UDPBlocked,
	}
}

// How long Linux keeps a mapping: net.netfilter.nf_conntrack_udp_timeout and its
// _stream.
const (
	linuxLifetime = 30 * time.Second
	linuxAnswered = 120 * time.Second
)

// NATs are what is between a host and the Internet, the host's own first. For a
// Kind that is not one of Kinds there is none.
func (k Kind) NATs() []Behaviour {
	linux := Behaviour{
		Filtering: AddressAndPortDependent, PortPreserving: true, PerFlow: true,
		Lifetime: linuxLifetime, Answered: linuxAnswered,
	}
	switch k {
	case FullCone:
		return []Behaviour{{PortPreserving: true, Lifetime: linuxAnswered}}
	case AddressRestricted:
		return []Behaviour{{Filtering: AddressDependent, PortPreserving: true, Lifetime: linuxAnswered}}
	case PortRestricted:
		return []Behaviour{linux}
	case PortRestrictedOpen:
		linux.InputPoisons = true
		return []Behaviour{linux}
	case Symmetric:
		return []Behaviour{{
			Mapping: AddressAndPortDependent, Filtering: AddressAndPortDependent,
			Lifetime: linuxLifetime, Answered: linuxAnswered,
		}}
	case Double:
		return []Behaviour{linux, linux}
	case ShortLived:
		linux.Lifetime, linux.Answered = 10*time.Second, 10*time.Second
		return []Behaviour{linux}
	case UDPBlocked:
		return []Behaviour{{Blocked: true}}
	}
	return nil
}

// Seen is what Observe sees of a host behind the kind's NATs, in memory and in
// the kernel alike.
func (k Kind) Seen() Seen {
	s := Seen{Translated: true, PortKept: true}
	switch k {
	case FullCone:
	case AddressRestricted:
		s.Filtering = AddressDependent
	case PortRestricted, Double, ShortLived:
		s.Filtering = AddressAndPortDependent
	case PortRestrictedOpen:
		s.Filtering, s.Poisoned = AddressAndPortDependent, true
	case Symmetric:
		s.Mapping, s.Filtering, s.PortKept = AddressAndPortDependent, AddressAndPortDependent, false
	case UDPBlocked:
		return Seen{Blocked: true}
	default:
		return Seen{PortKept: true}
	}
	return s
}
