package udp

import (
	"fmt"
	"net"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// arrays are what recvmmsg and sendmmsg take: one header per message, each
// pointing to its address and to its one buffer. They must be on the heap and
// not be copied.
type arrays struct {
	hdrs  [MaxBatch]mmsghdr
	iovs  [MaxBatch]unix.Iovec
	names [MaxBatch]unix.RawSockaddrInet6 // room for either family
}

func (a *arrays) init() {
	for i := range a.hdrs {
		h := &a.hdrs[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&a.names[i]))
		h.Iov = &a.iovs[i]
		h.SetIovlen(1)
	}
}

// point makes buffer i be b.
func (a *arrays) point(i int, b []byte) {
	a.iovs[i].Base = unsafe.SliceData(b)
	a.iovs[i].SetLen(len(b))
}

// release forgets the first n buffers, which were borrowed.
func (a *arrays) release(n int) {
	clear(a.iovs[:n])
}

// call does recvmmsg or sendmmsg with the messages from i up to n and returns
// how many the kernel took.
func (a *arrays) call(trap, fd uintptr, i, n int) (int, unix.Errno) {
	for {
		done, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(&a.hdrs[i])),
			uintptr(n-i), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(done), errno
		}
	}
}

// reader is ReadBatch's state, kept so that a call allocates nothing.
type reader struct {
	arrays
	n     int        // messages wanted, then messages there
	errno unix.Errno // of recvmmsg
	fn    func(fd uintptr) bool
}

func (r *reader) init() {
	r.arrays.init()
	r.fn = r.recv
}

// recv reports whether there is an outcome; otherwise the poller waits.
func (r *reader) recv(fd uintptr) bool {
	n, errno := r.call(unix.SYS_RECVMMSG, fd, 0, r.n)
	if errno == unix.EAGAIN {
		return false
	}
	if r.errno = errno; errno != 0 {
		n = 0
	}
	r.n = n
	return true
}

// ReadBatch waits until there is a datagram and takes as many as there are, at
// most len(ms) and MaxBatch; it sets N and Addr of that many messages. What is
// longer than Buf is cut to it. After Close the error is net.ErrClosed; others
// may pass. One goroutine at a time may call it.
func (c *Conn) ReadBatch(ms []Message) (int, error) {
	r := &c.reader
	r.n = min(len(ms), MaxBatch)
	if r.n == 0 {
		return 0, nil
	}
	used := r.n
	for i := range used {
		r.point(i, ms[i].Buf)
		r.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	err := c.df.raw.Read(r.fn)
	r.release(used)
	if err != nil { // the poller's, which has no other reason
		return 0, net.ErrClosed
	}
	if r.errno != 0 {
		return 0, fmt.Errorf("recvmmsg: %w", r.errno)
	}
	for i := range r.n {
		ms[i].N = int(r.hdrs[i].len)
		ms[i].Addr = c.zones.addrOf(&r.names[i])
	}
	return r.n, nil
}

// writer is the state of one WriteBatch, pooled so that several may run at once
// and none allocates.
type writer struct {
	arrays
	i, n  int        // messages from i to n are to be sent
	errno unix.Errno // of message i
	fn    func(fd uintptr)
}

func newWriter() *writer {
	w := &writer{}
	w.arrays.init()
	w.fn = w.send
	return w
}

// send sends until all are sent or one is refused: sendmmsg tells the error of
// the first message it did not take only when called again with that one.
func (w *writer) send(fd uintptr) {
	for w.errno = 0; w.i < w.n && w.errno == 0; {
		done, errno := w.call(unix.SYS_SENDMMSG, fd, w.i, w.n)
		if w.errno = errno; errno == 0 {
			w.i += done
		}
	}
}

// WriteBatch sends Buf[:N] of each message to its Addr, with the don't-fragment
// flag (df), or fragmented by the kernel where need be. It returns how many were
// sent; an error concerns the message after these, ms[n]: ErrTooBig, ErrFull,
// net.ErrClosed, or what the kernel said. It does not wait for room in a buffer.
func (c *Conn) WriteBatch(ms []Message, df bool) (int, error) {
	s := &c.plain
	if df {
		s = &c.df
	}
	w := c.writers.Get().(*writer)
	defer c.writers.Put(w)
	sent := 0
	for sent < len(ms) {
		n, err := c.write(w, s, ms[sent:min(sent+MaxBatch, len(ms))])
		sent += n
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// write sends at most MaxBatch messages.
func (c *Conn) write(w *writer, s *socket, ms []Message) (int, error) {
	w.i, w.n = 0, 0
	var refused error
	for i := range ms {
		length, err := c.zones.putAddr(&w.names[i], c.local, ms[i].Addr)
		if err != nil {
			refused = err
			break
		}
		w.hdrs[i].hdr.Namelen = length
		w.point(i, ms[i].Buf[:ms[i].N])
		w.n++
	}
	// Control and not Write: that would let one writer in at a time, and wait.
	err := s.raw.Control(w.fn)
	runtime.KeepAlive(ms)
	w.release(w.n)
	if err != nil {
		return w.i, net.ErrClosed
	}
	if w.errno != 0 {
		if ms[w.i].Addr.Addr().Zone() != "" {
			c.zones.forget()
		}
		return w.i, sendError(w.errno)
	}
	return w.i, refused
}

func sendError(errno unix.Errno) error {
	switch errno {
	case unix.EMSGSIZE:
		return ErrTooBig
	case unix.EAGAIN, unix.ENOBUFS:
		return ErrFull
	}
	return errno
}
