package publish

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// spliceMin is from how many bytes on a splice through a pipe is used instead of a
// copy through our memory; see BenchmarkStream.
const spliceMin = 32 << 10

// buffers are for what is too short for a splice.
var buffers = sync.Pool{New: func() any { return new([spliceMin]byte) }}

// join passes on what a and b send, until both have ended or there is an error of
// one, of which the other is told by a reset; then both are closed.
//
// One that has ended may go on reading for as long as it likes. But if it is gone
// altogether, the other need not know and may never end: that is looked out for.
func join(a, b *net.TCPConn, toA, toB *atomic.Uint64) {
	var ended atomic.Int32
	pass := func(dst, src *net.TCPConn, n *atomic.Uint64) {
		err := carry(dst, src, n)
		if err == nil {
			_ = dst.CloseWrite() // if it is gone, who reads from it will know
			if ended.Add(1) == 2 {
				a.Close()
				b.Close()
				return
			}
		}
		if err != nil || awaitDeath(src) {
			reset(a)
			reset(b)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { pass(a, b, toA) })
	pass(b, a, toB)
	wg.Wait()
}

// reset closes a connection so that the other end sees an error, not an end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// carry passes on what src sends, counted in n as it goes, and returns nil at its end.
// While nothing comes it holds neither a buffer nor a pipe, so that connections that
// rest cost little.
func carry(dst, src *net.TCPConn, n *atomic.Uint64) error {
	raw, err := src.SyscallConn()
	if err != nil {
		return err
	}
	var in inbox
	look := in.look
	chunk := &io.LimitedReader{R: src}
	for {
		if err := raw.Read(look); err != nil {
			return err
		}
		var moved int64
		switch {
		case in.err != nil:
			return in.err
		case in.buf == nil:
			chunk.N = int64(in.n)
			moved, err = dst.ReadFrom(chunk) // a splice: both are TCP
		case in.n == 0:
			in.release()
			return nil
		default:
			var wrote int
			wrote, err = dst.Write(in.buf[:in.n])
			moved = int64(wrote)
			in.release()
		}
		n.Add(uint64(moved))
		if err != nil {
			return err
		}
	}
}

// inbox is what a socket has to read: n bytes, already read into buf, or still in the
// socket if buf is nil.
type inbox struct {
	buf  *[spliceMin]byte
	n    int
	err  error
	full bool // the last read filled its buffer: there may be enough for a splice
}

// look is for RawConn.Read: false if there is nothing to read yet. Small amounts it
// reads, also since a splice would stop for ever at TCP's urgent byte, which a read
// leaves out; and it never lets a splice wait, which would keep its pipe.
func (in *inbox) look(fd uintptr) bool {
	if in.full {
		in.n, in.err = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		if in.err != nil || in.n >= spliceMin {
			return true
		}
	}
	in.buf = buffers.Get().(*[spliceMin]byte)
	in.n, in.err = unix.Read(int(fd), in.buf[:])
	in.full = in.n == len(in.buf)
	if in.err != nil {
		in.release()
	}
	return in.err != syscall.EAGAIN
}

func (in *inbox) release() {
	buffers.Put(in.buf)
	in.buf = nil
}

// awaitDeath returns true when c, whose other end has said all, is reset by it or
// does not answer keep-alives, and false when it is closed here.
func awaitDeath(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	return !errors.Is(raw.Read(func(fd uintptr) bool {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		return err != nil || info.State == unix.BPF_TCP_CLOSE
	}), net.ErrClosed)
}
