package sleeve

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
)

// An outbox holds arenaSize bytes of finished datagrams, at most outboxMax: two
// super-frames of 64 KiB with what is put around their segments, of which the
// second continues the first one's run. More of it would only be colder.
const (
	arenaSize = 160 << 10
	outboxMax = 2 * udp.MaxBatch
)

// ipv6Min is the MTU that IPv6 asks of every link.
const ipv6Min = 1280

// outbox collects the datagrams of one class (weave protocol, section 6.8) until
// they are flushed.
//
//	arena     [ datagram | datagram | datagram ] ▒▒▒ free ▒▒▒
//	                                  ▲ being filled, if plain
//	packets   [ packet | packet ]  being filled, if sealed: it goes to the
//	                               arena when it is complete
//
// The datagrams lie without gaps, and the segments of a super-frame make equal
// ones, so that the socket can hand them to the kernel as one run.
type outbox struct {
	df       bool
	arena    []byte // of fixed capacity, so that messages stay where they are
	packets  []byte
	messages []udp.Message
	loads    []load // of each message
	open     load   // of the datagram that is being filled
	size     int    // bytes of that datagram, as it will be on the wire
}

// load is what a datagram carries.
type load struct{ frames, bytes int }

// init makes the buffers; a path that never sends has none.
func (b *outbox) init(sealed bool) {
	b.arena = make([]byte, 0, arenaSize)
	b.messages = make([]udp.Message, 0, outboxMax)
	b.loads = make([]load, 0, outboxMax)
	if sealed {
		b.packets = make([]byte, 0, encap.MaxDatagram)
	}
}

// room reports whether the arena has room for one more datagram of size bytes.
func (b *outbox) room(size int) bool {
	used := len(b.arena)
	if b.packets == nil {
		used -= b.size
	}
	return len(b.messages) < cap(b.messages) && used+size <= cap(b.arena)
}

// filling is where the packets of the open datagram go.
func (b *outbox) filling() *[]byte {
	if b.packets != nil {
		return &b.packets
	}
	return &b.arena
}

// sender is the data path's side of a path.
type sender struct {
	t        *Transport
	counters *transport.Counters
	seal     *encap.SleeveSeal // nil: plain
	refused  func()            // the kernel found a DF datagram too big

	mu       sync.Mutex // guards below; WriteBatch is called under it and never waits
	to       netip.AddrPort
	conn     PacketConn
	mtu      int // largest inner IP packet in bytes
	limit    int // largest datagram that is not fragmented, in bytes
	stackOK  bool
	tooBig   [3]*transport.TooBigError // by number of VLAN tags
	df, any  outbox
	cutter   frame.Cutter // has the frame that is being sent, if it has an offload
	segments segments     // of that frame
	whole    []byte       // a segment that is to be fragmented
	scratch  []byte       // a fragment of it
	fragment frame.Packet // what the fragments belong to
	emit     func(b []byte)
}

func (s *sender) init() {
	s.df.df = true
	s.emit = func(b []byte) {
		buf := s.beginLocked(&s.df, s.fragment, len(b))
		*buf = append(*buf, b...)
	}
}

// base is the length of a datagram without packets.
func (s *sender) base() int {
	if s.seal != nil {
		return encap.SleeveNameLen + encap.SleeveSealOverhead
	}
	return encap.SleeveNameLen
}

// route tells where datagrams go and what fits. to may be invalid, conn nil.
func (s *sender) route(to netip.AddrPort, conn PacketConn, mtu int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to != s.to || conn != s.conn {
		s.flushLocked()
	}
	s.to, s.conn = to, conn
	if mtu == s.mtu {
		return
	}
	s.mtu = mtu
	s.limit = min(s.base()+encap.SleevePacketHeader+frame.HeaderLen+mtu, encap.MaxDatagram)
	for tags := range s.tooBig {
		s.tooBig[tags] = &transport.TooBigError{MTU: mtu - tags*frame.VLANTagLen}
	}
}

// setStackOK tells whether the neighbour's stack puts fragments together.
func (s *sender) setStackOK(ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stackOK = ok
}

// segments are the frames as which one frame is sent.
type segments struct {
	n, size, last int // how many; bytes of each but the last, bytes of the last
}

// maxSegments bounds what one super-frame may make us send. Linux makes no more
// than 1365, of 48 bytes each (TCP_MIN_SND_MSS); a container may make up others.
const maxSegments = 2048

// segmentsLocked finds the segments of a frame. It fails where the offload does
// not fit the frame, or makes too many.
func (s *sender) segmentsLocked(f frame.Frame) (segments, error) {
	if f.Offload == (frame.Offload{}) { // no work for the cutter
		return segments{1, len(f.Data), len(f.Data)}, nil
	}
	if err := s.cutter.Begin(f); err != nil {
		return segments{}, err
	}
	n := s.cutter.Segments()
	if n > maxSegments {
		return segments{}, frame.ErrOffload
	}
	return segments{n, s.cutter.SegmentLen(), len(f.Data) - (n-1)*int(f.Offload.GSOSize)}, nil
}

// appendSegmentLocked appends the next segment of a frame.
func (s *sender) appendSegmentLocked(b []byte, f frame.Frame) []byte {
	if f.Offload == (frame.Offload{}) {
		return append(b, f.Data...)
	}
	b, _ = s.cutter.Next(b)
	return b
}

// send takes one packet (weave protocol, section 6.8). A super-frame is sent as
// its segments, all of which travel alike.
func (s *sender) send(p frame.Packet) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments, err = s.segmentsLocked(p.Frame)
	data := p.Frame.Data
	switch {
	case err != nil, len(data) < frame.HeaderLen, [frame.HeaderLen]byte(data) == [frame.HeaderLen]byte{}:
		// The last would be taken for a special frame.
		s.counters.Tx.Drop(transport.DropMalformed, 1)
		return nil
	case s.conn == nil:
		s.counters.Tx.Drop(transport.DropNoPath, s.segments.n)
		return transport.ErrNoPath
	case s.segments.size > encap.MaxDatagram-s.base()-encap.SleevePacketHeader:
		s.counters.Tx.Drop(transport.DropTooBig, s.segments.n)
		return nil
	}
	return s.sendLocked(p)
}

func (s *sender) sendLocked(p frame.Packet) error {
	c := frame.Classify(p.Frame.Data)
	size := s.segments.size
	big := size > s.mtu+frame.HeaderLen
	box := &s.any
	switch c.Kind {
	case frame.IPv4DF:
		if big {
			return s.tooBigLocked(c)
		}
		box = &s.df
	case frame.IPv4:
		switch {
		case s.stackOK:
		case !big:
			box = &s.df
		default:
			return s.splitLocked(p)
		}
	case frame.IPv6:
		// Hosts do not go below 1280, so that has to pass in any case.
		if big && size > c.L3+ipv6Min {
			return s.tooBigLocked(c)
		}
	}
	s.putLocked(box, p, c)
	return nil
}

func (s *sender) tooBigLocked(c frame.Class) error {
	s.counters.Tx.Drop(transport.DropTooBig, s.segments.n)
	return s.tooBig[min(tags(c), len(s.tooBig)-1)]
}

// tags is how many VLAN tags a frame has.
func tags(c frame.Class) int { return (c.L3 - frame.HeaderLen) / frame.VLANTagLen }

// splitLocked sends the segments of an inner IPv4 packet in fragments.
func (s *sender) splitLocked(p frame.Packet) error {
	s.whole = slices.Grow(s.whole[:0], s.segments.size)
	s.scratch = slices.Grow(s.scratch[:0], s.mtu+frame.HeaderLen)
	s.fragment = p
	for range s.segments.n {
		segment := s.appendSegmentLocked(s.whole[:0], p.Frame)
		if err := frame.FragmentIPv4(segment, s.mtu, s.scratch, s.emit); err != nil {
			s.counters.Tx.Drop(transport.DropMalformed, 1)
		}
	}
	s.fragment.Frame.Data = nil
	return nil
}

// putLocked puts the segments of the packet's frame into a class's datagrams.
func (s *sender) putLocked(b *outbox, p frame.Packet, c frame.Class) {
	g := s.segments
	if g.n > 1 && len(b.messages) > 0 && !b.room(g.n*(s.base()+encap.SleevePacketHeader+g.size)) {
		s.closeLocked(b) // the segments stay together
		s.writeLocked(b)
	}
	for i := range g.n {
		size := g.size
		if i == g.n-1 {
			size = g.last
		}
		buf := s.beginLocked(b, p, size)
		*buf = s.appendSegmentLocked(*buf, p.Frame)
		if g.n == 1 && c.Kind != frame.Other {
			frame.ClampMSS((*buf)[len(*buf)-size:], s.mtu-tags(c)*frame.VLANTagLen)
		}
	}
}

// beginLocked makes room in a class's datagram for a packet with a frame of size
// bytes, or begins the next one where it does not fit. The caller appends the
// frame to what is returned.
func (s *sender) beginLocked(b *outbox, p frame.Packet, size int) (buf *[]byte) {
	if b.arena == nil {
		b.init(s.seal != nil)
	}
	need := encap.SleevePacketHeader + size
	if b.open.frames > 0 && b.size+need > s.limit {
		s.closeLocked(b)
	}
	grown := b.size + need
	if b.open.frames == 0 {
		grown = s.base() + need
	}
	if !b.room(grown) {
		s.closeLocked(b)
		s.writeLocked(b)
		grown = s.base() + need
	}
	buf = b.filling()
	if s.seal == nil && b.open.frames == 0 {
		*buf = encap.AppendSleeveName(*buf, s.t.local)
	}
	*buf = encap.AppendSleeveHeader(*buf, p.Src, p.Dst, size)
	b.size = grown
	b.open.frames++
	b.open.bytes += size
	return buf
}

// closeLocked completes the datagram that is being filled.
func (s *sender) closeLocked(b *outbox) {
	if b.open.frames == 0 {
		return
	}
	if s.seal != nil {
		b.arena = s.seal.Seal(b.arena, s.t.local, b.packets, b.df)
		b.packets = b.packets[:0]
	}
	end := len(b.arena)
	b.messages = append(b.messages, udp.Message{Buf: b.arena[end-b.size : end], N: b.size, Addr: s.to})
	b.loads = append(b.loads, b.open)
	b.open, b.size = load{}, 0
}

// flush sends what both classes have collected.
func (s *sender) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushLocked()
}

func (s *sender) flushLocked() {
	for _, b := range [...]*outbox{&s.df, &s.any} {
		s.closeLocked(b)
		s.writeLocked(b)
	}
}

// writeLocked sends a class's complete datagrams and empties the outbox.
func (s *sender) writeLocked(b *outbox) {
	tx := &s.counters.Tx
	for i := 0; i < len(b.messages); {
		n, err := s.conn.WriteBatch(b.messages[i:], b.df)
		sent := load{}
		for _, l := range b.loads[i : i+n] {
			sent.frames += l.frames
			sent.bytes += l.bytes
		}
		tx.Add(sent.frames, sent.bytes)
		tx.AddDatagrams(n)
		i += n
		if err == nil {
			break
		}
		if i < len(b.messages) {
			i += s.failedLocked(b, i, err)
		}
	}
	b.messages, b.loads, b.arena = b.messages[:0], b.loads[:0], b.arena[:0]
}

// failedLocked counts what message i's error costs and says how many messages to
// leave out. No error ends the path: its heartbeats and probes judge it.
func (s *sender) failedLocked(b *outbox, i int, err error) (skip int) {
	rest := b.messages[i:]
	why, skip := transport.DropSendError, 1
	switch {
	case errors.Is(err, udp.ErrTooBig):
		why = transport.DropTooBig
		for skip < len(rest) && rest[skip].N >= rest[0].N {
			skip++
		}
		if b.df {
			s.refused()
		}
	case errors.Is(err, udp.ErrFull):
		why, skip = transport.DropQueueFull, len(rest)
	case errors.Is(err, net.ErrClosed), errors.Is(err, udp.ErrNoWay):
		skip = len(rest)
	}
	for _, l := range b.loads[i : i+skip] {
		s.counters.Tx.Drop(why, l.frames)
	}
	return skip
}
