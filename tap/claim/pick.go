package claim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// How far Pick looks. A batch of which none is free is over at once, one with a free
// address takes as long as a probe, and is the last: the limits are for subnets that
// are full, or where others pick at the same moment.
const (
	pickBatch    = 8
	maxProbed    = 256     // a /24, all of it
	maxSkipped   = 1 << 16 // that used knows
	reservedIPv6 = 128     // RFC 2526: the highest ones of a subnet are anycast
)

// ErrFull says that no free address was found in a subnet.
var ErrFull = errors.New("no address is free")

// Pick finds an address of a subnet that nobody has: none for which used returns
// true, and none that Probe finds a holder of. used may be nil. Each host tries the
// addresses in an order of its own, always the same: hosts that pick at the same
// moment rarely want the same one, and a host mostly gets the one that it had.
//
// The address is not kept for the caller: other picks of this host must know of it
// through used. Errors wrap ErrFull and those of Probe.
func Pick(ctx context.Context, device string, subnet netip.Prefix, used func(netip.Addr) bool) (netip.Addr, error) {
	if !subnet.IsValid() || subnet.Addr().Is4In6() {
		return netip.Addr{}, fmt.Errorf("%s is not a subnet", subnet)
	}
	w, err := dial(device, false)
	if err != nil {
		return netip.Addr{}, err
	}
	w.close()
	order := orderOf(subnet.Masked(), w.mac[:])
	for probed := 0; probed < maxProbed; {
		batch := order.take(pickBatch, used)
		if len(batch) == 0 {
			break
		}
		probed += len(batch)
		holders, err := Probe(ctx, device, batch, nil)
		if err != nil {
			return netip.Addr{}, err
		}
		if a, ok := firstFree(batch, holders); ok {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all %d addresses that were tried in %s are in use: %w", order.tried, subnet.Masked(), ErrFull)
}

// firstFree is the first address without a holder.
func firstFree(batch []netip.Addr, holders []Holder) (netip.Addr, bool) {
	held := map[netip.Addr]bool{}
	for _, h := range holders {
		held[h.Addr] = true
	}
	for _, a := range batch {
		if !held[a] {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// order walks through the host numbers of a subnet: start, start+step, … modulo
// their count, a power of two. As step is odd that meets each once.
type order struct {
	subnet      netip.Prefix
	mask        uint64 // highest host number; of IPv6, the low 64 bits at most
	start, step uint64
	n           uint64 // how many were walked over
	over        bool   // all were
	tried       int    // how many were no network or broadcast address
}

func orderOf(subnet netip.Prefix, seed []byte) *order {
	h := sha256.New()
	h.Write(seed)
	h.Write([]byte(subnet.String()))
	sum := h.Sum(nil)
	host := min(subnet.Addr().BitLen()-subnet.Bits(), 64)
	o := &order{subnet: subnet, mask: ^uint64(0) >> (64 - host)}
	if host == 0 {
		o.mask = 0
	}
	o.start = binary.BigEndian.Uint64(sum) & o.mask
	// Steps of about the golden ratio spread what is tried over the subnet.
	o.step = (binary.BigEndian.Uint64(sum[8:])&(o.mask>>2) + o.mask>>1) | 1
	return o
}

// take returns the next addresses that a host may have and that are not used.
func (o *order) take(count int, used func(netip.Addr) bool) (batch []netip.Addr) {
	for skipped := 0; len(batch) < count && !o.over && skipped < maxSkipped; skipped++ {
		number := (o.start + o.n*o.step) & o.mask
		o.over = o.n == o.mask
		o.n++
		if !o.usable(number) {
			continue
		}
		o.tried++
		if a := o.addr(number); used == nil || !used(a) {
			batch = append(batch, a)
		}
	}
	return batch
}

// usable tells whether a host may have a number: of subnets with more than two
// addresses neither the first nor the last (RFC 3021, RFC 6164).
func (o *order) usable(number uint64) bool {
	switch {
	case o.mask <= 1:
		return true
	case number == 0:
		return false
	case o.subnet.Addr().Is4():
		return number != o.mask
	}
	return o.mask < reservedIPv6 || number <= o.mask-reservedIPv6
}

// addr puts a host number into the subnet.
func (o *order) addr(number uint64) netip.Addr {
	if o.subnet.Addr().Is4() {
		b := o.subnet.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(number))
		return netip.AddrFrom4(b)
	}
	b := o.subnet.Addr().As16()
	low := binary.BigEndian.Uint64(b[8:]) | number
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}
