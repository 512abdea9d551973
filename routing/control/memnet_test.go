package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// memNet is a network of streams in memory. Hosts have one address and one
// listening port. Between hosts that are cut off from each other bytes wait until
// the cut is healed.
type memNet struct {
	name    string               // of the carrier that it is
	latency func() time.Duration // of one write, half of that of a dial; nil: none. Set before anybody dials

	mu    sync.Mutex
	hosts map[netip.Addr]*memCarrier
	cut   map[[2]netip.Addr]bool
	deaf  map[netip.Addr]bool // hosts whose streams open, and where nobody answers
	pipes []*memConn          // the dialling ends of all streams ever
	dials []memDial           // all there were
	port  uint16
}

// memDial is somebody's attempt to open a stream.
type memDial struct {
	from netip.Addr
	to   netip.AddrPort
	at   time.Time
}

func newMemNet(name string) *memNet {
	return &memNet{
		name: name, hosts: map[netip.Addr]*memCarrier{}, cut: map[[2]netip.Addr]bool{},
		deaf: map[netip.Addr]bool{}, port: 40000,
	}
}

// memCarrier is one host's end of a memNet.
type memCarrier struct {
	net  *memNet
	addr netip.AddrPort
	in   chan *memConn // sent by Dial of others, received by Accept; senders wait
}

var _ Carrier = (*memCarrier)(nil)

func (n *memNet) carrier(t *testing.T, addr string) *memCarrier {
	t.Helper()
	c := &memCarrier{net: n, addr: netip.MustParseAddrPort(addr), in: make(chan *memConn)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[c.addr.Addr()] = c
	return c
}

// Name is the name of the carrier that the network is.
func (c *memCarrier) Name() string { return c.net.name }

// setDeaf makes a host's streams open without anybody to answer on them.
func (n *memNet) setDeaf(host string, deaf bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf[netip.MustParseAddr(host)] = deaf
}

// dialled are the attempts of one host so far.
func (n *memNet) dialled(from string) (out []memDial) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.dials {
		if d.from == netip.MustParseAddr(from) {
			out = append(out, d)
		}
	}
	return out
}

// setCut cuts or heals both directions between two hosts; streams between them
// stall.
func (n *memNet) setCut(a, b string, cut bool) {
	x, y := netip.MustParseAddr(a), netip.MustParseAddr(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{x, y}], n.cut[[2]netip.Addr{y, x}] = cut, cut
	for _, p := range n.pipes {
		if l, r := p.local.Addr(), p.remote.Addr(); l == x && r == y || l == y && r == x {
			p.in.hold(cut)
			p.out.hold(cut)
		}
	}
}

// kill takes a host off the network as the death of its process does: its streams
// end at once and nobody listens any more.
func (n *memNet) kill(host string) {
	x := netip.MustParseAddr(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, x)
	for _, p := range n.pipes {
		if p.local.Addr() == x {
			p.Close()
		} else if p.remote.Addr() == x {
			(&memConn{in: p.out, out: p.in}).Close()
		}
	}
}

func (c *memCarrier) Accept(ctx context.Context) (Stream, error) {
	select {
	case s := <-c.in:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *memCarrier) Dial(ctx context.Context, addr netip.AddrPort) (Stream, error) {
	c.net.mu.Lock()
	peer := c.net.hosts[addr.Addr()]
	cut := c.net.cut[[2]netip.Addr{c.addr.Addr(), addr.Addr()}]
	c.net.port++
	from := netip.AddrPortFrom(c.addr.Addr(), c.net.port)
	if c.net.name == CarrierQUIC { // it dials from the port that it listens on
		from = c.addr
	}
	deaf := c.net.deaf[addr.Addr()]
	c.net.dials = append(c.net.dials, memDial{c.addr.Addr(), addr, time.Now()})
	c.net.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if cut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if peer == nil || peer.addr.Port() != addr.Port() {
		return nil, syscall.ECONNREFUSED
	}
	if c.net.latency != nil && !pause(ctx, 2*c.net.latency()) {
		return nil, ctx.Err()
	}
	a, b := memPipe(from, addr)
	a.in.latency, a.out.latency = c.net.latency, c.net.latency
	if deaf {
		return a, nil
	}
	c.net.mu.Lock()
	c.net.pipes = append(c.net.pipes, a)
	c.net.mu.Unlock()
	select {
	case peer.in <- b:
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// memPipe makes a buffered stream between two addresses.
func memPipe(dialler, acceptor netip.AddrPort) (a, b *memConn) {
	x, y := newHalf(), newHalf()
	return &memConn{in: x, out: y, local: dialler, remote: acceptor},
		&memConn{in: y, out: x, local: acceptor, remote: dialler}
}

// half is one direction of a stream.
type half struct {
	latency func() time.Duration // nil: none

	mu       sync.Mutex
	wake     *sync.Cond
	buf      []byte
	transit  [][]byte  // written, not yet in buf
	last     time.Time // when the last of transit arrives
	held     bool      // cut: nothing arrives, the end of the stream neither
	closed   bool
	gone     bool // the reading end itself is closed
	deadline time.Time
	timer    *time.Timer
}

func newHalf() *half {
	h := &half{}
	h.wake = sync.NewCond(&h.mu)
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.gone:
			return 0, net.ErrClosed
		case !h.held && len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			return n, nil
		case !h.held && h.closed && len(h.transit) == 0:
			return 0, io.EOF
		case !h.deadline.IsZero() && !time.Now().Before(h.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		h.wake.Wait()
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed && !h.held {
		return 0, syscall.EPIPE
	}
	if len(h.buf)+len(b) > 64<<20 {
		return 0, errors.New("a test wrote 64 MiB that nobody reads")
	}
	if h.latency == nil {
		h.buf = append(h.buf, b...)
		h.wake.Broadcast()
		return len(b), nil
	}
	now := time.Now()
	if at := now.Add(h.latency()); at.After(h.last) {
		h.last = at
	}
	h.transit = append(h.transit, slices.Clone(b))
	time.AfterFunc(h.last.Sub(now), h.arrive)
	return len(b), nil
}

// arrive takes the first of what is in transit to the reading end.
func (h *half) arrive() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = append(h.buf, h.transit[0]...)
	h.transit = h.transit[1:]
	h.wake.Broadcast()
}

func (h *half) hold(held bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = held
	h.wake.Broadcast()
}

// close ends the half from its writing end, or with reading from its other one.
func (h *half) close(reading bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.gone = h.gone || reading
	if h.timer != nil {
		h.timer.Stop()
	}
	h.wake.Broadcast()
}

func (h *half) setDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = t
	if h.timer != nil {
		h.timer.Stop()
	}
	if !t.IsZero() && !h.closed {
		h.timer = time.AfterFunc(max(0, time.Until(t)), h.wake.Broadcast)
	}
	h.wake.Broadcast()
}

// memConn is one end of a stream.
type memConn struct {
	in, out       *half
	local, remote netip.AddrPort
}

func (c *memConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *memConn) Close() error                { c.in.close(true); c.out.close(false); return nil }
func (c *memConn) LocalAddr() net.Addr         { return net.TCPAddrFromAddrPort(c.local) }
func (c *memConn) RemoteAddr() net.Addr        { return net.TCPAddrFromAddrPort(c.remote) }

func (c *memConn) SetDeadline(t time.Time) error      { c.in.setDeadline(t); return nil }
func (c *memConn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { return nil }
