package containers

import (
	"fmt"
	"net/netip"
	"sync"
)

// claims are the addresses of this host's containers and of the host itself on the
// overlay, those included that somebody is about to have: two commands at once cannot
// both take one. The zero value is ready; the methods may be called concurrently.
type claims struct {
	mu sync.Mutex // guards by
	by map[netip.Addr]string
}

// take claims addresses for somebody, all or none. The error names who has one.
func (c *claims) take(addrs []netip.Addr, who string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addrs {
		if other, ok := c.by[a]; ok && other != who {
			return fmt.Errorf("%s belongs to %s of this host already: choose another address", a, other)
		}
	}
	if c.by == nil {
		c.by = map[netip.Addr]string{}
	}
	for _, a := range addrs {
		c.by[a] = who
	}
	return nil
}

// release gives addresses back that somebody had.
func (c *claims) release(addrs []netip.Addr, who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addrs {
		if c.by[a] == who {
			delete(c.by, a)
		}
	}
}

// holder is who has an address; empty: nobody here.
func (c *claims) holder(a netip.Addr) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[a]
}
