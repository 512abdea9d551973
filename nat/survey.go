package nat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Times of a request to a STUN server. Servers are near or useless: RFC 8489's 500 ms
// to begin with would make the user wait.
const (
	askFirst = 200 * time.Millisecond // doubles
	askTimes = 3
)

// maxServers is how many servers of one family a survey asks, each at up to two ports.
const maxServers = 4

// ErrNoAnswer is what a server that says nothing gets a survey.
var ErrNoAnswer = errors.New("no answer")

// Server is a STUN server to ask.
type Server struct {
	Name  string         `json:"name"` // for people
	Addr  netip.AddrPort `json:"addr"`
	Other uint16         `json:"other_port,omitempty"` // another port of it that answers; 0: none
}

// Answer is what came of asking a server at one port.
type Answer struct {
	Server string         `json:"server"`
	Addr   netip.AddrPort `json:"addr"`
	Mapped netip.AddrPort `json:"mapped,omitzero"`
	RTT    time.Duration  `json:"rtt,omitempty"`
	Err    string         `json:"error,omitempty"`
	// Other is another address of the server, RFC 5780, where it answers too.
	Other netip.AddrPort `json:"other_address,omitzero"`
}

// Mapping is how a NAT chooses the outside address of ours, RFC 4787 section 4.1.
type Mapping string

// Filtering is from whom a NAT lets datagrams in, RFC 4787 section 5.
type Filtering string

// What both can be.
const (
	NoNAT                  Mapping = "none"
	EndpointIndependent    Mapping = "endpoint-independent"
	AddressDependent       Mapping = "address-dependent"
	AddressPortDependent   Mapping = "address-and-port-dependent"
	DestinationDependent   Mapping = "address-dependent or address-and-port-dependent"
	UnknownMapping         Mapping = "unknown"
	OpenFiltering                  = Filtering("endpoint-independent")
	AddressFiltering               = Filtering("address-dependent")
	AddressPortFiltering           = Filtering("address-and-port-dependent")
	OpenOrAddressFiltering         = Filtering("endpoint-independent or address-dependent")
	UnknownFiltering               = Filtering("unknown")
)

var (
	mappings   = []Mapping{NoNAT, EndpointIndependent, AddressDependent, AddressPortDependent, DestinationDependent, UnknownMapping}
	filterings = []Filtering{OpenFiltering, AddressFiltering, AddressPortFiltering, OpenOrAddressFiltering, UnknownFiltering}
)

// Behaviour is what is known of the NATs before us, for one address family.
type Behaviour struct {
	Mapping   Mapping          `json:"mapping"`
	Filtering Filtering        `json:"filtering"`
	Blocked   bool             `json:"udp_blocked"`         // servers were asked, and none answered
	Preserves bool             `json:"preserves_port"`      // the outside port is ours
	Step      int              `json:"port_step,omitempty"` // from each new mapping to the next; 0: irregular, or it does not matter
	Mapped    []netip.AddrPort `json:"mapped,omitempty"`    // our outside addresses, each once
	Answers   []Answer         `json:"answers,omitempty"`
	Hairpin   Verdict          `json:"hairpin,omitempty"` // our outside address can be reached from inside; empty: not looked for
	At        time.Time        `json:"at"`
}

// String says it in words.
func (b Behaviour) String() string {
	switch {
	case len(b.Answers) == 0:
		return "not measured: no STUN server is known"
	case b.Blocked:
		return "UDP seems to be blocked: no STUN server answered"
	case b.Mapping == NoNAT && (b.Filtering == AddressFiltering || b.Filtering == AddressPortFiltering):
		return fmt.Sprintf("no NAT, but a firewall with %s filtering", b.Filtering)
	case b.Mapping == NoNAT:
		return "no NAT"
	}
	return fmt.Sprintf("NAT with %s mapping, %s filtering", b.Mapping, b.Filtering)
}

// Hard reports whether the outside port differs from one destination to the next, so
// that peers cannot be told of it beforehand.
func (b Behaviour) Hard() bool {
	return b.Mapping == AddressDependent || b.Mapping == AddressPortDependent || b.Mapping == DestinationDependent
}

// survey asks servers of one family, two ports each, and draws the conclusion.
func (a *Agent) survey(ctx context.Context, servers []Server, local []netip.Addr) Behaviour {
	var asks []Answer
	for _, s := range servers[:min(len(servers), maxServers)] {
		asks = append(asks, Answer{Server: s.Name, Addr: s.Addr})
		if s.Other != 0 {
			asks = append(asks, Answer{Server: s.Name, Addr: netip.AddrPortFrom(s.Addr.Addr(), s.Other)})
		}
	}
	a.askAll(ctx, asks, false)
	b := conclude(asks, local, a.cfg.Port)
	if len(b.Mapped) > 0 && (b.Mapping == UnknownMapping || b.Mapping == DestinationDependent) {
		if more := a.elsewhere(ctx, asks); len(more) > 0 {
			b = conclude(append(asks, more...), local, a.cfg.Port)
		}
	}
	b.At = time.Now()
	return b
}

// askAll fills in the answers to all asks. told: as in question.
func (a *Agent) askAll(ctx context.Context, asks []Answer, told bool) {
	var wg sync.WaitGroup
	for i := range asks {
		wg.Go(func() {
			x := &asks[i]
			at := netip.AddrPortFrom(x.Addr.Addr().Unmap(), x.Addr.Port())
			h, err := a.ask(ctx, question{to: at, from: at, told: told})
			if err != nil {
				x.Err = err.Error()
				return
			}
			x.Mapped, x.RTT, x.Other = h.mapped, h.rtt, h.other
		})
	}
	wg.Wait()
}

// conclude draws the conclusion from what servers answered. Those that are on our side
// of the NAT, and see our own address, tell nothing of it, unless all do.
func conclude(answers []Answer, local []netip.Addr, port uint16) Behaviour {
	b := Behaviour{Mapping: UnknownMapping, Filtering: UnknownFiltering, Answers: answers}
	var outside []Answer
	inside := 0
	for _, x := range answers {
		switch {
		case x.Err != "":
		case slices.Contains(local, x.Mapped.Addr()):
			inside++
		case Usable(x.Mapped) == "":
			outside = append(outside, x)
		}
	}
	b.Blocked = len(answers) > 0 && inside+len(outside) == 0
	switch {
	case len(outside) == 0 && inside > 0:
		b.Mapping, b.Filtering, b.Preserves = NoNAT, UnknownFiltering, true
		return b
	case len(outside) == 0:
		return b
	}
	for _, x := range outside {
		if !slices.Contains(b.Mapped, x.Mapped) {
			b.Mapped = append(b.Mapped, x.Mapped)
		}
	}
	b.Preserves = !slices.ContainsFunc(b.Mapped, func(m netip.AddrPort) bool { return m.Port() != port })
	b.Mapping = mappingOf(outside)
	if b.Mapping == AddressPortDependent || b.Mapping == DestinationDependent {
		b.Step = step(b.Mapped)
	}
	return b
}

// mappingOf compares what servers at different addresses and ports see.
func mappingOf(answers []Answer) Mapping {
	var addresses, ports, byAddress, byPort bool // compared; different
	for i, x := range answers {
		for _, y := range answers[:i] {
			switch {
			case x.Addr.Addr() == y.Addr.Addr():
				ports = true
				byPort = byPort || x.Mapped != y.Mapped
			default:
				addresses = true
				byAddress = byAddress || x.Mapped != y.Mapped
			}
		}
	}
	switch {
	case byPort:
		return AddressPortDependent
	case byAddress && ports:
		return AddressDependent
	case byAddress:
		return DestinationDependent
	case addresses:
		return EndpointIndependent
	}
	return UnknownMapping // one address, or one port of it, tells nothing of others
}

// step is the regular distance between ports, in the order in which they were given
// out; 0: there is none.
func step(mapped []netip.AddrPort) int {
	if len(mapped) < 3 {
		return 0
	}
	ports := make([]int, len(mapped))
	for i, m := range mapped {
		ports[i] = int(m.Port())
	}
	slices.SortFunc(ports, func(a, b int) int { return cmp.Compare(a, b) })
	d := ports[1] - ports[0]
	for i := range ports[1:] {
		if ports[i+1]-ports[i] != d {
			return 0
		}
	}
	return d
}
