package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxPieces is how many pieces of memory one system call takes together.
const maxPieces = 4 * maxSegments

// sendTries is how often a message is tried that is refused for a reason that
// may be another one's.
const sendTries = 4

// writer is the state of one WriteBatch, pooled so that several may run at once
// and none allocates. It must not be copied: its headers point into it.
//
//	messages  1 2 3 4 5 6 7          to one place: 1 2 3 4, 5, 6 7
//	           \ | | /  |  \ |
//	headers       a     b    c       a and c with UDP_SEGMENT
type writer struct {
	hdrs     [MaxBatch]mmsghdr
	names    [MaxBatch]unix.RawSockaddrInet6
	controls [MaxBatch]control
	counts   [MaxBatch]int // messages of each header
	iovs     [maxPieces]unix.Iovec

	n        int  // headers in use
	pieces   int  // iovs in use
	troubled bool // an errno may have come from the error queue
}

func newWriter() *writer {
	w := &writer{}
	for i := range w.hdrs {
		w.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&w.names[i]))
		c := &w.controls[i]
		c.hdr.Level, c.hdr.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		c.hdr.SetLen(unix.CmsgLen(2))
	}
	return w
}

// reset forgets the messages, which were borrowed.
func (w *writer) reset() {
	clear(w.iovs[:w.pieces])
	w.n, w.pieces, w.troubled = 0, 0, false
}

// full reports whether there is no room for a header of k messages.
func (w *writer) full(k int) bool {
	return w.n == MaxBatch || w.pieces+k > maxPieces
}

// add makes a header of messages to one address, a run if there are several.
func (w *writer) add(ms []Message, nameLen uint32) {
	h := &w.hdrs[w.n].hdr
	h.Namelen = nameLen
	first := w.pieces
	for i := range ms {
		w.piece(ms[i].Buf[:ms[i].N], i > 0)
	}
	h.Iov = &w.iovs[first]
	h.SetIovlen(w.pieces - first)
	h.Control = nil
	h.SetControllen(0)
	if len(ms) > 1 {
		c := &w.controls[w.n]
		binary.NativeEndian.PutUint16(c.data[:], uint16(ms[0].N))
		h.Control = (*byte)(unsafe.Pointer(c))
		h.SetControllen(unix.CmsgSpace(2))
	}
	w.counts[w.n] = len(ms)
	w.n++
}

// piece adds b, to the piece before if it may and b lies behind that.
func (w *writer) piece(b []byte, join bool) {
	if join {
		last := &w.iovs[w.pieces-1]
		end := uintptr(unsafe.Pointer(last.Base)) + uintptr(last.Len)
		if uintptr(unsafe.Pointer(unsafe.SliceData(b))) == end {
			last.SetLen(int(last.Len) + len(b))
			return
		}
	}
	w.iovs[w.pieces].Base = unsafe.SliceData(b)
	w.iovs[w.pieces].SetLen(len(b))
	w.pieces++
}

// send sends until all is sent or a header is refused, whose errno it returns
// with the number of headers sent: sendmmsg tells the errno of the first one it
// did not take only when called again with that one.
func (w *writer) send(fd int) (sent int, errno unix.Errno) {
	for tries := 0; sent < w.n; {
		n, errno := mmsg(unix.SYS_SENDMMSG, fd, w.hdrs[sent:w.n])
		switch {
		case errno == 0:
			sent, tries = sent+n, 0
		case pending(errno) && tries < sendTries:
			tries++ // only what repeats belongs to this message
			w.troubled = true
		default:
			return sent, errno
		}
	}
	return sent, 0
}

// WriteBatch sends Buf[:N] of each message to its Addr, with the don't-fragment
// flag (df), or fragmented by the kernel where need be. Neighbours of one Addr
// and one N, the last of which may be shorter, leave as runs where there is GSO.
// It returns how many were sent; an error concerns the message after these,
// ms[n]: ErrTooBig, ErrFull, ErrNoWay, net.ErrClosed, or what the kernel said. It
// does not wait for room in a buffer.
func (c *Conn) WriteBatch(ms []Message, df bool) (int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	w := c.writers.Get().(*writer)
	defer c.writers.Put(w)
	b := batch{ms: ms, df: df}
	for b.sent < len(ms) {
		if c.closed.Load() {
			return b.sent, net.ErrClosed
		}
		if err := c.write(w, &b); err != nil {
			return b.sent, err
		}
	}
	return b.sent, nil
}

// batch is how far a WriteBatch has come.
type batch struct {
	ms   []Message
	df   bool
	sent int
	// Where a run was refused its messages, from sent up to alone, go one by one;
	// errno is why.
	alone int
	errno unix.Errno
}

// write sends what one system call takes.
func (c *Conn) write(w *writer, b *batch) error {
	defer w.reset()
	if err := c.fill(w, b); err != nil {
		return err
	}
	fd := c.plain
	if b.df {
		fd = c.df
	}
	headers, errno := w.send(fd)
	runtime.KeepAlive(b.ms) // a piece holds only the first of the buffers joined in it
	if w.troubled {
		c.troubled.Store(true)
	}
	if headers > 0 && b.errno != 0 {
		c.refused(&b.ms[b.sent], b.df, b.errno)
		b.errno = 0
	}
	for _, k := range w.counts[:headers] {
		b.sent += k
	}
	if errno == 0 {
		return nil
	}
	c.rethink(b.ms[b.sent].Addr.Addr(), errno)
	if k := w.counts[headers]; k > 1 && !isFull(errno) {
		b.alone, b.errno = b.sent+k, errno
		return nil
	}
	return sendError(errno)
}

// refused takes note that a run was refused whose first datagram was then sent.
func (c *Conn) refused(m *Message, df bool, errno unix.Errno) {
	switch errno {
	case unix.EINVAL, unix.EMSGSIZE: // a datagram has to be fragmented
		c.refusals.add(time.Now(), m.Addr.Addr(), df, m.N)
	case unix.EIO, unix.EOPNOTSUPP, unix.ENOPROTOOPT: // no checksum offload, or a transformation
		c.refusals.add(time.Now(), m.Addr.Addr(), df, 0)
	}
}

// rethink forgets what an error makes doubtful.
func (c *Conn) rethink(to netip.Addr, errno unix.Errno) {
	if to.Zone() != "" {
		c.zones.forget()
	}
	if isNoWay(errno) {
		c.refusals.forget()
	}
}

// fill makes headers of the next messages. It is an error if the first has an
// address that cannot be; a later one will be the first at some time.
func (c *Conn) fill(w *writer, b *batch) error {
	gso := c.offload.Load().GSO
	for i := b.sent; i < len(b.ms); {
		m := &b.ms[i]
		k := 1
		if gso && i >= b.alone {
			k = runLen(b.ms[i:])
		}
		if k > 1 && c.refusals.has(m.Addr.Addr(), b.df, m.N) {
			k = 1
		}
		if w.full(k) {
			break
		}
		nameLen, err := c.zones.putAddr(&w.names[w.n], c.local, m.Addr)
		if err != nil && i == b.sent {
			return err
		}
		if err != nil {
			break
		}
		w.add(b.ms[i:i+k], nameLen)
		i += k
	}
	return nil
}

func isFull(errno unix.Errno) bool { return errno == unix.EAGAIN || errno == unix.ENOBUFS }

func sendError(errno unix.Errno) error {
	switch {
	case errno == unix.EMSGSIZE:
		return ErrTooBig
	case isFull(errno):
		return ErrFull
	case isNoWay(errno):
		return noWay(errno)
	}
	return errno
}

func isNoWay(errno unix.Errno) bool {
	switch errno {
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENODEV:
		return true
	}
	return false
}

// noWay is ErrNoWay with what the kernel said.
type noWay unix.Errno

func (e noWay) Error() string        { return unix.Errno(e).Error() }
func (e noWay) Is(target error) bool { return target == ErrNoWay }
func (e noWay) Unwrap() error        { return unix.Errno(e) }
