package punch

import (
	"errors"
	"net/netip"
	"sync"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/transport"
)

// Bounds of a read.
const (
	deliverMax = 2048 // packets; a batch that grows longer is delivered in parts
	maxNotes   = 64   // items in a run that are not frames; more are dropped
)

// receiver is the readers' side of a path.
type receiver struct {
	mu     sync.Mutex            // guards below: there is a reader for each address family
	open   *encap.NativeOpen     // nil: there is no key yet
	newest uint64                // one more than the highest counter that was authentic
	from   netip.AddrPort        // where that datagram came from
	bad    uint32                // datagrams from there that did not open
	parts  *encap.NativeAssembly // nil: no fragment has come lately
}

// ready begins to receive.
func (x *receiver) ready(open *encap.NativeOpen) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open = open
}

// sentFrom notes where the newest authentic datagram came from. The path's mu is held, so
// that it does not come between the steps of a move.
func (x *receiver) sentFrom(from netip.AddrPort) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.from = from
}

// tend gives up what has waited for too long, and says how many frames that were
// and the number of the opening key.
func (x *receiver) tend(now time.Time) (epoch uint64, lost int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.parts != nil {
		if lost = x.parts.Expire(now); x.parts.Empty() {
			x.parts = nil
		}
	}
	return x.open.Epoch(), lost
}

// forget gives up the opening key before the one in use.
func (x *receiver) forget() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open.Forget()
}

// note is an item that is not a frame. Its bytes are borrowed from the datagram,
// which had size bytes.
type note struct {
	item encap.NativeItem
	size int
}

// tally is what a stretch of datagrams for one path has brought.
type tally struct {
	load
	opened, failed int
	newer          bool // one was newer than all before
	notes          []note
}

// reader takes what one socket reads, and owns the memory of its batch.
type reader struct {
	t      *Transport
	socket mux.Socket
	now    time.Time // when the batch was read
	batch  []frame.Packet
	whole  []byte // frames of the batch that came in fragments, behind each other
	tally  tally
	judged udp.Verdict
}

func (t *Transport) newReader(s mux.Socket) mux.Handler {
	r := &reader{t: t, socket: s}
	r.tally.notes = make([]note, 0, maxNotes)
	return r.take
}

// take takes the datagrams of one read and delivers their packets.
func (r *reader) take(ms []udp.Message) {
	r.now = time.Now()
	for i := range ms {
		r.run(&ms[i])
		if len(r.batch) >= deliverMax {
			r.deliver()
		}
	}
	r.deliver()
	r.socket.Judge(r.now, r.judged)
	r.judged = udp.Verdict{}
}

func (r *reader) deliver() {
	if len(r.batch) > 0 {
		r.t.deliver(r.batch)
		clear(r.batch)
		r.batch = r.batch[:0]
	}
	r.whole = r.whole[:0]
}

// run takes a datagram or a run of them.
func (r *reader) run(m *udp.Message) {
	segment := m.Segment
	if segment <= 0 {
		segment = m.N
	}
	var p *path     // whose lock is held
	var last uint32 // its index
	for rest := m.Buf[:m.N]; len(rest) > 0; {
		d := rest[:min(segment, len(rest))]
		rest = rest[len(d):]
		index, err := encap.NativeIndex(d)
		if err != nil {
			r.t.stray.Rx.Drop(transport.DropMalformed, 1)
			continue
		}
		if p == nil || index != last {
			r.leave(p, m)
			if p, last = r.t.paths.Find(index), index; p == nil {
				r.t.stray.Rx.Drop(transport.DropPeer, 1)
				continue
			}
			p.rx.mu.Lock()
		}
		r.datagram(p, d, m.Addr)
	}
	r.leave(p, m)
}

// datagram opens a datagram and takes its items. p.rx.mu is held.
func (r *reader) datagram(p *path, d []byte, from netip.AddrPort) {
	x, rx := &p.rx, &p.session.Counters.Rx
	if x.open == nil { // the neighbour has our hello, and we do not have its own yet
		r.t.stray.Rx.Drop(transport.DropNoPath, 1)
		return
	}
	items, counter, err := x.open.Open(d)
	switch {
	case errors.Is(err, encap.ErrReplay):
		rx.Drop(transport.DropReplay, 1)
		return
	case err != nil:
		rx.Drop(transport.DropAuth, 1)
		if from == x.from {
			x.bad++
			r.tally.failed++
		}
		return
	}
	r.tally.opened++
	if counter >= x.newest {
		x.newest = counter + 1
		r.tally.newer = true
	}
	list := encap.NewNativeReader(items)
	for {
		i, ok := list.Next()
		if !ok {
			break
		}
		r.item(p, i, len(d))
	}
	if list.Err() != nil {
		rx.Drop(transport.DropMalformed, 1)
	}
}

// item takes an item of a datagram of size bytes. p.rx.mu is held.
func (r *reader) item(p *path, i encap.NativeItem, size int) {
	switch i.Type {
	case encap.NativeFrame:
		pk, ok := i.Packet()
		r.packet(p, pk, ok)
	case encap.NativeFragment:
		r.part(p, i)
	case encap.NativeProbe, encap.NativeReply, encap.NativeTest, encap.NativeTested:
		if len(r.tally.notes) == maxNotes {
			p.session.Counters.Rx.Drop(transport.DropRate, 1)
			return
		}
		r.tally.notes = append(r.tally.notes, note{i, size})
	}
}

// packet adds a packet to the batch if it is good, which ok says.
func (r *reader) packet(p *path, pk frame.Packet, ok bool) {
	if !ok {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	r.batch = append(r.batch, pk)
	r.tally.frames++
	r.tally.bytes += len(pk.Frame.Data)
}

// part takes a fragment, and the frame that it completes. p.rx.mu is held.
func (r *reader) part(p *path, i encap.NativeItem) {
	f, ok := i.Part()
	if !ok {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
		return
	}
	if p.rx.parts == nil {
		p.rx.parts = &encap.NativeAssembly{}
	}
	whole, lost, ok := p.rx.parts.Add(r.now, &f)
	if lost > 0 {
		p.session.Counters.Rx.Drop(transport.DropQueueFull, lost)
	}
	if !ok {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
	}
	if whole == nil {
		return
	}
	start := len(r.whole) // what was put there before keeps its memory if this moves
	r.whole = append(r.whole, whole...)
	f.Packet.Frame.Data = r.whole[start:len(r.whole):len(r.whole)]
	r.packet(p, f.Packet, true)
}

// leave ends a stretch of datagrams for p, whose lock it releases: it counts, and
// does what the datagrams ask for. p may be nil.
func (r *reader) leave(p *path, m *udp.Message) {
	if p == nil {
		return
	}
	t, x := &r.tally, &p.rx
	moved := t.newer && m.Addr != x.from
	bad := x.bad
	x.mu.Unlock()
	if t.opened > 0 {
		rx := &p.session.Counters.Rx
		rx.Add(t.frames, t.bytes)
		if t.frames > 0 {
			p.Busy()
		}
		rx.AddDatagrams(t.opened)
		first := p.Alive(r.now)
		moved = moved && p.follow(r.now, m.Addr)
		if first || moved {
			p.Revive()
		}
		for _, n := range t.notes {
			p.take(r.now, n, bad)
		}
	}
	if m.Segment > 0 {
		r.judged.RunPassed += t.opened
		r.judged.RunFailed += t.failed
	} else {
		r.judged.SinglePassed += t.opened
		r.judged.SingleFailed += t.failed
	}
	*t = tally{notes: t.notes[:0]}
}
