package nat

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// MaxCandidates is how many addresses one peer may offer.
const MaxCandidates = 16

// CandidateKind is how an address was found.
type CandidateKind string

// The kinds, in the order in which they are tried where nothing else decides.
const (
	Host        CandidateKind = "host"             // of an interface
	External    CandidateKind = "external"         // of the configuration, nat.external
	Mapped      CandidateKind = "mapped"           // of a gateway that was asked for it
	Reflexive   CandidateKind = "server-reflexive" // as a STUN server sees us
	Observed    CandidateKind = "peer-observed"    // as a peer sees our control connection, with our own port
	Discovered  CandidateKind = "peer-reflexive"   // where a check of the peer came from
	UnknownKind CandidateKind = "unknown"          // of a peer's offer, in words that we do not know
)

var kindOrder = []CandidateKind{Host, External, Mapped, Reflexive, Observed, Discovered, UnknownKind}

// Candidate is an address where a peer may be reached.
type Candidate struct {
	Kind CandidateKind  `json:"kind"`
	Addr netip.AddrPort `json:"addr"`
}

// String is the address and its kind.
func (c Candidate) String() string { return fmt.Sprintf("%v (%s)", c.Addr, c.Kind) }

// Usable says why a datagram for a peer must not be sent to an address; empty: it may.
// Whoever told of it may lie.
func Usable(a netip.AddrPort) string {
	ip := a.Addr().Unmap()
	switch {
	case !a.IsValid() || a.Port() == 0:
		return "it is no address"
	case ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast():
		return "it is no address of another host"
	case ip.IsLinkLocalUnicast():
		return "it is good on one link only"
	case !ip.IsGlobalUnicast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "it is no unicast address"
	case ip.Zone() != "":
		return "it has a zone"
	}
	return ""
}

// merge puts candidates in order, each address once, no more than may be offered, and
// none that may not be sent to. refuse may be nil.
func merge(refuse func(netip.Addr) string, candidates ...Candidate) (out []Candidate) {
	slices.SortStableFunc(candidates, func(a, b Candidate) int {
		return cmp.Compare(slices.Index(kindOrder, a.Kind), slices.Index(kindOrder, b.Kind))
	})
	for _, c := range candidates {
		c.Addr = netip.AddrPortFrom(c.Addr.Addr().Unmap(), c.Addr.Port())
		known := slices.ContainsFunc(out, func(o Candidate) bool { return o.Addr == c.Addr })
		if known || len(out) >= MaxCandidates || Usable(c.Addr) != "" || refuse != nil && refuse(c.Addr.Addr()) != "" {
			continue
		}
		out = append(out, c)
	}
	return out
}
