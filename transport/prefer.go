package transport

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"meshd/internal/frame"
)

// Prefer changes the preferences. The order holds at once for all neighbours;
// which transports are used for a neighbour holds for its next session, see
// Attachment.Stale.
func (s *Set) Prefer(p Preferences) {
	s.mu.Lock()
	s.prefs = p
	s.mu.Unlock()
	s.reorder(func(*Link) bool { return true })
}

// Use chooses a transport for a neighbour by hand: it carries the frames whenever
// it works, whatever the preferences; while it does not, the best of the others
// does. It holds for all sessions and incarnations of the peer, until the end of
// this process. An empty name takes the choice back. The error is ErrNotUsed.
func (s *Set) Use(peer frame.PeerName, transport string) error {
	if transport != "" {
		if err := s.usable(peer, transport); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if transport == "" {
		delete(s.pins, peer)
	} else {
		s.pins[peer] = transport
	}
	s.mu.Unlock()
	s.reorder(func(l *Link) bool { return l.peer.Name == peer })
	return nil
}

// Pin is the transport that was chosen for a peer by hand; empty: none.
func (s *Set) Pin(peer frame.PeerName) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pins[peer]
}

// usable says why a transport cannot be chosen for a neighbour, nil if it can.
func (s *Set) usable(peer frame.PeerName, transport string) error {
	if s.named(transport) == nil {
		return fmt.Errorf("%s %w: it is not one of the transports here (%s)", transport, ErrNotUsed, strings.Join(s.Names(), ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	common := []string{}
	for _, l := range s.links {
		if l.peer.Name != peer {
			continue
		}
		l.mu.Lock()
		found, in := l.inCommonLocked(transport)
		l.mu.Unlock()
		if in == nil {
			common = append(common, found...)
			continue
		}
		if in.unused() {
			return fmt.Errorf("%s %w: %s", transport, ErrNotUsed, unusedWhy(in))
		}
		return nil
	}
	if len(common) == 0 {
		return fmt.Errorf("%s %w: there is no connection to it", transport, ErrNotUsed)
	}
	return fmt.Errorf("%s %w: in common with it are %s", transport, ErrNotUsed, strings.Join(common, ", "))
}

// unusedWhy says which end leaves out the transport of s.
func unusedWhy(s *slot) string {
	if s.path == nil {
		return "overrides leave it out"
	}
	return whyRefused
}

// inCommonLocked is the newest session's path of a transport, and the transports
// of that session.
func (l *Link) inCommonLocked(transport string) (names []string, in *slot) {
	if len(l.sessions) == 0 {
		return nil, nil
	}
	for _, s := range l.sessions[0].slots {
		names = append(names, s.name)
		if s.name == transport {
			in = s
		}
	}
	return names, in
}

// reorder has links go by the order of now.
func (s *Set) reorder(which func(*Link) bool) {
	s.mu.Lock()
	var links []*Link
	for _, l := range s.links {
		if which(l) {
			links = append(links, l)
		}
	}
	s.mu.Unlock()
	for _, l := range links {
		s.reorderLink(l)
	}
}

func (s *Set) reorderLink(l *Link) {
	s.mu.Lock()
	l.mu.Lock()
	was := l.order
	l.order = s.orderLocked(l.peer.Name, l.addr)
	var old *slot
	changed := l.order.pin != was.pin || !slices.Equal(l.order.names, was.names)
	if changed {
		old = l.chooseLocked(true)
	}
	l.mu.Unlock()
	s.mu.Unlock()
	if changed {
		l.settle(old)
	}
}

// orderFor is what the link to a neighbour goes by.
func (s *Set) orderFor(name frame.PeerName, addr netip.Addr) order {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orderLocked(name, addr)
}

// orderLocked leaves out what is not configured: preferences may be newer than the
// transports that are open.
func (s *Set) orderLocked(name frame.PeerName, addr netip.Addr) order {
	wanted := s.prefs.For(name, addr)
	if wanted == nil {
		wanted = s.Names()
	}
	o := order{pin: s.pins[name]}
	for _, n := range wanted {
		if s.named(n) != nil && !slices.Contains(o.names, n) {
			o.names = append(o.names, n)
		}
	}
	if !o.used(o.pin) {
		o.pin = ""
	}
	return o
}
