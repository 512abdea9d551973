package udp

import (
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// drainMost is how many queued errors are taken before datagrams are looked for
// again.
const drainMost = 16

// errorQueue reads what the kernel queues of ICMP errors about datagrams of a
// socket (IP_RECVERR in ip(7), IPV6_RECVERR in ipv6(7)). The reader owns it.
type errorQueue struct {
	hdr     unix.Msghdr
	name    unix.RawSockaddrInet6
	control [32]uint64 // aligned for struct cmsghdr
	found   [drainMost]tooBig
	n       int // of found
	gate    gate
}

// tooBig is an ICMP "fragmentation needed" or ICMPv6 "packet too big".
type tooBig struct {
	dst netip.AddrPort
	mtu int
}

// OnTooBig sets what ReadBatch calls, on its goroutine, when an ICMP error says
// that a datagram to dst was too big for a link of the way, whose MTU in bytes,
// IP header included, it gives. Set it before reading. It is a hint at what
// should be probed, and no more: anybody can send it. No more than 1000 in a
// second are listened to.
func (c *Conn) OnTooBig(tell func(dst netip.AddrPort, mtu int)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed.Load() {
		return
	}
	c.onTooBig = tell
	_ = c.queueErrors(tell != nil) // a kernel that refuses it lets nothing be told
}

// queueErrors turns the error queue of the socket that reads on, or off and empties
// it.
func (c *Conn) queueErrors(on bool) error {
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	if c.local.Addr().Is4() {
		level, option = unix.IPPROTO_IP, unix.IP_RECVERR
	}
	value := 0
	if on {
		value = 1
	}
	return unix.SetsockoptInt(c.df, level, option, value)
}

// drain takes some errors out of the queue and keeps those that say too big.
// Too many, and the queue is shut for a while.
func (c *Conn) drain() {
	q := &c.reader.errors
	now := time.Now()
	for range drainMost {
		control, ok := q.next(c.df)
		if !ok {
			return
		}
		e, ok := parseError(control)
		if ok && !e.local && q.gate.pass(now) {
			_ = c.queueErrors(false)
			return
		}
		if ok && e.mtu > 0 {
			q.found[q.n] = tooBig{c.zones.addrOf(&q.name), e.mtu}
			q.n++
		}
	}
	c.troubled.Store(true) // there may be more
}

// reopen turns the queue on again when it has been shut for long enough.
func (c *Conn) reopen() {
	if g := &c.reader.errors.gate; g.closed && g.open(time.Now()) {
		_ = c.queueErrors(true)
	}
}

// tell hands on what was found.
func (c *Conn) tell() {
	q := &c.reader.errors
	for _, e := range q.found[:q.n] {
		c.refusals.forget() // the route is not what it was
		c.onTooBig(e.dst, e.mtu)
	}
	q.n = 0
}

// next reads one error: its control messages, and into name the destination of
// the datagram that it is about.
func (q *errorQueue) next(fd int) (control []byte, ok bool) {
	memory := unsafe.Slice((*byte)(unsafe.Pointer(&q.control)), unsafe.Sizeof(q.control))
	q.name = unix.RawSockaddrInet6{}
	q.hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&q.name)), Namelen: unix.SizeofSockaddrInet6, Control: &memory[0]}
	q.hdr.SetControllen(len(memory))
	for {
		_, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&q.hdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			return nil, false
		}
	}
	runtime.KeepAlive(q)
	return memory[:min(int(q.hdr.Controllen), len(memory))], true
}

// queued is what an entry of the error queue says.
type queued struct {
	local bool // it is of this host, and the send it is about has failed too
	mtu   int  // 0: it is about something else
}

// The least MTUs that there may be: RFC 791, section 3.2, and RFC 8200, section 5.
const (
	leastMTU4 = 68
	leastMTU6 = 1280
)

// parseError looks in control messages for struct sock_extended_err:
//
//	0     4      5    6    7   8    12    16
//	│errno│origin│type│code│pad│info│data │ address of who reported
func parseError(control []byte) (e queued, ok bool) {
	for len(control) >= unix.SizeofCmsghdr {
		hdr, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return queued{}, false
		}
		control = rest
		v4 := hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_RECVERR
		v6 := hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			continue
		}
		var ee unix.SockExtendedErr
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&ee)), unsafe.Sizeof(ee)), data)
		return queued{local: ee.Origin == unix.SO_EE_ORIGIN_LOCAL, mtu: mtuOf(&ee)}, true
	}
	return queued{}, false
}

// mtuOf returns the MTU that an ICMP error tells, 0 if none that can be.
func mtuOf(ee *unix.SockExtendedErr) int {
	const (
		unreachable, fragNeeded = 3, 4 // RFC 792, RFC 1191
		packetTooBig            = 2    // RFC 4443, section 3.2
	)
	least := uint32(0)
	switch {
	case ee.Origin == unix.SO_EE_ORIGIN_ICMP && ee.Type == unreachable && ee.Code == fragNeeded:
		least = leastMTU4
	case ee.Origin == unix.SO_EE_ORIGIN_ICMP6 && ee.Type == packetTooBig:
		least = leastMTU6
	default:
		return 0
	}
	if ee.Info < least || ee.Info > MaxDatagram {
		return 0
	}
	return int(ee.Info)
}
