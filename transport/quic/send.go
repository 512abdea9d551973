package quic

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/quicnet"
	"meshd/transport"
)

// Bounds of what waits for a connection.
const (
	maxQueued  = 2048                   // datagrams with frames
	maxNotes   = 64                     // datagrams without
	maxWait    = 400 * time.Millisecond // of a datagram with frames
	takeAtOnce = 64                     // datagrams
	roomMax    = 1452                   // bytes: more than quic-go's largest datagram
)

// padding is the type of items that mean nothing. A datagram that waits behind others
// and lacks less than a part of its length gets one: only those of the largest size
// leave in runs.
const (
	padding = 0
	padUpTo = 4
)

// hopLimit is how many neighbours a packet passes at most, where nobody has said
// it yet.
const hopLimit = 32

// ipv6Min is the MTU that IPv6 asks of every link.
const ipv6Min = frame.MinMTUIPv6

// datagram is one that is being filled, or waits.
type datagram struct {
	b             []byte // of capacity roomMax
	frames, bytes int
	at            time.Time // when it was let go; zero: not yet
}

// sender is the data path's side of a path: it puts frames into datagrams, which
// wait in a ring until feed hands them to quic-go.
//
//	ring  [ items | items | items | ▒▒ free ▒▒ ]
//	        ▲ head          ▲ head+n: being filled
type sender struct {
	counters *transport.Counters
	more     chan struct{} // data path and Run send, feed receives; full: it will look anyway

	mu       sync.Mutex                // guards below; never held while something waits
	to       *bound                    // nil: there is no connection
	mtu      int                       // largest inner IP packet in bytes; 0: unknown
	limit    int                       // largest datagram in bytes
	big      bool                      // one larger than the smallest MTU was queued lately
	tooBig   [3]*transport.TooBigError // by number of VLAN tags
	ring     []datagram
	head, n  int
	filling  bool
	notes    [][]byte // sent before what has frames
	cutter   frame.Cutter
	whole    []byte // a segment that is to be fragmented
	fragment uint32 // number of the last fragmented frame
}

// open begins to send over a connection.
func (s *sender) open(b *bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropLocked(transport.DropNoPath)
	s.to, s.notes = b, nil
	s.ring, s.head = nil, 0 // who fed the connection before may still use its memory
}

// close ends sending over a connection. What waits for it is dropped.
func (s *sender) close(b *bound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == b {
		s.to, s.notes = nil, nil
		s.dropLocked(transport.DropNoPath)
	}
}

// forget frees the queue's memory.
func (s *sender) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to, s.notes = nil, nil
	s.dropLocked(transport.DropNoPath)
	s.ring = nil
}

// dropLocked drops all that waits.
func (s *sender) dropLocked(why transport.Drop) {
	if s.ring == nil {
		return
	}
	s.closeLocked()
	for i := range s.n {
		s.counters.Tx.Drop(why, s.ring[(s.head+i)%len(s.ring)].frames)
	}
	s.n = 0
}

// fit tells the MTU in bytes; 0: unknown.
func (s *sender) fit(mtu int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if mtu == s.mtu {
		return
	}
	s.closeLocked() // its place was measured by the old limit
	s.mtu = mtu
	s.limit = min(mtu+besides, roomMax)
	for tags := range s.tooBig {
		s.tooBig[tags] = &transport.TooBigError{MTU: mtu - tags*frame.VLANTagLen}
	}
}

// large reports whether a large datagram was queued since the last call.
func (s *sender) large() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	big := s.big
	s.big = false
	return big
}

// note sends items in a datagram of their own, before all that waits.
func (s *sender) note(items []byte) {
	s.mu.Lock()
	if s.to != nil && len(s.notes) < maxNotes {
		s.notes = append(s.notes, items)
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
	if s.cutter.SegmentLen() > s.mtu+frame.HeaderLen {
		return s.oversizeLocked(p)
	}
	s.segmentsLocked(p)
	return nil
}

// segmentsLocked puts all segments of the frame in the cutter into datagrams.
func (s *sender) segmentsLocked(p *frame.Packet) {
	need := encap.NativePacketHeader + s.cutter.SegmentLen()
	n := s.cutter.Segments()
	for i := range n {
		d := s.roomLocked(need)
		if d == nil {
			s.counters.Tx.Drop(transport.DropQueueFull, n-i)
			return
		}
		at := len(d.b)
		data := at + encap.NativePacketHeader
		d.b, _ = s.cutter.Next(d.b[:data])
		segment := d.b[data:]
		if n == 1 { // Linux makes no super-frame of a SYN
			s.clampLocked(segment)
		}
		encap.PutNativePacket(d.b[at:], p, len(segment))
		d.frames++
		d.bytes += len(segment)
	}
}

// clampLocked lowers what a SYN announces to what fits the path.
func (s *sender) clampLocked(b []byte) {
	_, l3 := frame.EtherType(b)
	frame.ClampMSS(b, s.mtu-(l3-frame.HeaderLen))
}

// oversizeLocked takes a frame whose segments do not fit: it is an error, or they
// are sent in fragments.
func (s *sender) oversizeLocked(p *frame.Packet) error {
	c := frame.Classify(p.Frame.Data)
	size := s.cutter.SegmentLen()
	switch {
	case c.Kind == frame.IPv4DF, c.Kind == frame.IPv6 && size > c.L3+ipv6Min:
		s.counters.Tx.Drop(transport.DropTooBig, s.cutter.Segments())
		tags := (c.L3 - frame.HeaderLen) / frame.VLANTagLen
		return s.tooBig[min(tags, len(s.tooBig)-1)]
	case size > encap.NativeFrameMax:
		s.counters.Tx.Drop(transport.DropTooBig, s.cutter.Segments())
		return nil
	}
	for {
		var ok bool
		if s.whole, ok = s.cutter.Next(s.whole[:0]); !ok {
			return nil
		}
		s.clampLocked(s.whole)
		s.fragmentLocked(p)
	}
}

// fragmentLocked sends the frame in whole in fragments, the whole of which counts
// as one frame.
func (s *sender) fragmentLocked(p *frame.Packet) {
	s.fragment++
	f := encap.NativePart{Packet: *p, ID: s.fragment, Total: len(s.whole)}
	room := (s.limit - encap.NativeFragmentHeader) &^ (encap.NativePartUnit - 1)
	for f.Offset < f.Total {
		n := min(room, f.Total-f.Offset)
		f.Packet.Frame = frame.Frame{Data: s.whole[f.Offset : f.Offset+n]}
		d := s.roomLocked(encap.NativeFragmentHeader + n)
		if d == nil {
			s.counters.Tx.Drop(transport.DropQueueFull, 1)
			return
		}
		d.b = encap.AppendNativePart(d.b, &f)
		f.Offset += n
		if f.Offset == f.Total {
			d.frames++
			d.bytes += f.Total
		}
	}
}

// roomLocked gives the datagram that is being filled, if it has room for an item
// of that many bytes, or begins one; nil: the queue is full.
func (s *sender) roomLocked(need int) *datagram {
	if s.ring == nil {
		s.ring = make([]datagram, maxQueued)
	}
	if s.filling && len(s.lastLocked().b)+need > s.limit {
		s.closeLocked()
		s.rouse()
	}
	d := s.lastLocked()
	if s.filling {
		return d
	}
	if s.n == len(s.ring)-takeAtOnce { // those are feed's while it sends
		return nil
	}
	if d.b == nil {
		d.b = make([]byte, 0, roomMax)
	}
	d.b, d.frames, d.bytes, d.at = d.b[:0], 0, 0, time.Time{}
	s.filling = true
	return d
}

// lastLocked is the datagram that is being filled, or would be next.
func (s *sender) lastLocked() *datagram { return &s.ring[(s.head+s.n)%len(s.ring)] }

// ripenLocked lets what is being filled be taken.
func (s *sender) ripenLocked() {
	if d := s.lastLocked(); d.at.IsZero() {
		d.at = time.Now()
	}
}

// closeLocked queues what is being filled: nothing is added any more.
func (s *sender) closeLocked() {
	if !s.filling {
		return
	}
	s.ripenLocked()
	d := s.lastLocked()
	if room := s.limit - len(d.b); room >= encap.NativeItemHeader && room < s.limit/padUpTo && s.n > 0 {
		at := len(d.b)
		d.b = d.b[:s.limit]
		clear(d.b[at:])
		binary.BigEndian.PutUint16(d.b[at+2:], uint16(room-encap.NativeItemHeader))
	}
	s.big = s.big || len(d.b) > ipv6Min
	s.filling = false
	s.n++
}

// flush lets go of what is being filled. While the connection is busy more frames
// may join it.
func (s *sender) flush() {
	s.mu.Lock()
	filling := s.filling
	if filling {
		s.ripenLocked()
	}
	s.mu.Unlock()
	if filling {
		s.rouse()
	}
}

func (s *sender) rouse() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// takeUp takes what may be sent over a connection: notes, then datagrams, whose
// memory stays the caller's until the next call. false: it is not in use.
func (s *sender) takeUp(b *bound, notes [][]byte, ds []datagram) ([][]byte, []datagram, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to != b {
		return nil, nil, false
	}
	notes = append(notes[:0], s.notes...)
	s.notes = s.notes[:0]
	ds = ds[:0]
	if s.filling && s.n < takeAtOnce && !s.lastLocked().at.IsZero() {
		s.closeLocked()
	}
	var now time.Time
	if s.n > 0 {
		now = time.Now()
	}
	for s.n > 0 && len(ds) < takeAtOnce {
		d := &s.ring[s.head]
		if now.Sub(d.at) > maxWait {
			s.counters.Tx.Drop(transport.DropQueueFull, d.frames)
		} else {
			ds = append(ds, *d)
		}
		s.head = (s.head + 1) % len(s.ring)
		s.n--
	}
	return notes, ds, true
}

// feed hands what is queued to a connection, until ctx is done or it ends.
func (p *path) feed(ctx context.Context, b *bound) {
	defer close(b.fed)
	s := &p.tx
	var notes [][]byte
	ds := make([]datagram, 0, takeAtOnce)
	for {
		var ok bool
		if notes, ds, ok = s.takeUp(b, notes, ds); !ok {
			return
		}
		if len(notes)+len(ds) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-s.more:
			}
			continue
		}
		for _, n := range notes {
			if !p.pass(b, &datagram{b: n}) {
				return
			}
		}
		for i := range ds {
			if !p.pass(b, &ds[i]) {
				for _, d := range ds[i+1:] {
					s.counters.Tx.Drop(transport.DropNoPath, d.frames)
				}
				return
			}
		}
	}
}

// pass hands a datagram to quic-go, which may wait; false: the connection ended.
func (p *path) pass(b *bound, d *datagram) bool {
	tx := &p.session.Counters.Tx
	err := b.conn.SendDatagram(d.b)
	if err == nil {
		tx.Add(d.frames, d.bytes)
		tx.AddDatagrams(1)
		return true
	}
	if errors.Is(err, quicnet.ErrTooBig) {
		tx.Drop(transport.DropTooBig, d.frames)
		return true
	}
	tx.Drop(transport.DropNoPath, d.frames)
	p.broken(b, err)
	return false
}
