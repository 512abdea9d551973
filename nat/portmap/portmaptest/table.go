package portmaptest

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// Entry is what a UDP port of the gateway is forwarded to.
type Entry struct {
	To      netip.AddrPort
	Expires time.Time // zero: never
}

// Table holds a gateway's mappings by external port. The zero Table is empty;
// its methods may be called concurrently.
type Table struct {
	// Changed is told of each change, before the client has its answer: of all
	// mappings that there are. It is called under the table's lock, and must not
	// call the table. nil: nobody is told. Set before the table is used.
	Changed func(map[uint16]Entry)

	mu      sync.Mutex // guards entries
	entries map[uint16]Entry
}

// All returns the mappings that have not expired.
func (t *Table) All() map[uint16]Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	return maps.Clone(t.entries)
}

// Put forwards a port, to whomever it was forwarded before.
func (t *Table) Put(external uint16, e Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil {
		t.entries = map[uint16]Entry{}
	}
	t.entries[external] = e
	t.changedLocked()
}

// Get looks a port up.
func (t *Table) Get(external uint16) (Entry, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked()
	e, ok := t.entries[external]
	return e, ok
}

// Delete removes the mapping of a port.
func (t *Table) Delete(external uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, external)
	t.changedLocked()
}

// DeleteTo removes all mappings to a host's port.
func (t *Table) DeleteTo(to netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.entries, func(_ uint16, e Entry) bool { return e.To == to })
	t.changedLocked()
}

// Clear removes all mappings, as a reboot does.
func (t *Table) Clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.entries)
	t.changedLocked()
}

func (t *Table) changedLocked() {
	if t.Changed != nil {
		t.Changed(maps.Clone(t.entries))
	}
}

func (t *Table) expireLocked() {
	now, before := time.Now(), len(t.entries)
	maps.DeleteFunc(t.entries, func(_ uint16, e Entry) bool { return !e.Expires.IsZero() && now.After(e.Expires) })
	if len(t.entries) != before {
		t.changedLocked()
	}
}
