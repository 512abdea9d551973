package control

import (
	"errors"
	"fmt"
	"net/netip"

	"meshd/internal/frame"
)

// Why connections end, as status shows it.
var (
	errSelf      = errors.New("cannot connect to ourself")
	errDuplicate = errors.New("another connection to the same peer is kept")
	errReplaced  = errors.New("replaced by a newer connection to the same peer")
	errStopping  = errors.New("meshd is stopping")
	errLeft      = errors.New("the peer said goodbye")
	errNoPath    = errors.New("no working forwarders to the peer")
	errSlow      = errors.New("the peer does not take what we send: its queue is full")
)

// collisionError says that two hosts have one peer name. It is never retried:
// one of them must be renamed.
type collisionError struct {
	name frame.PeerName
	nick string
	addr netip.AddrPort
}

func (e *collisionError) Error() string {
	return fmt.Sprintf("peer name collision: %s (%s) has our own name %s; give one of the two hosts another `name`", e.addr, e.nick, e.name)
}

// strangerError says that an address learned from others belongs to a peer that
// nobody told us of.
type strangerError struct {
	name frame.PeerName
	addr netip.AddrPort
}

func (e *strangerError) Error() string {
	return fmt.Sprintf("found unknown peer %s at the discovered address %s", e.name, e.addr)
}

// limitError says that the connection limit is reached.
type limitError struct{ limit int }

func (e *limitError) Error() string {
	return fmt.Sprintf("the connection limit of %d is reached (connection_limit)", e.limit)
}

// permanent reports whether dialling again is pointless until somebody changes
// something.
func permanent(err error) bool {
	if errors.Is(err, errSelf) {
		return true
	}
	_, collision := errors.AsType[*collisionError](err)
	return collision
}
