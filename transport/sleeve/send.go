package sleeve

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
)

// arenaSize is how many bytes of finished datagrams an outbox holds: 64 of an
// Ethernet's size, or one of the largest with some others.
const arenaSize = 160 << 10

// ipv6Min is the MTU that IPv6 asks of every link.
const ipv6Min = 1280

// outbox collects the datagrams of one class (weave protocol, section 6.8) until
// they are flushed.
//
//	arena     [ datagram | datagram | datagram ] ▒▒▒ free ▒▒▒
//	                                  ▲ being filled, if plain
//	packets   [ packet | packet ]  being filled, if sealed: it goes to the
//	                               arena when it is complete
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
	b.messages = make([]udp.Message, 0, udp.MaxBatch)
	b.loads = make([]load, 0, udp.MaxBatch)
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
	scratch  []byte // a fragment of an inner packet
	fragment frame.Packet
	emit     func(b []byte)
}

func (s *sender) init() {
	s.df.df = true
	s.emit = func(b []byte) {
		p := s.fragment
		p.Frame.Data = b
		s.putLocked(&s.df, p)
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

// send takes one packet (weave protocol, section 6.8).
func (s *sender) send(p frame.Packet) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := p.Frame.Data
	switch {
	case s.conn == nil:
		s.counters.Tx.Drop(transport.DropNoPath, 1)
		return transport.ErrNoPath
	case p.Frame.Offload != frame.Offload{}, len(data) < frame.HeaderLen,
		[frame.HeaderLen]byte(data) == [frame.HeaderLen]byte{}:
		// The last would be taken for a special frame.
		s.counters.Tx.Drop(transport.DropMalformed, 1)
		return nil
	case len(data) > encap.MaxDatagram-s.base()-encap.SleevePacketHeader:
		s.counters.Tx.Drop(transport.DropTooBig, 1)
		return nil
	}
	return s.sendLocked(p)
}

func (s *sender) sendLocked(p frame.Packet) error {
	c := frame.Classify(p.Frame.Data)
	big := len(p.Frame.Data) > s.mtu+frame.HeaderLen
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
		if big && len(p.Frame.Data) > c.L3+ipv6Min {
			return s.tooBigLocked(c)
		}
	}
	s.putLocked(box, p)
	return nil
}

func (s *sender) tooBigLocked(c frame.Class) error {
	s.counters.Tx.Drop(transport.DropTooBig, 1)
	tags := (c.L3 - frame.HeaderLen) / frame.VLANTagLen
	return s.tooBig[min(tags, len(s.tooBig)-1)]
}

// splitLocked sends an inner IPv4 packet in fragments.
func (s *sender) splitLocked(p frame.Packet) error {
	if cap(s.scratch) < s.mtu+frame.HeaderLen {
		s.scratch = make([]byte, 0, s.mtu+frame.HeaderLen)
	}
	s.fragment = p
	err := frame.FragmentIPv4(p.Frame.Data, s.mtu, s.scratch, s.emit)
	s.fragment.Frame.Data = nil
	if err != nil {
		s.counters.Tx.Drop(transport.DropMalformed, 1)
	}
	return nil
}

// putLocked puts a packet into a class's datagram, and begins the next one where
// it does not fit.
func (s *sender) putLocked(b *outbox, p frame.Packet) {
	if b.arena == nil {
		b.init(s.seal != nil)
	}
	need := encap.SleevePacketHeader + len(p.Frame.Data)
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
	if s.seal != nil {
		b.packets = encap.AppendSleevePacket(b.packets, p.Src, p.Dst, p.Frame.Data)
	} else {
		if b.open.frames == 0 {
			b.arena = encap.AppendSleeveName(b.arena, s.t.local)
		}
		b.arena = encap.AppendSleevePacket(b.arena, p.Src, p.Dst, p.Frame.Data)
	}
	b.size = grown
	b.open.frames++
	b.open.bytes += len(p.Frame.Data)
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
		for _, l := range b.loads[i : i+n] {
			tx.Add(l.frames, l.bytes)
		}
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
	why, skip := transport.DropSendError, 1
	switch {
	case errors.Is(err, udp.ErrTooBig):
		why = transport.DropTooBig
		if b.df {
			s.refused()
		}
	case errors.Is(err, udp.ErrFull):
		why, skip = transport.DropQueueFull, len(b.messages)-i
	case errors.Is(err, net.ErrClosed):
		skip = len(b.messages) - i
	}
	for _, l := range b.loads[i : i+skip] {
		s.counters.Tx.Drop(why, l.frames)
	}
	return skip
}
