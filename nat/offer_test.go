package nat

import (
	"net/netip"
	"strings"
	"testing"
)

// A peer's offer may have any text for a kind, which must not reach a terminal.
func TestKindsOfOffersAreKnown(t *testing.T) {
	a := New(Config{Addresses: func() []netip.Addr { return nil }})
	got := a.remote(signal{Candidates: []Candidate{
		{"\x1b[2J", netip.MustParseAddrPort("192.0.2.1:1")},
		{Reflexive, netip.MustParseAddrPort("192.0.2.2:1")},
		{CandidateKind(strings.Repeat("x", 1000)), netip.MustParseAddrPort("192.0.2.3:1")},
	}})
	want := []CandidateKind{Reflexive, UnknownKind, UnknownKind}
	if len(got) != len(want) {
		t.Fatalf("%v, want kinds %v", got, want)
	}
	for i, c := range got {
		if c.Kind != want[i] {
			t.Errorf("candidate %d is %q, want kind %q", i, c, want[i])
		}
	}
	if n := a.Counts().Refused; n != 0 {
		t.Errorf("%d refused", n)
	}
}
