package identity

import (
	"fmt"
	"sync"
	"time"

	"meshd/internal/frame"
)

// Policy decides which peers may be neighbours: by an allow-list of keys, if there
// is one, and by the pins. Methods may be called concurrently; none waits for the
// disk.
type Policy struct {
	pins *Pins

	mu    sync.Mutex       // guards what follows
	keys  map[Key]struct{} // the allow-list; empty: every key may
	stock bool             // peers without a key may, beside an allow-list
}

// NewPolicy makes a policy without an allow-list.
func NewPolicy(pins *Pins) *Policy { return &Policy{pins: pins} }

// Set makes keys the allow-list. stock lets peers without a key in all the same,
// stock routers and those that speak protocol 1. Without keys all may come in.
func (p *Policy) Set(keys []Key, stock bool) {
	list := make(map[Key]struct{}, len(keys))
	for _, k := range keys {
		list[k] = struct{}{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.stock = list, stock
}

// Check says why a peer that has shown a key, or none (nil), may not be a
// neighbour; nil: it may. listed: its key is in the allow-list.
func (p *Policy) Check(name frame.PeerName, key *Key) (listed bool, err error) {
	if err := p.checkPin(name, key); err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.keys) == 0:
		return false, nil
	case key == nil && p.stock:
		return false, nil
	case key == nil:
		return false, fmt.Errorf("peer %v shows no key, as stock routers and protocol 1 do, and trust.keys is set: trust.stock lets such peers in", name)
	}
	if _, listed = p.keys[*key]; !listed {
		return false, fmt.Errorf("peer %v has the key %v, which is not in trust.keys: add it there to accept the peer", name, *key)
	}
	return true, nil
}

// PinError says that a peer shows another key than its name is pinned to.
type PinError struct {
	Pin Pin
	Key *Key // nil: none
}

func (e *PinError) Error() string {
	shows := "shows no key"
	if e.Key != nil {
		shows = "shows the key " + e.Key.String()
	}
	return fmt.Sprintf("peer %v %s, but had %v when it was seen first (%s): somebody may pretend to be it; if its state_dir is new, accept it with `meshd trust forget %v`",
		e.Pin.Name, shows, e.Pin.Key, e.Pin.Since.Format("2006-01-02"), e.Pin.Name)
}

func (p *Policy) checkPin(name frame.PeerName, key *Key) error {
	pin, pinned := p.pins.Find(name)
	switch {
	case pinned && (key == nil || *key != pin.Key):
		return &PinError{pin, key}
	case !pinned && key != nil:
		return p.pins.Room(name)
	}
	return nil
}

// Taken pins a peer that is a neighbour now, if it has shown a key and is seen
// first.
func (p *Policy) Taken(name frame.PeerName, nick string, key *Key) {
	if key != nil && p.pins.Add(name, nick, *key, time.Now()) {
		p.pins.log.Info("key of peer pinned at first sight", "peer", name, "nickname", nick, "key", *key)
	}
}
