// Package claim makes sure that an address of the overlay has one holder only: it
// asks for an address before it is used, and tells everybody once it is.
//
//	Probe     "who has 10.32.0.7?"  ──► bridge ──► containers, and the other hosts
//	          an answer, or another that asks the same ◄──┘
//	Announce  "10.32.0.7 is at 02:…"  ──► bridge ──► …   old entries are corrected
//
// For IPv4 these are the probes and announcements of RFC 5227, for IPv6 duplicate
// address detection (RFC 4862, section 5.4) and unsolicited neighbour
// advertisements (RFC 4861, section 7.2.6). They go through a packet socket, so the
// device needs no address, and IPv6 may be disabled on it.
//
// Of two hosts that ask for one address at the same moment at most one gets it: who
// sees the other's probe gives up at once, as RFC 5227, section 2.1.1 has it. Mostly
// that leaves the address to the other; both lose it where each saw the other in
// time. It suffices that one of the two hears the other: were the lower MAC to win,
// it would have to rely on the other one having heard it.
//
// A host does not see its own probes: who asks twice from one host for one address
// has to see to that himself.
//
// Everything happens in the network namespace of the calling thread.
package claim
