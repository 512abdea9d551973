package udp

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// yields is how often a reader looks again, letting others run in between,
// before it sleeps. Waking a thread costs more than that: with 20 a request and
// its response took half the time, with 100 there was less throughput.
const yields = 20

// reader is ReadBatch's state, kept so that a call allocates nothing. It must be
// on the heap and not be copied: its headers point into it.
type reader struct {
	hdrs     [MaxRead]mmsghdr
	iovs     [MaxRead]unix.Iovec
	names    [MaxRead]unix.RawSockaddrInet6 // room for either family
	controls [MaxRead]control
	polled   [2]unix.PollFd
	errors   errorQueue
}

// strikesMost is how many calls in a row may fail because of ICMP errors; the
// error queue is shut long before.
const strikesMost = 4 * gateMost

func (r *reader) init() {
	for i := range r.hdrs {
		h := &r.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Control = (*byte)(unsafe.Pointer(&r.controls[i]))
	}
}

// point makes the messages the place that datagrams are read into.
func (r *reader) point(ms []Message) {
	for i := range ms {
		r.iovs[i].Base = unsafe.SliceData(ms[i].Buf)
		r.iovs[i].SetLen(len(ms[i].Buf))
		r.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
		r.hdrs[i].hdr.SetControllen(int(unsafe.Sizeof(control{})))
	}
}

// ReadBatch waits until there is a datagram and takes as many as there are, at
// most len(ms) and MaxRead; it sets N, Addr and Segment of that many messages.
// What is longer than Buf is cut to it, a run to whole datagrams. After Close
// the error is net.ErrClosed; others may pass. One goroutine at a time may call
// it, and it should hold runtime.LockOSThread: it sleeps in the kernel, not in
// Go's poller, which would wake it later.
func (c *Conn) ReadBatch(ms []Message) (int, error) {
	r := &c.reader
	ms = ms[:min(len(ms), MaxRead)]
	if len(ms) == 0 {
		return 0, nil
	}
	r.point(ms)
	n, err := 0, error(nil)
	for n == 0 && err == nil {
		n, err = c.receive(r.hdrs[:len(ms)])
		c.tell()
	}
	for i := range ms[:n] {
		m, h := &ms[i], &r.hdrs[i]
		m.N = int(h.len)
		m.Addr = c.zones.addrOf(&r.names[i])
		m.Segment = r.controls[i].segment(int(h.hdr.Controllen))
		switch {
		case m.Segment >= m.N:
			m.Segment = 0
		case m.Segment > 0 && h.hdr.Flags&unix.MSG_TRUNC != 0:
			m.N -= m.N % m.Segment
		}
	}
	clear(r.iovs[:len(ms)]) // the buffers were borrowed
	return n, err
}

// receive waits for datagrams, or until there is something to tell. It uses the
// thread that it is on.
func (c *Conn) receive(hdrs []mmsghdr) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.reader.errors.gate.closed {
		c.reopen()
	}
	for tries, strikes := 0, 0; ; {
		if c.closed.Load() {
			return 0, net.ErrClosed
		}
		if c.troubled.Load() && c.troubled.Swap(false) {
			if c.drain(); c.reader.errors.n > 0 {
				return 0, nil
			}
		}
		n, errno := mmsg(unix.SYS_RECVMMSG, c.df, hdrs)
		switch {
		case errno == 0:
			return n, nil
		case pending(errno) && strikes < strikesMost:
			strikes++ // it is of a datagram that was sent
			c.troubled.Store(true)
		case errno != unix.EAGAIN:
			return 0, fmt.Errorf("recvmmsg: %w", errno)
		case tries < yields:
			tries++
			_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		default:
			if err := c.poll(); err != nil {
				return 0, err
			}
		}
	}
}

// poll sleeps until something arrives or Close is called.
func (c *Conn) poll() error {
	p := &c.reader.polled
	p[0] = unix.PollFd{Fd: int32(c.df), Events: unix.POLLIN}
	p[1] = unix.PollFd{Fd: int32(c.wake), Events: unix.POLLIN}
	if _, err := unix.Ppoll(p[:], nil, nil); err != nil && err != unix.EINTR {
		return fmt.Errorf("poll: %w", err)
	}
	if p[0].Revents&unix.POLLERR != 0 {
		c.troubled.Store(true)
	}
	return nil
}

// segment reads the control message of UDP_GRO, the length of each datagram of a
// run, out of the n bytes that the kernel has written; 0 if there is none.
//
//	0        16 (12 where an int has 32 bits)
//	│cmsghdr │int│
func (c *control) segment(n int) int {
	const size = 4
	if n < unix.CmsgLen(size) || int(c.hdr.Len) < unix.CmsgLen(size) ||
		c.hdr.Level != unix.SOL_UDP || c.hdr.Type != unix.UDP_GRO {
		return 0
	}
	segment := int32(binary.NativeEndian.Uint32(c.data[:size]))
	return int(max(segment, 0))
}
