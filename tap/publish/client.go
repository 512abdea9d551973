package publish

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

const (
	datagramMax = 1 << 16 // bytes
	oobMax      = 128     // bytes of control messages, of which there is one
	waitingMax  = 16      // datagrams of a client that wait until its socket is made
)

// datagramBuffers serve reads: a client that is silent holds none.
var datagramBuffers = sync.Pool{New: func() any { return new([datagramMax]byte) }}

// client is a UDP client with its socket to the target.
type client struct {
	key    clientKey
	front  *net.UDPConn // where it sent to
	source []byte       // control message: answers leave from key.local
	used   atomic.Int64 // Unix time in ns of the last datagram, either way
	counts *counts
	failed func(target netip.AddrPort, err error) // told of errors of the target, which do not end the client
	cancel context.CancelFunc                     // ends its goroutine

	mu      sync.Mutex // guards what follows; held while a datagram is sent, which does not wait
	back    syscall.RawConn
	target  netip.AddrPort // of back; not valid without
	waiting [][]byte       // until there is back
	over    bool           // it takes nothing anymore
	out     []byte         // what write sends
	sent    error          // what became of it
	write   func(fd uintptr) bool
}

func newClient(key clientKey, front *net.UDPConn, counts *counts) *client {
	c := &client{key: key, front: front, source: sourceOf(key), counts: counts}
	c.write = func(fd uintptr) bool {
		c.sent = unix.Send(int(fd), c.out, unix.MSG_DONTWAIT)
		return true
	}
	c.used.Store(time.Now().UnixNano())
	return c
}

// sourceOf makes the control message that lets answers leave from key.local; nil
// leaves the source to the kernel.
func sourceOf(key clientKey) []byte {
	switch {
	case !key.local.IsValid() || key.local.IsMulticast():
		return nil
	case key.local.Is4():
		return (&ipv4.ControlMessage{Src: key.local.AsSlice()}).Marshal()
	}
	return (&ipv6.ControlMessage{Src: key.local.AsSlice(), IfIndex: key.iface}).Marshal()
}

// toTarget sends one datagram on. b is borrowed. It does not wait: what cannot be
// sent now is dropped and counted.
func (c *client) toTarget(b []byte) {
	c.used.Store(time.Now().UnixNano())
	if target, err := c.sendOrKeep(b); err != nil {
		c.failed(target, err)
	}
}

// sendOrKeep returns what the target said about earlier datagrams.
func (c *client) sendOrKeep(b []byte) (netip.AddrPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over || c.back == nil && len(c.waiting) >= waitingMax:
		c.counts.dropped.Add(1)
	case c.back == nil:
		c.waiting = append(c.waiting, slices.Clone(b))
	default:
		return c.target, c.sendLocked(b)
	}
	return c.target, nil
}

func (c *client) sendLocked(b []byte) (earlier error) {
	c.out = b
	err := c.back.Write(c.write)
	if err == nil && icmpError(c.sent) {
		// The error of an earlier datagram, which who reads would have got; this one
		// was not sent.
		earlier = c.sent
		err = c.back.Write(c.write)
	}
	c.out = nil
	if err != nil || c.sent != nil {
		c.counts.dropped.Add(1)
	} else {
		c.counts.toTarget.Add(uint64(len(b)))
	}
	return earlier
}

// icmpError reports whether err may be what a router or the target said, by ICMP,
// about an earlier datagram.
func icmpError(err error) bool {
	for _, e := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EPROTO, syscall.ENOPROTOOPT} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// open gives the client its socket and sends what waits for it.
func (c *client) open(back syscall.RawConn, target netip.AddrPort) {
	var earlier error
	c.mu.Lock()
	c.back, c.target = back, target
	for _, b := range c.waiting {
		earlier = cmp.Or(c.sendLocked(b), earlier)
	}
	c.waiting = nil
	c.mu.Unlock()
	if earlier != nil {
		c.failed(target, earlier)
	}
}

// end stops the client; what waits is dropped.
func (c *client) end() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.dropped.Add(uint64(len(c.waiting)))
	c.waiting, c.over = nil, true
}

// elsewhere reports whether the client's socket leads to another address.
func (c *client) elsewhere(target netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target.IsValid() && c.target != target
}

// answer sends what the target says to the client until back is closed.
func (c *client) answer(back syscall.RawConn, target netip.AddrPort) {
	var buf *[datagramMax]byte
	var n int
	var err error
	read := func(fd uintptr) bool {
		buf = datagramBuffers.Get().(*[datagramMax]byte)
		n, err = unix.Read(int(fd), buf[:])
		if err == syscall.EAGAIN {
			datagramBuffers.Put(buf)
			return false
		}
		return true
	}
	for {
		if back.Read(read) != nil {
			return
		}
		if err != nil {
			c.failed(target, err)
		} else {
			c.toClient(buf[:n])
		}
		datagramBuffers.Put(buf)
	}
}

func (c *client) toClient(b []byte) {
	c.used.Store(time.Now().UnixNano())
	_, _, err := c.front.WriteMsgUDPAddrPort(b, c.source, c.key.addr)
	if err != nil {
		c.counts.dropped.Add(1)
		return
	}
	c.counts.reached()
	c.counts.toClient.Add(uint64(len(b)))
}
