package transport

import (
	"net/netip"
	"slices"

	"meshd/internal/frame"
)

// Preferences say which transports carry frames to which neighbour, and in which
// order. They are about choosing only: the order of the handshake's Overlays
// feature is that of Set.Names, whatever is preferred.
type Preferences struct {
	Default   []string // most preferred first; nil: all, in the order of Set.Names
	Overrides []Override
}

// Override is another order for some neighbours. A transport that is not in it is
// not used for them.
type Override struct {
	Peer       frame.PeerName // 0: Net says whom it is for
	Net        netip.Prefix
	Transports []string // most preferred first
}

// For gives the transports for a neighbour, most preferred first: those of the
// first override that has its name, or else of the first one whose subnet has its
// address, or else the default.
func (p Preferences) For(name frame.PeerName, addr netip.Addr) []string {
	for _, o := range p.Overrides {
		if o.Peer == name && name.Valid() {
			return o.Transports
		}
	}
	addr = addr.Unmap().WithZone("")
	for _, o := range p.Overrides {
		if !o.Peer.Valid() && o.Net.Contains(addr) {
			return o.Transports
		}
	}
	return p.Default
}

// order is what a link goes by.
type order struct {
	names []string // transports that are used, most preferred first
	pin   string   // the one that was chosen by hand; empty: none
}

// used reports whether a transport carries frames.
func (o order) used(name string) bool { return slices.Contains(o.names, name) }

// rank is a transport's place, from 0; those that are not used come last.
func (o order) rank(name string) int {
	if i := slices.Index(o.names, name); i >= 0 {
		return i
	}
	return len(o.names)
}
