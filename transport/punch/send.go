package punch

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/transport"
)

// Bounds of an outbox: two super-frames in datagrams of an Ethernet's size, or one
// of the largest datagrams with some others.
const (
	arenaSize   = 160 << 10 // bytes
	maxMessages = 128
)

// hopLimit is how many neighbours a packet passes at most, where nobody has said
// it yet.
const hopLimit = 32

// ipv6Min is the MTU that IPv6 asks of every link.
const ipv6Min = frame.MinMTUIPv6

// outbox collects datagrams until they are flushed. They lie behind each other,
// each sealed in place as soon as it is complete, so that the socket takes equal
// ones as one piece.
//
//	arena  [ header items tag | header items tag | header items ▒▒▒ free ▒▒▒
//	         '--- sealed ---'   '--- sealed ---'   ▲ being filled
type outbox struct {
	arena    []byte // of fixed capacity, so that messages stay where they are
	messages []udp.Message
	loads    []load // of each message
	at       int    // where the datagram begins that is being filled
	filling  bool
	open     load // of that datagram
}

// load is what a datagram carries.
type load struct{ frames, bytes int }

// sender is the data path's side of a path.
type sender struct {
	counters *transport.Counters
	refused  func() // the kernel found a datagram too big

	mu       sync.Mutex        // guards below; WriteBatch is called under it and never waits
	seal     *encap.NativeSeal // nil: there is no key yet
	to       netip.AddrPort
	socket   mux.Socket
	mtu      int                       // largest inner IP packet in bytes
	limit    int                       // largest datagram in bytes
	alone    bool                      // no runs
	sent     uint64                    // datagrams that left
	large    bool                      // one larger than the smallest MTU left lately
	tooBig   [3]*transport.TooBigError // by number of VLAN tags
	box      outbox
	cutter   frame.Cutter
	whole    []byte // a segment that is to be fragmented
	fragment uint32 // number of the last fragmented frame
	note     []byte // a datagram that is not from the box
}

// ready begins to send.
func (s *sender) ready(seal *encap.NativeSeal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seal = seal
}

// route tells where datagrams go, what fits, and whether runs may be sent. to may
// be invalid, socket nil.
func (s *sender) route(to netip.AddrPort, socket mux.Socket, mtu int, alone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to != s.to || socket != s.socket {
		s.flushLocked()
	}
	s.to, s.socket, s.alone = to, socket, alone
	if mtu == s.mtu {
		return
	}
	s.closeLocked() // its place was measured by the old limit
	s.mtu = mtu
	s.limit = min(besides+mtu, encap.MaxDatagram)
	for tags := range s.tooBig {
		s.tooBig[tags] = &transport.TooBigError{MTU: mtu - tags*frame.VLANTagLen}
	}
}

// keyUsed is how many datagrams the key has sealed.
func (s *sender) keyUsed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seal.Used()
}

// advance takes the next key.
func (s *sender) advance() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seal.Advance()
}

// datagrams is how many datagrams have left, and whether a large one was among
// those since the last call.
func (s *sender) datagrams() (sent uint64, large bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	large, s.large = s.large, false
	return s.sent, large
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
	if s.seal == nil || s.socket == nil {
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
	for range n {
		s.roomLocked(need)
		b := &s.box
		at := len(b.arena)
		data := at + encap.NativePacketHeader
		b.arena, _ = s.cutter.Next(b.arena[:data])
		segment := b.arena[data:]
		if n == 1 { // Linux makes no super-frame of a SYN
			s.clampLocked(segment)
		}
		encap.PutNativePacket(b.arena[at:], p, len(segment))
		b.open.frames++
		b.open.bytes += len(segment)
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
	room := (s.limit - encap.NativeOverhead - encap.NativeFragmentHeader) &^ (encap.NativePartUnit - 1)
	for f.Offset < f.Total {
		n := min(room, f.Total-f.Offset)
		f.Packet.Frame = frame.Frame{Data: s.whole[f.Offset : f.Offset+n]}
		s.roomLocked(encap.NativeFragmentHeader + n)
		s.box.arena = encap.AppendNativePart(s.box.arena, &f)
		f.Offset += n
	}
	s.box.open.frames++
	s.box.open.bytes += f.Total
}

// roomLocked makes sure that the datagram that is being filled has room for an
// item of that many bytes, and begins one if there is none.
func (s *sender) roomLocked(need int) {
	b := &s.box
	if b.arena == nil {
		b.arena = make([]byte, 0, arenaSize)
		b.messages = make([]udp.Message, 0, maxMessages)
		b.loads = make([]load, 0, maxMessages)
	}
	if b.filling && len(b.arena)-b.at+need+encap.NativeTagLen > s.limit {
		s.closeLocked()
	}
	if !b.filling {
		if len(b.messages) == cap(b.messages) || len(b.arena)+encap.NativeOverhead+s.limit > cap(b.arena) {
			s.writeLocked()
		}
		b.at, b.filling = len(b.arena), true
		b.arena = b.arena[:b.at+encap.NativeHeaderLen]
	}
}

// closeLocked seals the datagram that is being filled.
func (s *sender) closeLocked() {
	b := &s.box
	if !b.filling {
		return
	}
	b.filling = false
	sealed, err := s.seal.Seal(b.arena[b.at:])
	if err != nil {
		s.counters.Tx.Drop(transport.DropSendError, b.open.frames)
		b.arena, b.open = b.arena[:b.at], load{}
		return
	}
	n := len(sealed)
	b.arena = b.arena[:b.at+n]
	m := udp.Message{Buf: b.arena[b.at:], N: n, Addr: s.to}
	if s.alone {
		m.Segment = udp.Alone
	}
	s.large = s.large || n > ipv6Min
	b.messages = append(b.messages, m)
	b.loads = append(b.loads, b.open)
	b.open = load{}
}

// flush sends what the outbox has.
func (s *sender) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushLocked()
}

func (s *sender) flushLocked() {
	s.closeLocked()
	s.writeLocked()
}

// writeLocked sends the complete datagrams and empties the outbox. All have the
// don't-fragment flag: the path's MTU is known.
func (s *sender) writeLocked() {
	b, tx := &s.box, &s.counters.Tx
	for i := 0; i < len(b.messages); {
		n, err := s.socket.WriteBatch(b.messages[i:], true)
		var all load
		for _, l := range b.loads[i : i+n] {
			all.frames += l.frames
			all.bytes += l.bytes
		}
		tx.Add(all.frames, all.bytes)
		tx.AddDatagrams(n)
		s.sent += uint64(n)
		i += n
		if err == nil {
			break
		}
		if i < len(b.messages) {
			i += s.failedLocked(i, err)
		}
	}
	b.messages, b.loads, b.arena = b.messages[:0], b.loads[:0], b.arena[:0]
}

// failedLocked counts what message i's error costs and says how many messages to
// leave out: those behind it that go the same way into the same error. No error
// ends the path: its probes judge it.
func (s *sender) failedLocked(i int, err error) (skip int) {
	b := &s.box
	rest := b.messages[i:]
	why, skip := transport.DropSendError, 1
	switch {
	case errors.Is(err, udp.ErrTooBig):
		why = transport.DropTooBig
		for skip < len(rest) && rest[skip].N >= rest[0].N {
			skip++
		}
		s.refused()
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

// sendItems sends items in a datagram of their own, at once, to the path's address
// and to one more, if that is valid.
func (s *sender) sendItems(items []byte, more netip.AddrPort, moreBy mux.Socket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seal == nil || s.socket == nil {
		return transport.ErrNoPath
	}
	err := s.sendItemsLocked(items, s.to, s.socket)
	if moreBy != nil {
		err = errors.Join(err, s.sendItemsLocked(items, more, moreBy))
	}
	return err
}

func (s *sender) sendItemsLocked(items []byte, to netip.AddrPort, socket mux.Socket) error {
	if size := encap.NativeOverhead + len(items); cap(s.note) < size {
		s.note = make([]byte, 0, size)
	}
	d, err := s.seal.Seal(append(s.note[:encap.NativeHeaderLen], items...))
	if err != nil {
		return err
	}
	n, err := socket.WriteBatch([]udp.Message{{Buf: d, N: len(d), Addr: to}}, true)
	s.counters.Tx.AddDatagrams(n)
	s.sent += uint64(n)
	return err
}
