package quic

import (
	"context"
	"sync"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
)

// Bounds of what was received: datagrams that wait to be delivered, about 3 MB of
// them; and those that are delivered at once.
const (
	maxArrived = 2048
	deliverMax = 256
)

// receiver puts together what came in fragments.
type receiver struct {
	mu    sync.Mutex            // guards parts
	parts *encap.NativeAssembly // nil: no fragment has come lately
}

// tend gives up what has waited for too long, and says how many frames that were.
func (x *receiver) tend(now time.Time) (lost int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parts != nil {
		if lost = x.parts.Expire(now); x.parts.Empty() {
			x.parts = nil
		}
	}
	return lost
}

// reading is what a path's goroutine reads of a connection.
type reading struct {
	p             *path
	now           time.Time // when the batch was read
	batch         []frame.Packet
	whole         []byte // frames of the batch that came in fragments, behind each other
	frames, bytes int
}

// arrivals are datagrams between quic-go and who delivers them. quic-go keeps 128,
// and drops what comes then without counting it: a write to the port takes longer
// than they take to arrive.
type arrivals struct {
	more chan struct{} // who drains sends, who delivers receives; full: it will look anyway

	mu      sync.Mutex // guards waiting
	waiting [][]byte
}

// add keeps a datagram; false: there are too many.
func (a *arrivals) add(d []byte) bool {
	a.mu.Lock()
	ok := len(a.waiting) < maxArrived
	if ok {
		a.waiting = append(a.waiting, d)
	}
	a.mu.Unlock()
	select {
	case a.more <- struct{}{}:
	default:
	}
	return ok
}

// swap takes all that waits, and leaves empty as memory for what comes.
func (a *arrivals) swap(empty [][]byte) [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.waiting
	a.waiting = empty
	return got
}

// drain takes what comes over a connection as soon as it comes, until ctx is done
// or the connection ends.
func (p *path) drain(ctx context.Context, b *bound, a *arrivals) {
	for {
		d, err := b.conn.ReceiveDatagram(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.broken(b, err)
			return
		}
		if !a.add(d) {
			p.session.Counters.Rx.Drop(transport.DropQueueFull, 1)
		}
	}
}

// receive delivers what was drained until ctx is done.
func (p *path) receive(ctx context.Context, a *arrivals) {
	r := &reading{p: p}
	var ds [][]byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.more:
		}
		ds = a.swap(ds[:0])
		r.now = time.Now()
		for rest := ds; len(rest) > 0 && ctx.Err() == nil; {
			n := min(len(rest), deliverMax)
			for _, d := range rest[:n] {
				r.datagram(d)
			}
			r.deliver(n)
			rest = rest[n:]
		}
		clear(ds)
	}
}

// datagram takes the items of a datagram.
func (r *reading) datagram(d []byte) {
	list := encap.NewNativeReader(d)
	for {
		i, ok := list.Next()
		if !ok {
			break
		}
		switch i.Type {
		case encap.NativeFrame:
			pk, ok := i.Packet()
			r.packet(pk, ok)
		case encap.NativeFragment:
			r.part(i)
		case encap.NativeProbe, encap.NativeReply, encap.NativeTest, encap.NativeTested:
			r.p.heed(r.now, i, len(d))
		}
	}
	if list.Err() != nil {
		r.p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
	}
}

// packet adds a packet to the batch if it is good, which ok says.
func (r *reading) packet(pk frame.Packet, ok bool) {
	if !ok {
		r.p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	r.batch = append(r.batch, pk)
	r.frames++
	r.bytes += len(pk.Frame.Data)
}

// part takes a fragment, and the frame that it completes.
func (r *reading) part(i encap.NativeItem) {
	rx, x := &r.p.session.Counters.Rx, &r.p.rx
	f, ok := i.Part()
	if !ok {
		rx.Drop(transport.DropMalformed, 1)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parts == nil {
		x.parts = &encap.NativeAssembly{}
	}
	whole, lost, ok := x.parts.Add(r.now, &f)
	if lost > 0 {
		rx.Drop(transport.DropQueueFull, lost)
	}
	if !ok {
		rx.Drop(transport.DropMalformed, 1)
	}
	if whole == nil {
		return
	}
	start := len(r.whole) // what was put there before keeps its memory if this moves
	r.whole = append(r.whole, whole...)
	f.Packet.Frame.Data = r.whole[start:len(r.whole):len(r.whole)]
	r.packet(f.Packet, true)
}

// deliver delivers the packets of n datagrams.
func (r *reading) deliver(n int) {
	rx := &r.p.session.Counters.Rx
	rx.Add(r.frames, r.bytes)
	if r.frames > 0 {
		r.p.Busy()
	}
	rx.AddDatagrams(n)
	r.frames, r.bytes = 0, 0
	if r.p.Alive(r.now) {
		r.p.Revive()
	}
	if len(r.batch) > 0 {
		r.p.t.deliver(r.batch)
		clear(r.batch)
		r.batch = r.batch[:0]
	}
	r.whole = r.whole[:0]
}
