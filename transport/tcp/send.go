package tcp

import (
	"context"
	"sync"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
)

// Bounds of what waits for a connection, besides the queue's.
const (
	maxNotes   = 64                     // items that are not frames
	maxWait    = 400 * time.Millisecond // of a record
	takeAtOnce = 64 << 10               // bytes, or else one record
	freeAfter  = 10 * time.Second       // the queue's memory, when nothing is sent
)

// A key is changed after it has sealed so many records (RFC 9001, section 6.6) or was
// in use for so long.
const (
	rekeyUsed  = 1 << 23
	rekeyAfter = 2 * time.Minute
)

// hopLimit is how many neighbours a packet passes at most, where nobody has said
// it yet.
const hopLimit = 32

// ipv6Min is the MTU that IPv6 asks of every link.
const ipv6Min = frame.MinMTUIPv6

// sender is the data path's side of a path: it puts frames into records, which wait in
// a queue until feed seals and writes them.
type sender struct {
	counters *transport.Counters
	more     chan struct{} // data path and Run send, feed receives; full: it will look anyway

	mu     sync.Mutex                // guards below; never held while something waits
	to     *bound                    // nil: there is no connection
	mtu    int                       // largest inner IP packet in bytes; 0: unknown
	tooBig [3]*transport.TooBigError // by number of VLAN tags
	queue  queue
	used   time.Time // when the queue was last seen not to be empty
	notes  []byte    // items that are sent before what has frames
	noted  int       // how many
	cutter frame.Cutter
}

// open begins to send over a connection.
func (s *sender) open(b *bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked()
	s.to = b
}

// close ends sending over a connection. What waits for it is dropped.
func (s *sender) close(b *bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == b {
		s.forgetLocked()
	}
}

func (s *sender) forgetLocked() {
	s.to, s.notes, s.noted = nil, nil, 0
	if n := s.queue.forget(); n > 0 {
		s.counters.Tx.Drop(transport.DropNoPath, n)
	}
}

// tend gives the queue's memory up when it was not used for a time.
func (s *sender) tend(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.queue.empty() {
		s.used = now
	} else if now.Sub(s.used) >= freeAfter {
		s.queue.forget()
	}
}

// fit tells the MTU in bytes; 0: unknown.
func (s *sender) fit(mtu int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mtu == s.mtu {
		return
	}
	s.mtu = mtu
	for tags := range s.tooBig {
		s.tooBig[tags] = &transport.TooBigError{MTU: mtu - tags*frame.VLANTagLen}
	}
}

// note sends an item before all that waits.
func (s *sender) note(item []byte) {
	s.mu.Lock()
	if s.to != nil && s.noted < maxNotes {
		s.notes = append(s.notes, item...)
		s.noted++
	}
	s.mu.Unlock()
	s.rouse()
}

// send takes one packet.
func (s *sender) send(p *frame.Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.Frame.Data) < frame.HeaderLen || [frame.HeaderLen]byte(p.Frame.Data) == [frame.HeaderLen]byte{} {
		s.counters.Tx.Drop(transport.DropMalformed, 1)
		return nil
	}
	if err := s.cutter.Begin(p.Frame); err != nil {
		s.counters.Tx.Drop(transport.DropMalformed, 1)
		return nil
	}
	if s.to == nil || s.mtu == 0 {
		s.counters.Tx.Drop(transport.DropNoPath, s.cutter.Segments())
		return transport.ErrNoPath
	}
	if p.Hops == 0 {
		p.Hops = hopLimit
	}
	if err := s.oversizeLocked(p); err != nil {
		return err
	}
	waiting := s.queue.n
	if s.cutter.Segments() > 1 && len(p.Frame.Data) <= encap.NativeSuperMax && !p.Frame.Wild() {
		s.wholeLocked(p)
	} else {
		s.segmentsLocked(p)
	}
	if s.queue.n > waiting {
		s.rouse()
	}
	return nil
}

// oversizeLocked is the error for a frame that is larger than the neighbour's port
// and must not be fragmented. A stream carries all others whole.
func (s *sender) oversizeLocked(p *frame.Packet) error {
	size := s.cutter.SegmentLen()
	if size <= s.mtu+frame.HeaderLen {
		return nil
	}
	c := frame.Classify(p.Frame.Data)
	if c.Kind != frame.IPv4DF && (c.Kind != frame.IPv6 || size <= c.L3+ipv6Min) {
		return nil
	}
	s.counters.Tx.Drop(transport.DropTooBig, s.cutter.Segments())
	tags := (c.L3 - frame.HeaderLen) / frame.VLANTagLen
	return s.tooBig[min(tags, len(s.tooBig)-1)]
}

// wholeLocked queues the super-frame in the cutter as it is.
func (s *sender) wholeLocked(p *frame.Packet) {
	r := s.queue.room(encap.NativeSuperHeader + len(p.Frame.Data))
	if r == nil {
		s.counters.Tx.Drop(transport.DropQueueFull, s.cutter.Segments())
		return
	}
	r.end = len(encap.AppendNativeSuper(s.queue.arena[:r.end], p))
	r.frames += s.cutter.Segments()
	r.bytes += segmentBytes(&s.cutter, &p.Frame)
}

// segmentsLocked queues all segments of the frame in the cutter.
func (s *sender) segmentsLocked(p *frame.Packet) {
	n := s.cutter.Segments()
	if s.cutter.SegmentLen() > encap.NativePacketMax {
		s.counters.Tx.Drop(transport.DropTooBig, n)
		return
	}
	for i := range n {
		r := s.queue.room(encap.NativePacketHeader + s.cutter.SegmentLen())
		if r == nil {
			s.counters.Tx.Drop(transport.DropQueueFull, n-i)
			return
		}
		data := r.end + encap.NativePacketHeader
		b, _ := s.cutter.Next(s.queue.arena[:data])
		segment := b[data:]
		if n == 1 { // Linux makes no super-frame of a SYN
			_, l3 := frame.EtherType(segment)
			frame.ClampMSS(segment, s.mtu-(l3-frame.HeaderLen))
		}
		encap.PutNativePacket(b[r.end:], p, len(segment))
		r.end = len(b)
		r.frames++
		r.bytes += len(segment)
	}
}

// segmentBytes is how many bytes the segments have that a super-frame stands for.
func segmentBytes(c *frame.Cutter, f *frame.Frame) int {
	headers := c.SegmentLen() - int(f.Offload.GSOSize)
	return len(f.Data) + (c.Segments()-1)*headers
}

// flush lets go of what is being filled. While the connection is busy more frames
// may join it.
func (s *sender) flush() {
	s.mu.Lock()
	waits := !s.queue.empty()
	s.queue.ripen()
	s.mu.Unlock()
	if waits {
		s.rouse()
	}
}

func (s *sender) rouse() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// load is what may be written to a connection at once. Its memory stays the
// caller's until sent.
type load struct {
	notes   []byte // items
	arena   []byte // that records lie in
	records []record
}

// takeUp takes what may be written to a connection now; false: it is not in use.
func (s *sender) takeUp(b *bound, l *load) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to != b {
		return false
	}
	q := &s.queue
	l.notes = append(l.notes[:0], s.notes...)
	s.notes, s.noted = s.notes[:0], 0
	if q.n == 0 && q.ripe() {
		q.complete()
	}
	l.arena, l.records = q.arena, l.records[:0]
	if q.n == 0 {
		return true
	}
	now := time.Now()
	for q.n > 0 && now.Sub(q.nth(0).since) > maxWait {
		s.counters.Tx.Drop(transport.DropQueueFull, q.nth(0).frames)
		q.drop()
	}
	l.records = q.peek(l.records, takeAtOnce)
	return true
}

// sent gives back the records of a load, and their memory.
func (s *sender) sent(b *bound, l *load) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to != b {
		return // they were given up with the connection, and are counted
	}
	for range l.records {
		s.queue.drop()
	}
}

// feed writes what is queued to a connection, until ctx is done or it ends.
func (p *path) feed(ctx context.Context, b *bound) {
	s := &p.tx
	w := writer{b: b, keyed: time.Now()}
	for {
		if !s.takeUp(b, &w.load) {
			return
		}
		if len(w.notes)+len(w.records) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-s.more:
			}
			continue
		}
		if err := w.write(); err != nil {
			p.broken(b, err)
			return
		}
		w.count(s.counters)
		s.sent(b, &w.load)
	}
}

// writer writes loads to a connection.
type writer struct {
	b *bound
	load
	keyed time.Time // when the key came into use
	note  []byte    // a record of notes
}

// write seals and writes the load.
func (w *writer) write() error {
	if err := w.rekey(time.Now()); err != nil {
		return err
	}
	if len(w.notes) > 0 {
		size := beforeItems + len(w.notes) + encap.NativeTagLen
		if cap(w.note) < size {
			w.note = make([]byte, 0, size)
		}
		r, err := sealRecord(w.b.seal, append(w.note[:beforeItems], w.notes...))
		if err != nil {
			return err
		}
		if _, err := w.b.conn.Write(r); err != nil {
			return err
		}
	}
	if len(w.records) == 0 {
		return nil
	}
	for _, r := range w.records {
		if _, err := sealRecord(w.b.seal, w.arena[r.at:r.end:r.after()]); err != nil {
			return err
		}
	}
	last := w.records[len(w.records)-1]
	_, err := w.b.conn.Write(w.arena[w.records[0].at:last.after()])
	return err
}

// rekey changes the key where it is due. The neighbour has, or will have, opened a
// record under the one before by then: records keep their order.
func (w *writer) rekey(now time.Time) error {
	if n := w.b.seal.Used(); n == 0 || n < rekeyUsed && now.Sub(w.keyed) < rekeyAfter {
		return nil
	}
	w.keyed = now
	w.b.rekeys.Add(1)
	return w.b.seal.Advance()
}

// count counts what was written.
func (w *writer) count(c *transport.Counters) {
	n := len(w.records)
	if len(w.notes) > 0 {
		n++
	}
	frames, bytes := 0, 0
	for _, r := range w.records {
		frames += r.frames
		bytes += r.bytes
	}
	c.Tx.Add(frames, bytes)
	c.Tx.AddDatagrams(n)
}
