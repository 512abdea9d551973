package nat

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestReasons(t *testing.T) {
	easy, hard := Behaviour{Mapping: EndpointIndependent}, Behaviour{Mapping: AddressPortDependent}
	blocked := Behaviour{Mapping: UnknownMapping, Blocked: true, Answers: []Answer{{Err: "no answer"}}}
	addr := netip.MustParseAddrPort("192.0.2.1:6785")
	tried := func(theirs Behaviour) Status {
		return Status{Known: true, Tries: []Try{{
			Local: []Candidate{{Host, addr}}, Remote: []Candidate{{Reflexive, addr}}, Theirs: [2]Brief{theirs.brief(), {}}, Err: ErrNoPair.Error(),
		}}}
	}
	found := func(age time.Duration) Status {
		s := tried(easy)
		s.Tries[0].Err, s.Tries[0].At = "", time.Now().Add(-age)
		return s
	}
	for _, tt := range []struct {
		name         string
		s            Status
		ours         Behaviour
		want, remedy string
	}{
		{"stock", Status{}, easy, "y has not announced itself over the mesh", "run meshd on y"},
		{"new", Status{Since: time.Now()}, easy, "y was found just now", "wait"},
		{"not tried", Status{Known: true}, easy, "has not been looked for yet", "wait"},
		{"under way", Status{Known: true, Active: true}, easy, "is being looked for now", "wait"},
		{"found", found(0), easy, "was found just now", "wait"},
		{"found in vain", found(time.Minute), easy, "a firewall or NAT between them", "opening UDP 6785"},
		{"no address", Status{Known: true, Tries: []Try{{Err: "x"}}}, easy, "no address to offer", "nat.external"},
		{"blocked here", tried(easy), blocked, "UDP seems not to pass at this host", "allow UDP"},
		{"blocked there", tried(blocked), easy, "UDP seems not to pass at y", "there"},
		{"both symmetric", tried(hard), hard, "both NATs choose a new port per destination", "opening UDP 6785 on one side"},
		{"ours symmetric", tried(easy), hard, "the NAT of this host chooses a new port per destination", "NAT-PMP"},
		{"theirs symmetric", tried(hard), easy, "the NAT of y chooses a new port per destination", "NAT-PMP"},
		{"ours symmetric, theirs open", tried(Behaviour{Mapping: EndpointIndependent, Filtering: OpenFiltering}), hard, "a firewall between them drops what that of y would let in", "NAT-PMP"},
		{"firewall", tried(easy), easy, "a firewall or NAT between them", "opening UDP 6785"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reasons, remedy := tt.s.Reasons("y", [2]Behaviour{tt.ours, {}})
			if len(reasons) == 0 || !strings.Contains(reasons[0], tt.want) || !strings.Contains(remedy, tt.remedy) {
				t.Errorf("%q, %q; want %q and %q", reasons, remedy, tt.want, tt.remedy)
			}
		})
	}
}
