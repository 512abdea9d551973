package udp

import "strings"

// Offload says which work of the socket the kernel does in one piece for a run
// of datagrams, instead of one by one. The zero value is none.
type Offload struct {
	GSO bool   // runs are sent in one piece (UDP_SEGMENT)
	GRO bool   // runs are read in one piece (UDP_GRO)
	Why string // where one of them is off, or was not tried: the reason, in words
}

// without returns o with what is named taken away, and the reason for it.
func (o Offload) without(gso, gro bool, why string) Offload {
	o.GSO, o.GRO = o.GSO && !gso, o.GRO && !gro
	if o.Why == "" {
		o.Why = why
	} else if !strings.Contains(o.Why, why) {
		o.Why += "; " + why
	}
	return o
}
