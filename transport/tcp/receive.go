package tcp

import (
	"context"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
)

// What is read at once: a buffer grows while reads fill it, and shrinks again after
// so many that would have fitted a small one.
const (
	smallBuffer = 16 << 10 // bytes
	largeBuffer = 256 << 10
	shrinkAfter = 64
)

// reading is what a path's goroutine reads of a connection.
type reading struct {
	p    *path
	b    *bound
	buf  []byte
	have int // bytes of buf that are there
	few  int // reads in a row that would have fitted a small buffer

	now     time.Time // when the batch was read
	next    uint64    // counter of the next record
	batch   []frame.Packet
	cutter  frame.Cutter
	records int
	frames  int
	bytes   int
}

// receive delivers what comes over a connection until ctx is done or it ends.
func (p *path) receive(ctx context.Context, b *bound) {
	r := &reading{p: p, b: b, buf: make([]byte, smallBuffer)}
	for {
		n, err := b.conn.Read(r.buf[r.have:])
		if ctx.Err() != nil {
			return
		}
		r.have += n
		if n > 0 {
			if err := r.take(ctx); err != nil {
				p.broken(b, err)
				return
			}
		}
		if err != nil {
			p.broken(b, err)
			return
		}
	}
}

// take delivers the records that are there, and makes room for what comes. It does not
// allocate, except for a buffer of another size.
func (r *reading) take(ctx context.Context) error {
	r.now = time.Now()
	rest := r.buf[:r.have]
	need := 0
	var err error
	for {
		var sealed []byte
		if sealed, need, err = cutRecord(rest); err != nil {
			r.p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
			break
		}
		if sealed == nil {
			break
		}
		if err = r.record(sealed); err != nil {
			break
		}
		rest = rest[need:]
	}
	if ctx.Err() == nil {
		r.deliver()
	}
	if err == nil {
		r.makeRoom(rest, need)
	}
	return err
}

// makeRoom keeps what is there of a record of need bytes.
func (r *reading) makeRoom(rest []byte, need int) {
	size := len(r.buf)
	switch {
	case r.have == size || need > size:
		size = min(max(2*size, need), largeBuffer)
		r.few = 0
	case r.have > smallBuffer:
		r.few = 0
	default:
		if r.few++; r.few >= shrinkAfter && need <= smallBuffer {
			size, r.few = smallBuffer, 0
		}
	}
	if size != len(r.buf) {
		r.buf = append(make([]byte, 0, size), rest...)[:size]
	} else {
		copy(r.buf, rest)
	}
	r.have = len(rest)
}

// record takes the items of a record.
func (r *reading) record(sealed []byte) error {
	epoch := r.b.open.Epoch()
	items, counter, err := r.b.open.Open(sealed)
	if err != nil || counter != r.next {
		r.p.session.Counters.Rx.Drop(transport.DropAuth, 1)
		return errSealed
	}
	r.next++
	r.records++
	if r.b.open.Epoch() != epoch {
		r.b.open.Forget() // nothing of the epoch before comes any more
		r.b.rekeys.Add(1)
	}
	list := encap.NewNativeReader(items)
	for {
		i, ok := list.Next()
		if !ok {
			break
		}
		r.item(i)
	}
	if list.Err() != nil {
		r.p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
	}
	return nil
}

func (r *reading) item(i encap.NativeItem) {
	switch i.Type {
	case encap.NativeFrame:
		pk, ok := i.Packet()
		r.packet(pk, ok)
	case encap.NativeSuper:
		pk, ok := i.Super()
		r.packet(pk, ok && !pk.Frame.Wild())
	case encap.NativeProbe, encap.NativeReply:
		r.p.heed(r.now, i)
	}
}

// packet adds a packet to the batch if it is good, which ok says and its Offload.
func (r *reading) packet(pk frame.Packet, ok bool) {
	if !ok || r.cutter.Begin(pk.Frame) != nil {
		r.p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	r.batch = append(r.batch, pk)
	r.frames += r.cutter.Segments()
	if r.cutter.Segments() > 1 {
		r.bytes += segmentBytes(&r.cutter, &pk.Frame)
	} else {
		r.bytes += len(pk.Frame.Data)
	}
}

// deliver delivers the packets of the records that were taken.
func (r *reading) deliver() {
	if r.records == 0 {
		return
	}
	rx := &r.p.session.Counters.Rx
	rx.Add(r.frames, r.bytes)
	if r.frames > 0 {
		r.p.Busy()
	}
	rx.AddDatagrams(r.records)
	r.records, r.frames, r.bytes = 0, 0, 0
	if r.p.Alive(r.now) {
		r.p.Revive()
	}
	if len(r.batch) > 0 {
		r.p.t.deliver(r.batch)
		clear(r.batch)
		r.batch = r.batch[:0]
	}
}
