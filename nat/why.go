package nat

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"meshd/internal/frame"
)

// announceTime is how long a peer may need to announce itself.
const announceTime = 5 * time.Second

// foundTime is how long it may take until frames go where checks came through.
const foundTime = 5 * time.Second

// Status is what is known of the ways to one peer.
type Status struct {
	Known  bool           // it has announced itself
	Leads  bool           // we do
	Tries  []Try          // the last ones, newest last
	Pair   netip.AddrPort // that worked last
	Next   time.Time      // of the next round, where we lead; zero: none is needed
	Active bool           // a round is under way
	Since  time.Time      // when the direct way was lost, or the peer found; zero: there is one
}

// Status reads it.
func (a *Agent) Status(name frame.PeerName) Status {
	_, known := a.cfg.Find(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{Known: known, Leads: a.cfg.Self < name}
	if p := a.peers[name]; p != nil {
		s.Tries, s.Pair, s.Active, s.Since = slices.Clone(p.tries), p.pair, p.running, p.lacking
		if p.needs() && s.Leads {
			s.Next = p.nextAt
		}
	}
	return s
}

// Reasons says in sentences why there is no direct way to a peer whose Status this
// is, and what would help; who is the peer's name for people. ours are our behaviours
// for IPv4 and IPv6.
func (s Status) Reasons(who string, ours [2]Behaviour) (reasons []string, remedy string) {
	const open = "opening UDP %d on one side, or enabling NAT-PMP or UPnP on one gateway, would make it direct"
	switch last, tried := s.last(); {
	case !s.Known && !s.Since.IsZero() && time.Since(s.Since) < announceTime:
		return []string{who + " was found just now, and has not announced itself yet"}, "wait a few seconds"
	case !s.Known:
		return []string{who + " has not announced itself over the mesh: it is a stock Weave router, or a meshd that cannot be told of addresses"},
			"make TCP and UDP 6783 of one of the two reachable for the other, or run meshd on " + who
	case !tried && s.Active:
		return []string{"a direct way is being looked for now"}, "wait a few seconds"
	case !tried:
		return []string{"a direct way has not been looked for yet"}, "wait a few seconds"
	case last.Err == "" && time.Since(last.At) < foundTime:
		return []string{"a direct way was found just now, and frames do not go there yet"}, "wait a few seconds"
	case len(last.Local) == 0:
		return []string{"this host has no address to offer"}, "check its interfaces and routes, and nat.external"
	case blocked(ours):
		return []string{"UDP seems not to pass at this host: no STUN server answered"},
			"allow UDP from port 6785 to the outside here"
	case last.Theirs[0].Blocked && (last.Theirs[1].Blocked || last.Theirs[1].unknown()):
		return []string{"UDP seems not to pass at " + who + ": no STUN server answered it"},
			"allow UDP from port 6785 to the outside there"
	default:
		reasons := append(natReasons(who, ours[0].brief(), last.Theirs[0]), s.tries(last))
		return append(reasons, measured(who, ours[0].brief(), last.Theirs[0])...), fmt.Sprintf(open, 6785)
	}
}

// last is the last round.
func (s Status) last() (t Try, ok bool) {
	if len(s.Tries) == 0 {
		return t, false
	}
	return s.Tries[len(s.Tries)-1], true
}

// blocked reports whether servers were asked, and none answered.
func blocked(b [2]Behaviour) bool {
	return b[0].Blocked && (b[1].Blocked || len(b[1].Answers) == 0)
}

// unknown reports whether nothing was measured.
func (b Brief) unknown() bool { return b.Mapping == "" || b.Mapping == UnknownMapping }

// natReasons says which NATs are in the way.
func natReasons(who string, ours, theirs Brief) []string {
	const perDestination = "chooses a new port per destination"
	switch {
	case ours.hard() && theirs.hard():
		return []string{"both NATs choose a new port per destination"}
	case ours.hard():
		return []string{fmt.Sprintf("the NAT of this host %s, and %s", perDestination, theirs.strict("that of "+who))}
	case theirs.hard():
		return []string{fmt.Sprintf("the NAT of %s %s, and %s", who, perDestination, ours.strict("that of this host"))}
	}
	return []string{"a firewall or NAT between them drops the datagrams of both"}
}

// strict says what a NAT does to an address whose port it could not be told. Unless it was
// measured to let that in, it is the one that does not.
func (b Brief) strict(which string) string {
	if b.Filtering == OpenFiltering || b.Filtering == AddressFiltering {
		return "a firewall between them drops what " + which + " would let in"
	}
	return which + " lets in only ports it has sent to"
}

// measured says what is known of both NATs in the words of RFC 4787; nothing where not all
// of it is.
func measured(who string, ours, theirs Brief) []string {
	for _, b := range []Brief{ours, theirs} {
		if b.unknown() || b.Filtering == "" || b.Filtering == UnknownFiltering {
			return nil
		}
	}
	say := func(b Brief) string {
		if b.Mapping == NoNAT {
			return fmt.Sprintf("no NAT, %s filtering", b.Filtering)
		}
		return fmt.Sprintf("%s mapping, %s filtering", b.Mapping, b.Filtering)
	}
	return []string{fmt.Sprintf("measured here: %s; at %s: %s", say(ours), who, say(theirs))}
}

// tries says what was tried.
func (s Status) tries(last Try) string {
	n := 0
	for _, t := range s.Tries {
		if t.Err != "" {
			n++
		}
	}
	if last.Err == "" {
		last.Err = "came through, but no path there works"
	}
	parts := make([]string, 0, len(last.Remote))
	for _, c := range last.Remote {
		parts = append(parts, c.String())
	}
	if len(parts) == 0 {
		return fmt.Sprintf("the last of %d rounds ended with: %s", n, last.Err)
	}
	return fmt.Sprintf("checks to %s: %s", strings.Join(parts, ", "), last.Err)
}
