package transporttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Sizes in bytes and times of streams, which are about those of a kernel's TCP.
const (
	segmentSize   = 1460
	streamWindow  = 256 << 10             // sent and not read yet, in one direction
	tailProbe     = 10 * time.Millisecond // after a round trip: what is lost once is sent again
	retransmit    = 200 * time.Millisecond
	retransmitMax = 2 * time.Minute
	redialAfter   = time.Second // a SYN without an answer; doubled
	streamBacklog = 128
)

// StreamListener takes streams that other hosts open, like TCP connections: they go
// over the Links too, where what is lost is sent again later.
type StreamListener struct {
	host   *Host
	addr   netip.AddrPort
	queue  []*Stream
	filled sync.Cond // queue or closed changed
	closed bool
}

// ListenStream listens at one of the host's addresses. The port must not be 0.
func (h *Host) ListenStream(at netip.AddrPort) (*StreamListener, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[at.Addr()] != h || at.Port() == 0 {
		return nil, fmt.Errorf("listen at %v: not an address of the host %v", at, h.addrs)
	}
	if h.listeners[at] != nil {
		return nil, fmt.Errorf("listen at %v: in use", at)
	}
	l := &StreamListener{host: h, addr: at}
	l.filled.L = &n.mu
	h.listeners[at] = l
	return l, nil
}

// Accept waits for a stream. After Close the error is net.ErrClosed.
func (l *StreamListener) Accept() (*Stream, error) {
	mu := &l.host.net.mu
	mu.Lock()
	defer mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.filled.Wait()
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	s := l.queue[0]
	l.queue = l.queue[1:]
	return s, nil
}

// Close stops listening; streams that were accepted go on.
func (l *StreamListener) Close() error {
	mu := &l.host.net.mu
	mu.Lock()
	waiting := l.queue
	l.queue, l.closed = nil, true
	if l.host.listeners[l.addr] == l {
		delete(l.host.listeners, l.addr)
	}
	l.filled.Broadcast()
	mu.Unlock()
	for _, s := range waiting {
		s.Close()
	}
	return nil
}

// DialStream opens a stream. Where nobody listens the error is ECONNREFUSED; over a
// link that is cut it waits until ctx is done.
func (h *Host) DialStream(ctx context.Context, to netip.AddrPort) (*Stream, error) {
	for wait := redialAfter; ; wait *= 2 {
		lost, trip := h.knock(to)
		if !lost {
			wait = trip
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		if !lost {
			return h.connect(to)
		}
	}
}

// knock reports whether the first packets of a stream are lost, and how long they
// take there and back.
func (h *Host) knock(to netip.AddrPort) (lost bool, trip time.Duration) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	other := n.hostAt(to)
	there, back := n.link(h, other), n.link(other, h)
	lost = other == nil || !n.passes(there, segmentSize, false) || !n.passes(back, segmentSize, false)
	return lost, there.Latency + back.Latency
}

// connect makes both ends of a stream.
func (h *Host) connect(to netip.AddrPort) (*Stream, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams++
	from := netip.AddrPortFrom(h.addrs[slices.IndexFunc(h.addrs, func(a netip.Addr) bool { return a.Is4() == to.Addr().Is4() })], 32768+n.streams%28000)
	seen := from
	if h.nat != nil {
		seen = h.nat.outside(from)
	}
	other := n.hostAt(to)
	var l *StreamListener
	if other != nil {
		l = other.listeners[to]
	}
	if l == nil || len(l.queue) == streamBacklog {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	there, back := newFlow(n, h, other), newFlow(n, other, h)
	a := &Stream{in: back, out: there, local: from, remote: to}
	b := &Stream{in: there, out: back, local: to, remote: seen}
	l.queue = append(l.queue, b)
	l.filled.Signal()
	return a, nil
}

// Stream is one end of a stream. Its methods may be called concurrently.
type Stream struct {
	in, out       *flow
	local, remote netip.AddrPort
}

var _ net.Conn = (*Stream)(nil)

// flow is one direction of a stream, guarded by the network's mutex.
type flow struct {
	net      *Network
	from, to *Host
	changed  sync.Cond
	timer    *time.Timer

	segments []segment     // sent and not arrived, in order
	sent     int           // how many of them are under way
	flying   int           // bytes in segments
	last     time.Time     // when the last one that is under way arrives
	rto      time.Duration // until the next try over a link that is cut

	arrived       []byte
	fin           bool // all has arrived
	closed        bool // by who writes
	gone          bool // who reads has closed
	reset         bool // what was sent met nobody
	readBy, write time.Time
}

// segment is a part of a flow.
type segment struct {
	data []byte
	fin  bool
	at   time.Time // when it arrives
}

func newFlow(n *Network, from, to *Host) *flow {
	f := &flow{net: n, from: from, to: to, rto: retransmit}
	f.changed.L = &n.mu
	f.timer = time.AfterFunc(time.Hour, f.wake)
	f.timer.Stop()
	return f
}

// wake moves the flow on when its timer has come.
func (f *flow) wake() {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	f.moveLocked()
}

// moveLocked sends what waits, and hands over what has arrived.
func (f *flow) moveLocked() {
	now := time.Now()
	stalled := f.sendLocked(now)
	for f.sent > 0 && !f.segments[0].at.After(now) {
		s := f.segments[0]
		f.segments = f.segments[1:]
		f.sent--
		f.flying -= len(s.data)
		switch {
		case f.gone && len(s.data) > 0:
			f.reset = true
		case s.fin:
			f.fin = true
		default:
			f.arrived = append(f.arrived, s.data...)
		}
	}
	next := time.Time{}
	if f.sent > 0 {
		next = f.segments[0].at
	}
	if stalled && (next.IsZero() || now.Add(f.rto).Before(next)) {
		next = now.Add(f.rto)
		f.rto = min(2*f.rto, retransmitMax)
	}
	if !next.IsZero() {
		f.timer.Reset(next.Sub(now))
	}
	f.changed.Broadcast()
}

// sendLocked puts segments on the way, and reports whether the link is cut.
func (f *flow) sendLocked(now time.Time) (stalled bool) {
	l := f.net.link(f.from, f.to)
	if l.Cut {
		return f.sent < len(f.segments)
	}
	l.MTU = segmentSize // TCP finds it by itself
	f.rto = retransmit
	for ; f.sent < len(f.segments); f.sent++ {
		s := &f.segments[f.sent]
		s.at = now.Add(l.Latency)
		if l.Jitter > 0 {
			s.at = s.at.Add(time.Duration(f.net.rng.Int64N(int64(l.Jitter))))
		}
		again := l.Latency + f.net.link(f.to, f.from).Latency + tailProbe
		for !f.net.passes(l, segmentSize, false) {
			s.at = s.at.Add(again)
			again = max(again, retransmit) // no longer: what follows shows the gap (RFC 8985)
		}
		if s.at.Before(f.last) {
			s.at = f.last
		}
		f.last = s.at
	}
	return false
}

// Read waits for bytes.
func (s *Stream) Read(b []byte) (int, error) {
	f := s.in
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	for {
		switch {
		case f.gone:
			return 0, s.fault("read", net.ErrClosed)
		case len(f.arrived) > 0:
			n := copy(b, f.arrived)
			f.arrived = f.arrived[n:]
			f.changed.Broadcast()
			return n, nil
		case s.out.reset:
			return 0, s.fault("read", os.NewSyscallError("read", syscall.ECONNRESET))
		case f.fin:
			return 0, io.EOF
		case past(f.readBy):
			return 0, s.fault("read", os.ErrDeadlineExceeded)
		}
		f.changed.Wait()
	}
}

// Write waits until the bytes fit the window.
func (s *Stream) Write(b []byte) (n int, err error) {
	f := s.out
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	for {
		switch {
		case f.closed:
			return n, s.fault("write", net.ErrClosed)
		case f.reset:
			return n, s.fault("write", os.NewSyscallError("write", syscall.EPIPE))
		case past(f.write):
			return n, s.fault("write", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return n, nil
		}
		room := min(len(b), streamWindow-f.flying-len(f.arrived), segmentSize)
		if room <= 0 {
			f.changed.Wait()
			continue
		}
		f.segments = append(f.segments, segment{data: slices.Clone(b[:room])})
		f.flying += room
		n, b = n+room, b[room:]
		f.moveLocked()
	}
}

// Close ends both directions. What was written before arrives.
func (s *Stream) Close() error {
	mu := &s.out.net.mu
	mu.Lock()
	defer mu.Unlock()
	if s.out.closed {
		return net.ErrClosed
	}
	s.out.closed, s.in.gone = true, true
	s.in.arrived = nil
	s.out.segments = append(s.out.segments, segment{fin: true})
	s.out.moveLocked()
	s.in.changed.Broadcast()
	return nil
}

// LocalAddr is a *net.TCPAddr.
func (s *Stream) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(s.local) }

// RemoteAddr is a *net.TCPAddr, behind a NAT the mapping's.
func (s *Stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// SetReadDeadline ends a Read at t.
func (s *Stream) SetReadDeadline(t time.Time) error {
	return s.in.deadline(&s.in.readBy, t)
}

// SetWriteDeadline ends a Write at t.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	return s.out.deadline(&s.out.write, t)
}

func (f *flow) deadline(which *time.Time, t time.Time) error {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	*which = t
	f.changed.Broadcast()
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			f.net.mu.Lock()
			defer f.net.mu.Unlock()
			f.changed.Broadcast()
		})
	}
	return nil
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (s *Stream) fault(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}
