package claim

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"meshd/internal/frame"
	"meshd/internal/subnet"
)

// How often and how long Probe asks. RFC 5227, section 1.1 has three probes 1 to 2 s
// apart and 2 s after the last one, for networks that take that long to come up;
// then `mesh run` would take six seconds. The bridge is up before us, and an answer
// over the overlay takes less than half a second. Three, because one may be lost.
const (
	probes    = 3
	probeGap  = 250 * time.Millisecond
	probeWait = 500 * time.Millisecond // after the last one
)

// maxAddresses is how many addresses one call asks for.
const maxAddresses = 256

// Holder is who has an address, or wants it.
type Holder struct {
	Addr netip.Addr
	// MAC is what the answer came from: the holder, or a bridge or router that
	// answers for it.
	MAC frame.MAC
	// Probing: it does not have the address, but asks for it at this moment.
	Probing bool
	// Device is the device of this host that has the address, empty if it is
	// somebody else. MAC is then that device's.
	Device string
}

// Probe asks on a device, the bridge, who has addresses. It returns one holder for
// each address that has one, in the order of addrs; an address without one is free.
// It takes about a second, less if all have holders. Answers of MACs for which ignore
// returns true do not count; ignore may be nil.
//
// It works in the network namespace of the calling thread, and needs CAP_NET_RAW
// there. Several may run at the same time. Errors wrap ErrNoDevice, ErrDown, or
// ctx's.
func Probe(ctx context.Context, device string, addrs []netip.Addr, ignore func(frame.MAC) bool) ([]Holder, error) {
	if err := check(addrs); err != nil || len(addrs) == 0 {
		return nil, err
	}
	w, err := dial(device, true)
	if err != nil {
		return nil, err
	}
	defer w.close()
	s := newSearch(addrs, w.mac, ignore)
	for _, l := range w.locals {
		s.see(Holder{Addr: l.addr, MAC: l.mac, Device: l.device})
	}
	for n := 1; n <= probes && !s.done(); n++ {
		if err := w.send(s.probes()); err != nil {
			return nil, err
		}
		pause := probeGap
		if n == probes {
			pause = probeWait
		}
		err := w.receive(ctx, time.Now().Add(pause), func(seen sign) bool {
			if seen.mac != w.mac { // its own come back where the overlay has a loop
				s.see(Holder{Addr: seen.addr, MAC: seen.mac, Probing: seen.probing})
			}
			return s.done()
		})
		if err != nil {
			return nil, err
		}
	}
	return s.holders(), nil
}

// check refuses addresses that no host on the overlay can have.
func check(addrs []netip.Addr) error {
	if len(addrs) > maxAddresses {
		return fmt.Errorf("%d addresses at once, of at most %d", len(addrs), maxAddresses)
	}
	for _, a := range addrs {
		if err := subnet.CheckAddr(a); err != nil {
			return err
		}
	}
	return nil
}

// search is one call of Probe.
type search struct {
	addrs  []netip.Addr
	mac    frame.MAC // ours
	ignore func(frame.MAC) bool
	found  map[netip.Addr]Holder // of addrs only
	wanted map[netip.Addr]bool   // addrs as a set
}

func newSearch(addrs []netip.Addr, mac frame.MAC, ignore func(frame.MAC) bool) *search {
	s := &search{mac: mac, ignore: ignore, found: map[netip.Addr]Holder{}, wanted: map[netip.Addr]bool{}}
	for _, a := range addrs {
		a = a.WithZone("")
		if !s.wanted[a] {
			s.wanted[a] = true
			s.addrs = append(s.addrs, a)
		}
	}
	return s
}

// see notes a holder. The first one counts, but one that has the address counts
// more than one that asks for it.
func (s *search) see(h Holder) {
	if !s.wanted[h.Addr] || s.ignore != nil && s.ignore(h.MAC) {
		return
	}
	if old, known := s.found[h.Addr]; !known || old.Probing && !h.Probing {
		s.found[h.Addr] = h
	}
}

func (s *search) done() bool { return len(s.found) == len(s.addrs) }

// probes are the frames that ask for the addresses that have no holder yet.
func (s *search) probes() (frames [][]byte) {
	for _, a := range s.addrs {
		if _, known := s.found[a]; !known {
			frames = append(frames, probeFor(a, s.mac))
		}
	}
	return frames
}

func (s *search) holders() (out []Holder) {
	for _, a := range s.addrs {
		if h, known := s.found[a]; known {
			out = append(out, h)
		}
	}
	return out
}
