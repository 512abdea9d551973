package nat

import (
	"encoding/json"
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

// So may it for what its NATs do.
func TestNATsOfOffersAreKnown(t *testing.T) {
	const round = "00112233445566778899aabbccddeeff"
	for _, tt := range []struct{ got, want Brief }{
		{Brief{}, Brief{}},
		{Brief{AddressPortDependent, OpenOrAddressFiltering, true}, Brief{AddressPortDependent, OpenOrAddressFiltering, true}},
		{Brief{"\x1b[2J", "\x1b]0;x\a", false}, Brief{UnknownMapping, UnknownFiltering, false}},
		{Brief{Mapping(strings.Repeat("x", 1000)), "easy", true}, Brief{UnknownMapping, UnknownFiltering, true}},
	} {
		b, err := json.Marshal(signal{Verb: verbOffer, Round: round, NAT4: tt.got, NAT6: tt.got})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := parseSignal(b); err != nil || s.NAT4 != tt.want || s.NAT6 != tt.want {
			t.Errorf("of %+v: %+v and %+v, %v; want %+v", tt.got, s.NAT4, s.NAT6, err, tt.want)
		}
	}
}
