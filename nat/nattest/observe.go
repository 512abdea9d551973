package nattest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"meshd/internal/mux"
	"meshd/internal/udp"
)

// Seen is what the tests of RFC 5780, section 4, and some more tell of the NATs
// that a host is behind.
type Seen struct {
	Blocked            bool // nothing arrives; the rest is not known
	Translated         bool // others see another address than the host's
	Mapping, Filtering Dependence
	PortKept           bool // the outside port is the socket's own
	Hairpin            bool
	// Poisoned says that a host that sends to where a datagram came from that was
	// not let in has another outside port there than elsewhere, though Mapping is
	// EndpointIndependent.
	Poisoned bool
}

// Observe finds out what is between a host and remote sockets. open opens a
// socket on the host, each time at another port; it is bound to an IP address.
// remote has two ports at each of two addresses. Observe takes over all sockets
// and closes them. wait is how long a datagram may take; what does not arrive is
// waited for as long.
func Observe(open func() (mux.Socket, error), remote [2][2]mux.Socket, wait time.Duration) (Seen, error) {
	o := &observer{open: open, wait: wait}
	defer o.close()
	for a := range remote {
		for p := range remote[a] {
			o.remote[a][p] = o.adopt(remote[a][p])
		}
	}
	var s Seen
	for _, step := range []func(*Seen) error{o.mapping, o.filtering, o.poison, o.hairpin} {
		if err := step(&s); err != nil || s.Blocked {
			return s, err
		}
	}
	return s, nil
}

// observer is one Observe.
type observer struct {
	open    func() (mux.Socket, error)
	remote  [2][2]*party
	wait    time.Duration
	tag     uint64
	parties []*party
	readers sync.WaitGroup
}

// party is a socket and what it received.
type party struct {
	mux.Socket
	in chan arrival // filled by the socket's reader, which drops when it is full
}

type arrival struct {
	from netip.AddrPort
	tag  uint64
}

func (o *observer) adopt(s mux.Socket) *party {
	p := &party{s, make(chan arrival, 100)}
	o.parties = append(o.parties, p)
	o.readers.Go(p.read)
	return p
}

func (o *observer) socket() (*party, error) {
	s, err := o.open()
	if err != nil {
		return nil, err
	}
	return o.adopt(s), nil
}

func (o *observer) close() {
	for _, p := range o.parties {
		p.Close()
	}
	o.readers.Wait()
}

// read takes what arrives until the socket is closed.
func (p *party) read() {
	ms := make([]udp.Message, 4)
	for i := range ms {
		ms[i].Buf = make([]byte, udp.MaxDatagram)
	}
	for {
		n, err := p.ReadBatch(ms)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for _, m := range ms[:n] {
			for b := m.Buf[:m.N]; len(b) >= 8; b = b[8:] { // of a run each is 8 bytes
				select {
				case p.in <- arrival{m.Addr, binary.BigEndian.Uint64(b)}:
				default:
				}
			}
		}
	}
}

// send sends a datagram that is known by its tag.
func (o *observer) send(from *party, to netip.AddrPort) (tag uint64, err error) {
	o.tag++
	m := udp.Message{Buf: binary.BigEndian.AppendUint64(nil, o.tag), N: 8, Addr: to}
	if _, err := from.WriteBatch([]udp.Message{m}, false); err != nil {
		return 0, fmt.Errorf("send from %v to %v: %w", from.LocalAddr(), to, err)
	}
	return o.tag, nil
}

// awaited says where the datagram of a tag came from, if it arrived.
func (o *observer) awaited(at *party, tag uint64) (netip.AddrPort, bool) {
	timeout := time.NewTimer(o.wait)
	defer timeout.Stop()
	for {
		select {
		case a := <-at.in:
			if a.tag == tag {
				return a.from, true
			}
		case <-timeout.C:
			return netip.AddrPort{}, false
		}
	}
}

var errLost = errors.New("a datagram was lost")

// mapped sends from a socket and says how the remote sees it.
func (o *observer) mapped(from, to *party) (netip.AddrPort, error) {
	tag, err := o.send(from, to.LocalAddr())
	if err != nil {
		return netip.AddrPort{}, err
	}
	seen, ok := o.awaited(to, tag)
	if !ok {
		return seen, fmt.Errorf("from %v to %v: %w", from.LocalAddr(), to.LocalAddr(), errLost)
	}
	return seen, nil
}

// mapping is RFC 5780, section 4.3.
func (o *observer) mapping(s *Seen) error {
	c, err := o.socket()
	if err != nil {
		return err
	}
	var as [3]netip.AddrPort
	for i, to := range []*party{o.remote[0][0], o.remote[0][1], o.remote[1][0]} {
		as[i], err = o.mapped(c, to)
		if i == 0 && errors.Is(err, errLost) {
			s.Blocked = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.Translated = as[0] != c.LocalAddr()
	s.PortKept = as[0].Port() == c.LocalAddr().Port()
	switch {
	case as[0] != as[1]:
		s.Mapping = AddressAndPortDependent
	case as[0] != as[2]:
		s.Mapping = AddressDependent
	}
	return nil
}

// filtering is RFC 5780, section 4.4.
func (o *observer) filtering(s *Seen) error {
	c, err := o.socket()
	if err != nil {
		return err
	}
	as, err := o.mapped(c, o.remote[0][0])
	if err != nil {
		return err
	}
	for _, try := range []struct {
		from *party
		then Dependence
	}{{o.remote[1][1], EndpointIndependent}, {o.remote[0][1], AddressDependent}, {o.remote[0][0], AddressAndPortDependent}} {
		tag, err := o.send(try.from, as)
		if err != nil {
			return err
		}
		if _, ok := o.awaited(c, tag); ok {
			s.Filtering = try.then
			return nil
		}
	}
	return fmt.Errorf("answer to %v: %w", as, errLost)
}

// poison sees whether a datagram that is not let in changes the mapping.
func (o *observer) poison(s *Seen) error {
	if s.Mapping != EndpointIndependent {
		return nil
	}
	c, err := o.socket()
	if err != nil {
		return err
	}
	as, err := o.mapped(c, o.remote[0][0])
	if err != nil {
		return err
	}
	tag, err := o.send(o.remote[1][0], as)
	if err != nil {
		return err
	}
	o.awaited(c, tag) // it may arrive or not
	now, err := o.mapped(c, o.remote[1][0])
	s.Poisoned = now != as
	return err
}

// hairpin is RFC 5780, section 4.5, with two sockets that send to each other, as
// a filter may ask for.
func (o *observer) hairpin(s *Seen) error {
	var cs [2]*party
	var as [2]netip.AddrPort
	for i := range cs {
		var err error
		if cs[i], err = o.socket(); err != nil {
			return err
		}
		if as[i], err = o.mapped(cs[i], o.remote[0][0]); err != nil {
			return err
		}
	}
	if !s.Translated {
		return nil // they reach each other without
	}
	if _, err := o.send(cs[0], as[1]); err != nil {
		return err
	}
	tag, err := o.send(cs[1], as[0])
	if err != nil {
		return err
	}
	_, s.Hairpin = o.awaited(cs[0], tag)
	return nil
}
