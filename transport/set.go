package transport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"meshd/internal/frame"
)

// ErrNotUsed says that a transport cannot be chosen for a neighbour.
var ErrNotUsed = errors.New("cannot be used for this peer")

// Set is the transports of this daemon, in the one order in which they are
// announced, and the links to all neighbours. Its methods may be called
// concurrently.
type Set struct {
	transports []Transport
	changed    func()

	mu    sync.Mutex // guards below; taken before a Link's
	links map[linkKey]*Link
	users map[*Link]int // calls of Attach that are about to use a link
	prefs Preferences
	pins  map[frame.PeerName]string // transports chosen by hand
}

type linkKey struct {
	name frame.PeerName
	uid  uint64
}

// NewSet makes a set of transports. Their order is that of the handshake's
// Overlays feature and must be the same at all peers; it is also the order of
// preference until Prefer. changed is called, from any goroutine, whenever the
// state of a link may have changed; it must not block.
func NewSet(changed func(), transports ...Transport) *Set {
	return &Set{
		transports: transports, changed: changed, links: map[linkKey]*Link{},
		users: map[*Link]int{}, pins: map[frame.PeerName]string{},
	}
}

// Names are the transports' names in the one fixed order of the handshake's
// Overlays feature (weave protocol, section 5: both ends count in it).
func (s *Set) Names() []string {
	names := make([]string, len(s.transports))
	for i, t := range s.transports {
		names[i] = t.Name()
	}
	return names
}

// Run runs the transports until ctx is done or one fails.
func (s *Set) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range s.transports {
		g.Go(func() error {
			if err := t.Run(ctx); err != nil {
				return fmt.Errorf("transport %s: %w", t.Name(), err)
			}
			return nil
		})
	}
	g.Go(func() error { s.sampleAll(ctx); return nil })
	return g.Wait()
}

// Attach opens a path for the session over each of the common transports, named
// in their common order, and adds them to the neighbour's link. Nothing is sent
// before Attachment.Run, which must be called once. sess.SendControl, Done and
// Counters are filled in here; control sends an overlay control message for the
// transport at index.
func (s *Set) Attach(sess Session, common []string, control func(index int, tag byte, msg []byte) error) (*Attachment, error) {
	link := s.use(sess.Remote)
	defer s.release(link)
	a := &Attachment{link: link, native: sess.Native, control: control, done: make(chan struct{}), lost: make(chan struct{})}
	sess.Done = a.lost
	o := s.orderFor(sess.Remote.Name, sess.RemoteAddr.Addr())
	for i, name := range common {
		slot, err := s.open(link, o, sess, i, name, control)
		if err != nil {
			return nil, err
		}
		a.slots = append(a.slots, slot)
	}
	if !slices.ContainsFunc(a.slots, func(s *slot) bool { return s.path != nil }) {
		return nil, fmt.Errorf("none of the transports in common (%s) is used for %s: see overrides",
			strings.Join(common, ", "), sess.Remote.Name)
	}
	s.join(link, a, sess.RemoteAddr.Addr())
	return a, nil
}

// join adds a session's paths to the link, which goes by the neighbour's address
// of the newest session.
func (s *Set) join(link *Link, a *Attachment, addr netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	link.mu.Lock()
	defer link.mu.Unlock()
	link.addr = addr
	link.order = s.orderLocked(link.peer.Name, addr)
	link.sessions = slices.Insert(link.sessions, 0, a)
}

func (s *Set) open(link *Link, o order, sess Session, index int, name string, control func(int, byte, []byte) error) (*slot, error) {
	t := s.named(name)
	if t == nil {
		return nil, fmt.Errorf("transport %q is not configured", name)
	}
	if !o.used(name) {
		return &slot{name: name, ended: true, cancel: func() {}, state: State{Loss: -1, Why: whyUnused}}, nil
	}
	sess.SendControl = func(tag byte, msg []byte) error { return control(index, tag, msg) }
	link.mu.Lock()
	sess.Counters = link.countersLocked(name)
	sess.Pace = &link.standings[name].pace
	link.mu.Unlock()
	path, err := t.Open(sess)
	if err != nil {
		return nil, fmt.Errorf("open %s path to %s: %w", name, sess.Remote.Name, err)
	}
	slot := &slot{name: name, path: path, counters: sess.Counters}
	slot.cancel = func() { slot.ended = true }
	return slot, nil
}

// Hint tells all paths to a neighbour that can use it, those with a method
// Hint(netip.AddrPort), where its data socket was just reached from ours.
func (s *Set) Hint(peer frame.PeerName, at netip.AddrPort) {
	for _, p := range s.pathsTo(peer) {
		if h, ok := p.(interface{ Hint(netip.AddrPort) }); ok {
			h.Hint(at)
		}
	}
}

// Move makes all paths to a neighbour that can, those with a method
// Move(netip.AddrPort), send to another address of its data socket, where it was just
// reached from ours and frames do better.
func (s *Set) Move(peer frame.PeerName, at netip.AddrPort) {
	for _, p := range s.pathsTo(peer) {
		if m, ok := p.(interface{ Move(netip.AddrPort) }); ok {
			m.Move(at)
		}
	}
}

// pathsTo are the paths to all incarnations of a neighbour.
func (s *Set) pathsTo(peer frame.PeerName) (paths []Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l.peer.Name != peer {
			continue
		}
		l.mu.Lock()
		for _, a := range l.sessions {
			for _, slot := range a.slots {
				if slot.path != nil {
					paths = append(paths, slot.path)
				}
			}
		}
		l.mu.Unlock()
	}
	return paths
}

// Hurry makes all paths that rest find out at once whether they work, because the
// host's network has changed.
func (s *Set) Hurry() {
	var paths []Path
	s.mu.Lock()
	for _, l := range s.links {
		l.mu.Lock()
		paths = append(paths, l.othersLocked(nil)...)
		l.mu.Unlock()
	}
	s.mu.Unlock()
	hurry(paths)
}

// named is the transport of that name, nil if there is none.
func (s *Set) named(name string) Transport {
	for _, t := range s.transports {
		if t.Name() == name {
			return t
		}
	}
	return nil
}

// use finds or makes the link to one incarnation of a neighbour and keeps it
// until release.
func (s *Set) use(peer Peer) *Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := linkKey{peer.Name, peer.UID}
	l := s.links[key]
	if l == nil {
		l = &Link{peer: peer, counters: map[string]*Counters{}, standings: map[string]*standing{}}
		l.changed = func() { s.sweep(l); s.changed() }
		s.links[key] = l
	}
	s.users[l]++
	return l
}

func (s *Set) release(l *Link) {
	s.mu.Lock()
	if s.users[l]--; s.users[l] == 0 {
		delete(s.users, l)
	}
	s.mu.Unlock()
	s.sweep(l)
}

// sweep forgets a link that has no session's paths left.
func (s *Set) sweep(l *Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[l] > 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sessions) == 0 {
		delete(s.links, linkKey{l.peer.Name, l.peer.UID})
	}
}
