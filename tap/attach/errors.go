package attach

import (
	"errors"
	"fmt"
)

var (
	// ErrEnded says that the container ended, before it was attached or meanwhile.
	ErrEnded = errors.New("the container has ended")
	// ErrHostNetwork says that a namespace is the host's own.
	ErrHostNetwork = errors.New("it has the network of the host: a container on the overlay needs one of its own, so start it without --network host")
	// ErrNoBridge says that the bridge is not there.
	ErrNoBridge = errors.New("there is no such bridge: is meshd running? `meshd up` or `mesh launch` makes it")
	// ErrForeign says that the device's name is taken by one that is not ours.
	ErrForeign = errors.New("meshd did not make it: detach it with the program that did, or remove it with `ip link del`")
	// ErrNoAddress says that an address is not there.
	ErrNoAddress = errors.New("no such address")
	// ErrNoIPv6 says that the container or the bridge cannot have IPv6 addresses.
	ErrNoIPv6 = errors.New("no IPv6")
)

// SharedError says that the container shares its network with another one, which is
// attached.
type SharedError struct {
	Device string // of both, in the container
	Key    string // of the other one's attachment
}

func (e *SharedError) Error() string { return e.Words(e.Key) }

// Words is the error for people who call the other container who.
func (e *SharedError) Words(who string) string {
	return fmt.Sprintf("it shares its network with %s, which is attached already and has its device %s: attach that one", who, e.Device)
}

var errEndedMeanwhile = &endedMeanwhile{}

// endedMeanwhile is ErrEnded for a container that ended while it was attached.
type endedMeanwhile struct{}

func (*endedMeanwhile) Error() string { return "the container ended while it was being attached" }
func (*endedMeanwhile) Unwrap() error { return ErrEnded }
