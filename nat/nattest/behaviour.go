package nattest

import "time"

// Dependence is how much of a remote address a NAT looks at, RFC 4787, sections
// 4.1 and 5.
type Dependence int

// EndpointIndependent looks at nothing of it, the others at its IP address, or at
// that and its port.
const (
	EndpointIndependent Dependence = iota
	AddressDependent
	AddressAndPortDependent
)

func (d Dependence) String() string {
	switch d {
	case EndpointIndependent:
		return "endpoint-independent"
	case AddressDependent:
		return "address-dependent"
	case AddressAndPortDependent:
		return "address and port-dependent"
	}
	return "unknown dependence"
}

// Behaviour is what a NAT does with UDP.
type Behaviour struct {
	// Mapping decides which destinations see a socket at the same outside port.
	Mapping Dependence
	// Filtering decides who may send to that port: anybody, or what the socket
	// has sent to.
	Filtering Dependence
	// PortPreserving takes the socket's own port as the outside port where that
	// is free.
	PortPreserving bool
	// PortStep is the distance from one new outside port to the next, where the
	// port is not preserved; 0: ports are random.
	PortStep int
	// PerFlow makes ports as Linux does, if Mapping is EndpointIndependent: they
	// are free for each destination on their own, so that two hosts may have the
	// same one, and a socket that had to take another port for a new destination
	// has that for all further ones.
	PerFlow bool
	// Hairpin lets inside hosts reach each other by their outside addresses.
	Hairpin bool
	// Lifetime is how long what was sent keeps a mapping and lets answers in; 0:
	// for ever.
	Lifetime time.Duration
	// Answered is Lifetime once an answer came, which then prolongs it too; 0:
	// answers prolong nothing.
	Answered time.Duration
	// InputPoisons is Linux without a firewall: what comes to an outside port and
	// is not let in is for the NAT itself, which remembers that for 30 s since the
	// last such datagram. An inside host that sends to where it came from gets
	// another port meanwhile, if its own would be that one.
	InputPoisons bool
	// Blocked drops all UDP that passes.
	Blocked bool
	// Router translates nothing: the rest but Blocked and Firewall6 is without
	// meaning.
	Router bool
	// Firewall6 lets only answers in over IPv6, which is never translated.
	Firewall6 bool
}
