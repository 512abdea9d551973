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
	if !ok {
		return 0, false
	}
	z.rememberLocked(name, i)
	return i, true
}

// name returns the zone of an interface: its number if it has no name any more.
func (z *zones) name(index uint32) string {
	z.mu.Lock()
	defer z.mu.Unlock()
	if name, ok := z.byIndex[index]; ok {
		return name
	}
	ifc, err := net.InterfaceByIndex(int(index))
	if err != nil {
		return strconv.FormatUint(uint64(index), 10)
	}
	z.rememberLocked(ifc.Name, index)
	return ifc.Name
}

// forget makes the next lookups ask the kernel: an interface may have been
// replaced by another of its name.
func (z *zones) forget() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.byName, z.byIndex = nil, nil
}

func (z *zones) rememberLocked(name string, index uint32) {
	if z.byName == nil || len(z.byName) >= maxZones || len(z.byIndex) >= maxZones {
		z.byName, z.byIndex = map[string]uint32{}, map[uint32]string{}
	}
	z.byName[name], z.byIndex[index] = index, name
}

func lookupIndex(name string) (uint32, bool) {
	if ifc, err := net.InterfaceByName(name); err == nil {
		return uint32(ifc.Index), true
	}
	n, err := strconv.ParseUint(name, 10, 32)
	return uint32(n), err == nil && n != 0
}
