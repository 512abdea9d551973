package mux

import (
	"context"
	"errors"
	"net"
	"runtime"
	"time"

	"meshd/internal/udp"
)

// Bounds of a reader.
const (
	handMax      = 64  // messages; more are handed over in parts
	readErrors   = 100 // in a row, after which the socket is given up
	readErrPause = 10 * time.Millisecond
)

// reader reads one socket and owns the memory of what it reads.
type reader struct {
	mux      *Mux
	socket   Socket
	handlers [kinds]Handler // nil: nobody takes this kind
	messages []udp.Message
	kind     Kind          // of what is in batch
	batch    []udp.Message // not yet handed over
}

func newReader(m *Mux, s Socket) *reader {
	r := &reader{
		mux: m, socket: s,
		messages: make([]udp.Message, udp.MaxRead), batch: make([]udp.Message, 0, handMax),
	}
	for k, open := range m.open {
		if open != nil {
			r.handlers[k] = open(s)
		}
	}
	for i := range r.messages {
		r.messages[i].Buf = make([]byte, udp.MaxDatagram)
	}
	return r
}

// run reads until the socket is closed. Errors that pass are waited out.
func (r *reader) run(ctx context.Context) error {
	runtime.LockOSThread() // udp.Conn.ReadBatch yields its thread before it sleeps
	defer runtime.UnlockOSThread()
	for failed := 0; ; {
		n, err := r.socket.ReadBatch(r.messages)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failed = 0
			r.sort(r.messages[:n])
			continue
		case errors.Is(err, net.ErrClosed), failed == readErrors:
			return err
		}
		failed++
		r.mux.log.Debug("UDP socket", "addr", r.socket.LocalAddr(), "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(readErrPause):
		}
	}
}

// sort hands what was read to the handlers, in order. The first byte of every
// datagram is looked at: those of several kinds may come from one address, and
// the kernel makes runs by address and size alone.
func (r *reader) sort(ms []udp.Message) {
	for _, m := range ms {
		b := m.Buf[:m.N]
		if m.Segment <= 0 || m.Segment >= m.N {
			r.add(Classify(b), udp.Message{Buf: b, N: len(b), Addr: m.Addr}, 1)
			continue
		}
		for len(b) > 0 {
			k, n, count := span(b, m.Segment)
			part := udp.Message{Buf: b[:n:n], N: n, Addr: m.Addr, Segment: m.Segment}
			if n <= m.Segment {
				part.Segment = 0
			}
			r.add(k, part, count)
			b = b[n:]
		}
	}
	r.hand()
}

// span finds how many of the run's first datagrams, each of segment bytes but for
// the last, are of one kind: n bytes, count datagrams.
func span(run []byte, segment int) (k Kind, n, count int) {
	k = Classify(run[:min(segment, len(run))])
	for n < len(run) {
		end := min(n+segment, len(run))
		if Classify(run[n:end]) != k {
			break
		}
		n = end
		count++
	}
	return k, n, count
}

// add puts a message of count datagrams into the batch.
func (r *reader) add(k Kind, m udp.Message, count int) {
	if r.handlers[k] == nil {
		r.mux.strays.Add(uint64(count))
		return
	}
	if k != r.kind || len(r.batch) == cap(r.batch) {
		r.hand()
		r.kind = k
	}
	r.batch = append(r.batch, m)
}

// hand hands the batch over.
func (r *reader) hand() {
	if len(r.batch) > 0 {
		r.handlers[r.kind](r.batch)
		r.batch = r.batch[:0]
	}
}
