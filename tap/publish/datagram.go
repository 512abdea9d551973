package publish

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// How often UDP's clients are looked after, and when the target is looked up again:
// after an error, and otherwise from time to time, as one that only sends would
// never learn that the container has another address.
const (
	tendPause    = time.Second
	resolvePause = 10 * time.Second
)

// datagrams serves UDP.
type datagrams struct {
	sockets []*net.UDPConn
	target  *target
	counts  *counts
	clients *clients
	idle    time.Duration
	suspect atomic.Bool // the target may be elsewhere: look it up soon
}

var _ server = (*datagrams)(nil)

func openDatagrams(h HostPort, t *target, c *counts, o Options) (server, []netip.AddrPort, error) {
	sockets, addrs, err := listenAll(h, listenUDP)
	return &datagrams{
		sockets: sockets,
		target:  t,
		counts:  c,
		clients: newClients(cmp.Or(o.Limit, 1024)),
		idle:    cmp.Or(o.Idle, 90*time.Second),
	}, addrs, err
}

func (d *datagrams) close() error { return closeAll(d.sockets) }

func (d *datagrams) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range d.sockets {
		wg.Go(func() { d.read(ctx, s) })
	}
	wg.Go(func() { d.tend(ctx) })
	wg.Wait()
}

// read takes the datagrams of a socket until ctx ends, and returns after the
// clients that came by it have ended.
func (d *datagrams) read(ctx context.Context, front *net.UDPConn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	buf, oob := make([]byte, datagramMax), make([]byte, oobMax)
	for {
		n, oobn, _, from, err := front.ReadMsgUDPAddrPort(buf, oob)
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			return
		case err != nil: // none that we know of stays
			d.counts.dropped.Add(1)
			sleep(ctx, firstAcceptPause)
			continue
		}
		key := clientKey{addr: from}
		key.local, key.iface = destination(oob[:oobn])
		c := d.clients.find(key)
		if c == nil {
			c = d.start(ctx, &wg, key, front)
		}
		c.toTarget(buf[:n])
	}
}

// start makes a client and its goroutine.
func (d *datagrams) start(ctx context.Context, wg *sync.WaitGroup, key clientKey, front *net.UDPConn) *client {
	ctx, cancel := context.WithCancel(ctx)
	c := newClient(key, front, d.counts)
	c.failed, c.cancel = d.failed, cancel
	d.counts.connections.Add(1)
	d.counts.active.Add(1)
	if out := d.clients.add(c); out != nil {
		d.counts.full(d.clients.limit)
		out.end()
	}
	wg.Go(func() {
		defer d.counts.active.Add(-1)
		d.serve(ctx, c)
		d.clients.remove(c)
		c.end()
	})
	return c
}

// serve connects a client to the target and passes on what that answers until ctx
// ends.
func (d *datagrams) serve(ctx context.Context, c *client) {
	conn, addr, err := d.target.dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			d.counts.failed(err)
		}
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	back, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return
	}
	c.open(back, addr)
	c.answer(back, addr)
}

// failed is told of an error that came back from where target was.
func (d *datagrams) failed(target netip.AddrPort, err error) {
	d.counts.failed(dialError(netip.Addr{}, target, err))
	d.suspect.Store(true)
}

// tend forgets clients that have fallen silent and those whose target has moved. It
// rests while there are none.
func (d *datagrams) tend(ctx context.Context) {
	resolved := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.clients.first:
		}
		for d.clients.len() > 0 && sleep(ctx, min(tendPause, max(d.idle/4, time.Millisecond))) {
			for _, c := range d.clients.expire(time.Now(), d.idle) {
				c.end()
			}
			since := time.Since(resolved)
			if since >= resolvePause || since >= tendPause && d.suspect.Load() {
				d.suspect.Store(false)
				resolved = time.Now()
				d.follow(ctx)
			}
		}
	}
}

// follow ends the clients whose sockets lead to where the target is no more: with
// their next datagram they are made anew.
func (d *datagrams) follow(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, d.target.timeout)
	defer cancel()
	addr, err := d.target.find(ctx)
	if err != nil {
		return // it may come back where it was
	}
	for _, c := range d.clients.all() {
		if c.elsewhere(addr) {
			d.clients.remove(c)
			c.end()
		}
	}
}

// destination returns the address of ours that a datagram was sent to, and the
// interface where that is part of the address; the zero Addr if oob does not say.
//
//	in_pktinfo   interface 4 | local address 4 | address in the header 4
//	in6_pktinfo  address in the header 16 | interface 4
//
// For a broadcast the local address is the one to answer from. (ipv4.ControlMessage
// does not have it, and its Parse allocates.)
func destination(oob []byte) (netip.Addr, int) {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[4:8])), 0
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			addr := netip.AddrFrom16([16]byte(data[:16]))
			if !addr.IsLinkLocalUnicast() {
				return addr, 0
			}
			return addr, int(binary.NativeEndian.Uint32(data[16:20]))
		}
		oob = rest
	}
	return netip.Addr{}, 0
}
