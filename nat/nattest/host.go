package nattest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"meshd/internal/mux"
	"meshd/internal/udp"
)

// Sizes in bytes.
const (
	ipv4UDP      = 28      // headers of IPv4 and UDP
	ipv6UDP      = 48      // of IPv6 and UDP
	inboxLimit   = 4 << 20 // what a socket holds unread
	maxDatagrams = 4096
)

// firstEphemeral is the first port that Listen chooses.
const firstEphemeral = 32768

// Host has addresses and sockets.
type Host struct {
	// Addrs are the host's own addresses; not to be changed.
	Addrs []netip.Addr

	realm   *realm
	sockets map[netip.AddrPort]*Socket // guarded by the network's mu, as is next
	next    uint16
}

// Listen opens a socket at one of the host's addresses or, if the address is
// unspecified, at all of its family. Port 0 chooses one. An address in use is an
// error that is syscall.EADDRINUSE.
func (h *Host) Listen(at netip.AddrPort) (*Socket, error) {
	h.realm.net.mu.Lock()
	defer h.realm.net.mu.Unlock()
	if a := at.Addr(); !a.IsValid() || !a.IsUnspecified() && !slices.Contains(h.Addrs, a) {
		return nil, fmt.Errorf("listen at %v: not an address of the host %v", at, h.Addrs)
	}
	for free := at.Port() != 0; !free; free = !h.inUse(at) {
		at = netip.AddrPortFrom(at.Addr(), firstEphemeral+h.next%(1<<15))
		h.next++
	}
	if h.inUse(at) {
		return nil, fmt.Errorf("listen at %v: %w", at, syscall.EADDRINUSE)
	}
	s := &Socket{host: h, addr: at}
	s.filled.L = &h.realm.net.mu
	h.sockets[at] = s
	return s, nil
}

// ListenAll opens a socket at each of the host's addresses and each of the ports.
func (h *Host) ListenAll(ports ...uint16) ([]mux.Socket, error) {
	var out []mux.Socket
	for _, a := range h.Addrs {
		for _, p := range ports {
			s, err := h.Listen(netip.AddrPortFrom(a, p))
			if err != nil {
				for _, s := range out {
					err = errors.Join(err, s.Close())
				}
				return nil, err
			}
			out = append(out, s)
		}
	}
	return out, nil
}

// inUse needs the network's mu.
func (h *Host) inUse(at netip.AddrPort) bool {
	for used := range h.sockets {
		a, b := used.Addr(), at.Addr()
		if used.Port() == at.Port() && a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) {
			return true
		}
	}
	return false
}

// takeLocked gives a datagram to the socket that it is for.
func (h *Host) takeLocked(d Datagram) {
	s := h.sockets[d.To]
	if s == nil {
		all := netip.IPv4Unspecified()
		if d.To.Addr().Is6() {
			all = netip.IPv6Unspecified()
		}
		s = h.sockets[netip.AddrPortFrom(all, d.To.Port())]
	}
	if s != nil {
		s.putLocked(d)
	}
}

var _ mux.Socket = (*Socket)(nil)

// Socket is a datagram socket with the methods of udp.Conn. They may be called
// concurrently. It reads each datagram on its own, never as a run.
type Socket struct {
	host   *Host
	addr   netip.AddrPort
	filled sync.Cond // inbox or closed changed; guarded by the network's mu, as is what follows
	inbox  []Datagram
	bytes  int
	closed bool
}

// putLocked appends to the inbox, or drops as a full socket does.
func (s *Socket) putLocked(d Datagram) {
	if s.bytes+len(d.Payload) <= inboxLimit && len(s.inbox) < maxDatagrams {
		s.inbox = append(s.inbox, d)
		s.bytes += len(d.Payload)
		s.filled.Signal()
	}
}

// ReadBatch waits for datagrams and fills ms with what is there. After Close the
// error is net.ErrClosed.
func (s *Socket) ReadBatch(ms []udp.Message) (int, error) {
	mu := &s.host.realm.net.mu
	mu.Lock()
	defer mu.Unlock()
	for len(s.inbox) == 0 && !s.closed {
		s.filled.Wait()
	}
	if s.closed {
		return 0, net.ErrClosed
	}
	n := min(len(ms), len(s.inbox))
	for i, d := range s.inbox[:n] {
		ms[i].N, ms[i].Addr, ms[i].Segment = copy(ms[i].Buf, d.Payload), d.From, 0
		s.bytes -= len(d.Payload)
	}
	s.inbox = slices.Delete(s.inbox, 0, n)
	return n, nil
}

// WriteBatch sends the datagrams in order. An error concerns ms[n]:
// udp.ErrTooBig where it must not be fragmented and is larger than the MTU,
// udp.ErrNoWay where the host has no address of its family.
func (s *Socket) WriteBatch(ms []udp.Message, df bool) (n int, err error) {
	mu := &s.host.realm.net.mu
	mu.Lock()
	defer mu.Unlock()
	for i, m := range ms {
		if err := s.sendLocked(m.Addr, m.Buf[:m.N], df); err != nil {
			return i, err
		}
	}
	return len(ms), nil
}

func (s *Socket) sendLocked(to netip.AddrPort, payload []byte, df bool) error {
	from := s.source()
	headers := ipv4UDP
	if to.Addr().Is6() {
		headers = ipv6UDP
	}
	size := len(payload) + headers
	switch {
	case s.closed:
		return net.ErrClosed
	case !from.IsValid(), from.Is4() != to.Addr().Is4():
		return udp.ErrNoWay
	case size > 1<<16-1, df && size > s.host.realm.net.config.MTU:
		return udp.ErrTooBig
	}
	d := Datagram{netip.AddrPortFrom(from, s.addr.Port()), to, slices.Clone(payload)}
	if slices.Contains(s.host.Addrs, to.Addr()) {
		s.host.takeLocked(d)
		return nil
	}
	s.host.realm.enterLocked(d)
	return nil
}

// source is the address that the socket sends from, not valid if the host has
// none of its family.
func (s *Socket) source() netip.Addr {
	own := s.addr.Addr()
	if !own.IsUnspecified() {
		return own
	}
	for _, a := range s.host.Addrs {
		if a.Is4() == own.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// LocalAddr is where the socket listens.
func (s *Socket) LocalAddr() netip.AddrPort { return s.addr }

// PathMTU is the MTU of every path in bytes.
func (s *Socket) PathMTU(netip.AddrPort) (int, error) { return s.host.realm.net.config.MTU, nil }

// Judge does nothing: all that arrives is as it was sent.
func (s *Socket) Judge(time.Time, udp.Verdict) {}

// OnTooBig does nothing: nobody is told of an MTU later.
func (s *Socket) OnTooBig(func(dst netip.AddrPort, mtu int)) {}

// Close ends the socket; reads in progress return. The second time it returns
// net.ErrClosed.
func (s *Socket) Close() error {
	s.host.realm.net.mu.Lock()
	defer s.host.realm.net.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	delete(s.host.sockets, s.addr)
	s.filled.Broadcast()
	return nil
}
