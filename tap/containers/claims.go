package containers

import (
	"fmt"
	"net/netip"
	"sync"
)

// owner is who has an address: a container, or this host. Containers of two engines may
// have one name, and a container may get another one: the key tells them apart.
type owner struct {
	key  string // of an Attachment; empty: this host
	name string // in words
}

// host is who has the exposed addresses.
var host = owner{name: "this host itself"}

func (a Attachment) owner() owner { return owner{a.key(), a.String()} }

// claims are the addresses of this host's containers and of the host itself on the
// overlay, those included that somebody is about to have: two commands at once cannot
// both take one. The zero value is ready; the methods may be called concurrently.
type claims struct {
	mu sync.Mutex // guards by
	by map[netip.Addr]owner
}

// take claims addresses for somebody, all or none. The error names who has one.
func (c *claims) take(addrs []netip.Addr, who owner) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addrs {
		if other, ok := c.by[a]; ok && other.key != who.key {
			return &takenError{a, other}
		}
	}
	if c.by == nil {
		c.by = map[netip.Addr]owner{}
	}
	for _, a := range addrs {
		c.by[a] = who
	}
	return nil
}

// takenError is an address that somebody else here has.
type takenError struct {
	addr netip.Addr
	by   owner
}

func (e *takenError) Error() string {
	return fmt.Sprintf("%s belongs to %s already: choose another address", e.addr, e.by.here())
}

func (o owner) here() string {
	if o == host {
		return o.name
	}
	return o.name + " of this host"
}

// release gives addresses back that somebody had.
func (c *claims) release(addrs []netip.Addr, who owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addrs {
		if o, ok := c.by[a]; ok && o.key == who.key {
			delete(c.by, a)
		}
	}
}

// taken reports whether somebody here has an address.
func (c *claims) taken(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.by[a]
	return ok
}
