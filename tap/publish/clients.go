package publish

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// clientKey tells clients apart. One that sends to two of our addresses is two:
// each gets its answers from where it sent to.
type clientKey struct {
	addr  netip.AddrPort
	local netip.Addr // where it sent to; the zero Addr on a socket of one address
	iface int        // by which interface, where local is link-local; else 0
}

// clients is a table of bounded size. Its methods may be called concurrently.
type clients struct {
	limit int
	first chan struct{} // of 1: told, if empty, that the table is not empty anymore

	mu    sync.Mutex // guards table; nothing is locked or called under it
	table map[clientKey]*client
}

func newClients(limit int) *clients {
	return &clients{limit: limit, first: make(chan struct{}, 1), table: map[clientKey]*client{}}
}

// find returns the client of key, nil if there is none.
func (cs *clients) find(key clientKey) *client {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.table[key]
}

// add puts a new client into the table. It returns the one that had to go as the
// table was full: that which has been silent for the longest time.
func (cs *clients) add(c *client) (out *client) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if len(cs.table) >= cs.limit {
		for _, other := range cs.table {
			if out == nil || other.used.Load() < out.used.Load() {
				out = other
			}
		}
		delete(cs.table, out.key)
	}
	cs.table[c.key] = c
	select {
	case cs.first <- struct{}{}:
	default:
	}
	return out
}

// remove forgets c, unless it is forgotten already.
func (cs *clients) remove(c *client) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.table[c.key] == c {
		delete(cs.table, c.key)
	}
}

// expire forgets the clients that have been silent for idle and returns them.
func (cs *clients) expire(now time.Time, idle time.Duration) (silent []*client) {
	limit := now.Add(-idle).UnixNano()
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for key, c := range cs.table {
		if c.used.Load() <= limit {
			silent = append(silent, c)
			delete(cs.table, key)
		}
	}
	return silent
}

func (cs *clients) all() []*client {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return slices.Collect(maps.Values(cs.table))
}

func (cs *clients) len() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.table)
}
