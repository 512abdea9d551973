package control

import (
	"errors"
	"fmt"
	"net/netip"

	"meshd/internal/frame"
)

// Why connections end, as status shows it.
var (
	errSelf        = errors.New("cannot connect to ourself")
	errDuplicate   = errors.New("another connection to the same peer is kept")
	errReplaced    = errors.New("replaced by a newer connection to the same peer")
	errStopping    = errors.New("meshd is stopping")
	errLeft        = errors.New("the peer said goodbye")
	errNoPath      = errors.New("no working forwarders to the peer")
	errUnspoken    = errors.New("the peer hung up before it said anything")
	errNoAnswer    = fmt.Errorf("no answer within %v", dialTimeout)
	errSlow        = errors.New("the peer does not take what we send: its queue is full")
	errPreferences = errors.New("other transports are used for the peer now")
)

// errTargetForm says how a target is written.
var errTargetForm = errors.New("wanted host[:port], tcp://host[:port] or quic://host[:port]; IPv6 in brackets when with a port")

// notOursError says that an accepted stream is not a session's, and whose it is.
type notOursError struct{ take TakeConn }

func (e *notOursError) Error() string { return "the connection is not one of a session" }

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

// strangerError says that an address learned from others belongs to another peer.
type strangerError struct {
	name, wanted frame.PeerName
	addr         netip.AddrPort
}

func (e *strangerError) Error() string {
	return fmt.Sprintf("found peer %s at %s, where %s should be", e.name, e.addr, e.wanted)
}

// takenError says that two hosts have one peer name, the one connected already.
type takenError struct {
	name      frame.PeerName
	addr, old netip.AddrPort
}

func (e *takenError) Error() string {
	return fmt.Sprintf("two hosts have the peer name %s: %s, which is connected, and %s; give one of them another `name`", e.name, e.old, e.addr)
}

// limitError says that the connection limit is reached.
type limitError struct{ limit int }

func (e *limitError) Error() string {
	return fmt.Sprintf("the connection limit of %d is reached (connection_limit)", e.limit)
}

// isStranger reports whether another peer was found than the address was for.
func isStranger(err error) bool {
	_, stranger := errors.AsType[*strangerError](err)
	return stranger
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
