package quicnet

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/mux"
	"meshd/internal/udp"
)

// Bounds of what waits between a mux and quic-go, for each mux.
const (
	maxQueued    = 1024 // datagrams
	maxStrangers = 512  // the same, with more waiting: only those of favoured addresses are taken
	maxQUIC      = 1452 // bytes of a datagram: quic-go reads no longer one
	maxAddresses = 256  // that are remembered, to allocate each once
)

// quic-go drops, uncounted, what comes while 128 datagrams (RFC 9221) of a
// connection wait to be received. Its own goroutine reads packets without a pause
// and may keep who receives from running. So no more than inHand packets are given
// to it before they were received, or patience is over: packets need not have
// datagrams.
const (
	inHand    = 96
	patience  = 300 * time.Microsecond
	lookAgain = 30 * time.Microsecond
)

// slot is a datagram in the queue.
type slot struct {
	buf  []byte // of capacity maxQUIC; nil: not used yet
	addr *net.UDPAddr
}

// packetConn is what quic-go takes for its socket: the QUIC datagrams of a mux.
// What the mux reads is copied into a ring, from which quic-go's reader takes it;
// what does not fit is dropped. Deadlines and Close concern the ring alone: the
// sockets belong to the mux.
type packetConn struct {
	mux     *mux.Mux
	local   *net.UDPAddr
	probe   probe // what quic-go asks the kernel
	dropped atomic.Uint64
	writers sync.Pool // of *writer

	received *atomic.Uint64 // datagrams (RFC 9221), on all connections
	given    uint64         // packets to quic-go, from where received stood; its reader's

	mu      sync.Mutex // guards below
	ring    [maxQueued]slot
	head, n int
	expired bool // the read deadline has passed
	closed  bool
	known   map[netip.AddrPort]*net.UDPAddr
	favours map[netip.AddrPort]int // how many connections an address has that a path uses
	filled  chan struct{}          // mux and deadlines send, the reader receives; full: it will look anyway
}

// newPacketConn makes itself the mux's handler of QUIC. The mux must not run yet.
func newPacketConn(m *mux.Mux, received *atomic.Uint64) (*packetConn, error) {
	c := &packetConn{mux: m, received: received, filled: make(chan struct{}, 1)}
	c.known, c.favours = map[netip.AddrPort]*net.UDPAddr{}, map[netip.AddrPort]int{}
	c.writers.New = func() any { return &writer{} }
	for _, ip := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if s := m.Socket(netip.AddrPortFrom(ip, m.Port())); s != nil && c.local == nil {
			c.local = net.UDPAddrFromAddrPort(s.LocalAddr())
		}
	}
	if err := c.probe.open(); err != nil {
		return nil, err
	}
	m.Handle(mux.QUIC, func(mux.Socket) mux.Handler { return c.take })
	return c, nil
}

// take queues what one read brought.
func (c *packetConn) take(batch []udp.Message) {
	c.mu.Lock()
	for i := range batch {
		m := &batch[i]
		segment := m.Segment
		if segment <= 0 {
			segment = m.N
		}
		for rest := m.Buf[:m.N]; len(rest) > 0; {
			d := rest[:min(segment, len(rest))]
			rest = rest[len(d):]
			c.pushLocked(d, m.Addr)
		}
	}
	c.mu.Unlock()
	c.rouse()
}

func (c *packetConn) pushLocked(d []byte, from netip.AddrPort) {
	crowded := c.n >= maxStrangers && (c.n == maxQueued || c.favours[from] == 0)
	if crowded || len(d) > maxQUIC || c.closed {
		c.dropped.Add(1)
		return
	}
	s := &c.ring[(c.head+c.n)%maxQueued]
	if s.buf == nil {
		s.buf = make([]byte, 0, maxQUIC)
	}
	s.buf, s.addr = append(s.buf[:0], d...), c.addrLocked(from)
	c.n++
}

// favour keeps room in the queue for an address, once more (by 1) or once less
// (by -1): what strangers send crowds out nobody who has a path.
func (c *packetConn) favour(a netip.AddrPort, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.favours[a] += by; c.favours[a] == 0 {
		delete(c.favours, a)
	}
}

// addrLocked finds or makes the form of an address that quic-go wants. It must
// not be changed.
func (c *packetConn) addrLocked(a netip.AddrPort) *net.UDPAddr {
	if u := c.known[a]; u != nil {
		return u
	}
	if len(c.known) >= maxAddresses {
		clear(c.known)
	}
	u := net.UDPAddrFromAddrPort(a)
	c.known[a] = u
	return u
}

func (c *packetConn) rouse() {
	select {
	case c.filled <- struct{}{}:
	default:
	}
}

// pop waits for datagrams and calls each for as many as there are, up to limit.
func (c *packetConn) pop(limit int, each func(i int, s *slot)) (int, error) {
	c.hold()
	for {
		c.mu.Lock()
		switch {
		case c.closed:
			c.mu.Unlock()
			return 0, net.ErrClosed
		case c.expired:
			c.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case c.n > 0:
			n := min(c.n, limit)
			for i := range n {
				each(i, &c.ring[(c.head+i)%maxQueued])
			}
			c.head = (c.head + n) % maxQueued
			c.n -= n
			c.mu.Unlock()
			c.given += uint64(n)
			return n, nil
		}
		c.mu.Unlock()
		<-c.filled
	}
}

// hold waits while quic-go has many packets in hand.
func (c *packetConn) hold() {
	for waited := time.Duration(0); ; waited += lookAgain {
		now := c.received.Load()
		if c.given < now+inHand {
			c.given = max(c.given, now)
			return
		}
		if waited >= patience {
			c.given = now
			return
		}
		time.Sleep(lookAgain)
	}
}

// ReadFrom implements net.PacketConn.
func (c *packetConn) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	_, err = c.pop(1, func(_ int, s *slot) { n, from = copy(b, s.buf), s.addr })
	return n, from, err
}

// WriteTo implements net.PacketConn.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) {
	return c.write(b, to, 0)
}

// writer is the memory of one call of write.
type writer struct{ messages []udp.Message }

// write sends one datagram, or a run of datagrams of segment bytes each, the last
// of which may be shorter. What the host cannot send now is lost, as on the way:
// quic-go would take another error for the connection's end.
func (c *packetConn) write(b []byte, to net.Addr, segment int) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not an UDP address", Addr: to.String()}
	}
	addr := unmap(u.AddrPort())
	s := c.mux.Socket(addr)
	if s == nil {
		return len(b), nil
	}
	if segment <= 0 {
		segment = max(len(b), 1)
	}
	w := c.writers.Get().(*writer)
	defer c.writers.Put(w)
	w.messages = w.messages[:0]
	for rest := b; len(rest) > 0; {
		d := rest[:min(segment, len(rest))]
		rest = rest[len(d):]
		w.messages = append(w.messages, udp.Message{Buf: d, N: len(d), Addr: addr})
	}
	_, err := s.WriteBatch(w.messages, true)
	clear(w.messages)
	switch {
	case errors.Is(err, net.ErrClosed):
		return 0, net.ErrClosed
	case errors.Is(err, udp.ErrTooBig):
		return 0, errTooBig
	}
	return len(b), nil
}

// unmap turns an IPv4-mapped IPv6 address into the IPv4 address.
func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// LocalAddr implements net.PacketConn.
func (c *packetConn) LocalAddr() net.Addr { return c.local }

// SetReadDeadline makes reads return at once while a deadline is set: quic-go
// sets none but to end its reader.
func (c *packetConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.expired = !t.IsZero()
	c.mu.Unlock()
	c.rouse()
	return nil
}

// SetDeadline is SetReadDeadline: a write does not wait.
func (c *packetConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetWriteDeadline does nothing: a write does not wait.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer does nothing: the sockets are the mux's.
func (c *packetConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing: the sockets are the mux's.
func (c *packetConn) SetWriteBuffer(int) error { return nil }

// Close ends reads. The sockets stay open.
func (c *packetConn) Close() error {
	c.mu.Lock()
	was := c.closed
	c.closed = true
	c.mu.Unlock()
	c.rouse()
	if was {
		return net.ErrClosed
	}
	return c.probe.Close()
}
