package udp

import (
	"net"
	"strconv"
	"sync"
)

// maxZones bounds each table of zones; a host has few interfaces, but in the
// course of time it may have had many.
const maxZones = 256

// zones translates the zone of a link-local IPv6 address between the name that
// package netip has and the interface index that the kernel wants, and remembers
// what it found. The zero value is ready; it may be used concurrently.
type zones struct {
	mu      sync.Mutex // guards what follows; held while the kernel is asked
	byName  map[string]uint32
	byIndex map[uint32]string
}

// index returns the interface of a zone, which may be written as a number.
func (z *zones) index(name string) (uint32, bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if i, ok := z.byName[name]; ok {
		return i, true
	}
	i, ok := lookupIndex(name)
	if ok {
		z.byName = remember(z.byName, name, i)
	}
	return i, ok
}

// name returns the zone of an interface: its number if it has no name any more.
func (z *zones) name(index uint32) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	if name, ok := z.byIndex[index]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(index), 10)
	if ifc, err := net.InterfaceByIndex(int(index)); err == nil {
		name = ifc.Name
	}
	z.byIndex = remember(z.byIndex, index, name)
	return name
}

// forget makes the next lookups ask the kernel: an interface may have been
// replaced by another of its name.
func (z *zones) forget() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.byName, z.byIndex = nil, nil
}

// remember adds to a table, or to a new one where it is full.
func remember[K comparable, V any](table map[K]V, k K, v V) map[K]V {
	if table == nil || len(table) >= maxZones {
		table = map[K]V{}
	}
	table[k] = v
	return table
}

func lookupIndex(name string) (uint32, bool) {
	if ifc, err := net.InterfaceByName(name); err == nil {
		return uint32(ifc.Index), true
	}
	n, err := strconv.ParseUint(name, 10, 32)
	return uint32(n), err == nil && n != 0
}
