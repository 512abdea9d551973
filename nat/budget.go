package nat

import (
	"net/netip"
	"sync"
	"time"
)

// What is sent to addresses that nobody has answered from, whoever told of them: so
// that we are of no use to flood or to scan a third party.
const (
	budgetTime      = time.Minute
	budgetDatagrams = 12   // to one address and port
	budgetPorts     = 8    // of one address
	budgetAddresses = 1024 // that are kept account of; with more nothing is sent to others
)

// budget keeps account of it.
type budget struct {
	mu    sync.Mutex // guards below
	spent map[netip.Addr]map[netip.AddrPort]int
	since time.Time
}

// allow reports whether one more datagram may be sent to an address, and counts it.
func (b *budget) allow(now time.Time, to netip.AddrPort) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.spent == nil || now.Sub(b.since) >= budgetTime {
		b.spent, b.since = map[netip.Addr]map[netip.AddrPort]int{}, now
	}
	ports := b.spent[to.Addr()]
	if ports == nil {
		if len(b.spent) >= budgetAddresses {
			return false
		}
		ports = map[netip.AddrPort]int{}
		b.spent[to.Addr()] = ports
	}
	n, known := ports[to]
	if n >= budgetDatagrams || !known && len(ports) >= budgetPorts {
		return false
	}
	ports[to] = n + 1
	return true
}

// answered gives back what was spent on an address that has answered.
func (b *budget) answered(from netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ports := b.spent[from.Addr()]; ports != nil {
		delete(ports, from)
		if len(ports) == 0 {
			delete(b.spent, from.Addr())
		}
	}
}
