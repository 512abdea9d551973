package routing

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"meshd/internal/frame"
	"meshd/transport"
)

// Port is our end on the bridge.
type Port interface {
	// Write puts frames on the bridge and returns how many it took. frames is
	// borrowed.
	Write(frames []frame.Frame) (int, error)
}

// Config sets up a Forwarder.
type Config struct {
	Self frame.PeerName
	Port Port
	MACs *MACTable
	// Local is offered the packets for ourselves that carry EtherTypeLocal, before
	// anything is learned from them. What it takes (true) is seen by nobody else.
	// The packet is borrowed; concurrent calls happen. It may call Originate. nil:
	// they are frames like all others.
	Local func(p frame.Packet) bool
	Log   *slog.Logger     // nil: slog.Default
	Now   func() time.Time // nil: time.Now; called once per batch
}

// Forwarder passes frames between the port and the neighbours (weave protocol,
// sections 6.9 and 6.10). All methods may be called concurrently.
//
// It works in batches: all neighbours that got something from a batch are
// flushed once at its end, and what the port gets is written in one go. Nothing
// is queued beyond the call, and nothing is allocated for a frame.
type Forwarder struct {
	self     frame.PeerName
	port     Port
	macs     *MACTable
	local    func(p frame.Packet) bool
	log      *slog.Logger
	now      func() time.Time
	fib      atomic.Pointer[FIB]
	batches  sync.Pool // of *batch
	counters counters
	answers  *rate.Limiter // of ICMP answers
	warnings *rate.Limiter // of log lines that frames cause
}

// Limits of what others can make us say.
const (
	answersPerSecond  = 100
	answersBurst      = 50
	warningsPerSecond = 0.1
	warningsBurst     = 5
)

// EtherTypeLocal is the type of frames that peers exchange among themselves: Local
// Experimental EtherType 1 of IEEE Std 802. Others may use it too, so what is ours
// shows in the payload.
const EtherTypeLocal = 0x88b5

// ErrNoRoute is what Originate returns where no usable connection leads to a
// packet's destination.
var ErrNoRoute = errors.New("no connection leads to the peer")

// spanningTree is the group address that bridges speak to each other by.
var spanningTree = frame.MAC{0x01, 0x80, 0xc2}

// NewForwarder returns a forwarder that knows no peer but ourselves until SetFIB.
func NewForwarder(cfg Config) *Forwarder {
	f := &Forwarder{
		self:     cfg.Self,
		port:     cfg.Port,
		macs:     cfg.MACs,
		local:    cfg.Local,
		log:      cfg.Log,
		now:      cfg.Now,
		answers:  rate.NewLimiter(answersPerSecond, answersBurst),
		warnings: rate.NewLimiter(warningsPerSecond, warningsBurst),
	}
	if f.log == nil {
		f.log = slog.Default()
	}
	if f.now == nil {
		f.now = time.Now
	}
	f.batches.New = func() any { return &batch{forwarder: f} }
	f.SetFIB(NewFIB(NewTopology(Peer{Name: cfg.Self}, nil), nil))
	return f
}

// SetFIB puts a new FIB in force for the batches that begin from now on.
func (f *Forwarder) SetFIB(fib *FIB) { f.fib.Store(fib) }

// FIB returns the FIB in force.
func (f *Forwarder) FIB() *FIB { return f.fib.Load() }

// Stats reads the counters.
func (f *Forwarder) Stats() Stats { return f.counters.stats() }

// FromPort passes on frames that the port read from the bridge. frames is
// borrowed: valid until FromPort returns.
func (f *Forwarder) FromPort(frames []frame.Frame) {
	b := f.begin(f.FIB())
	for i := range frames {
		b.tally.add(fromPort, len(frames[i].Data))
		if why, ok := b.fromPort(frames[i]); !ok {
			b.tally.drops[why]++
		}
	}
	b.end()
}

// FromLinks passes on packets that transports received. packets is borrowed:
// valid until FromLinks returns. It is a frame.Handler.
func (f *Forwarder) FromLinks(packets []frame.Packet) {
	b := f.begin(f.FIB())
	for i := range packets {
		b.tally.add(fromLinks, len(packets[i].Frame.Data))
		if why, ok := b.fromLinks(packets[i]); !ok {
			b.tally.drops[why]++
		}
	}
	b.end()
}

// Originate sends packets of our own, which need no host's addresses, each to its
// Dst by the FIB, and flushes. It returns how many the neighbours' paths took and,
// where that is not all, why the last of the others was not: ErrNoRoute, or an
// error of the path, such as a *transport.TooBigError. Nobody is answered. packets
// is borrowed.
func (f *Forwarder) Originate(packets []frame.Packet) (sentPackets int, err error) {
	return f.OriginateBy(f.FIB(), packets)
}

// OriginateBy is Originate by a FIB that was in force a moment ago, for who has
// said by which way the packets go.
func (f *Forwarder) OriginateBy(fib *FIB, packets []frame.Packet) (sentPackets int, err error) {
	b := f.begin(fib)
	for i := range packets {
		p := &packets[i]
		to, ok := b.fib.peer(p.Dst)
		if !ok || b.fib.unicast[to] == noSlot {
			b.tally.drops[DropNoRoute]++
			err = ErrNoRoute
			continue
		}
		if e := b.send(b.fib.unicast[to], *p); e != nil {
			b.tally.drops[refusal(e)]++
			err = e
			continue
		}
		b.tally.add(sent, len(p.Frame.Data))
		sentPackets++
	}
	b.end()
	return sentPackets, err
}

// batch is the state of one call.
type batch struct {
	forwarder *Forwarder
	fib       *FIB
	now       time.Time
	touched   []int32 // places of the neighbours to flush
	marked    []bool  // by place: is in touched
	toPort    []frame.Frame
	answers   []byte // bytes of the answers in toPort
	tally     tally
	// What the MAC table said last: a batch is mostly one flow, and this spares it
	// the locks. Zero addresses are none.
	learned   frame.MAC
	learnedAt frame.PeerName
	found     frame.MAC
	foundAt   frame.PeerName
}

func (f *Forwarder) begin(fib *FIB) *batch {
	b := f.batches.Get().(*batch)
	b.fib, b.now = fib, f.now()
	if n := len(b.fib.neighbours); n > len(b.marked) {
		b.marked = make([]bool, n)
	}
	return b
}

// end writes what is for the port, flushes the neighbours that got something,
// and gives the batch back without a reference to what was borrowed.
func (b *batch) end() {
	f := b.forwarder
	if len(b.toPort) > 0 {
		// The port reports its own errors; what it did not take counts here.
		n, _ := f.port.Write(b.toPort)
		n = min(max(n, 0), len(b.toPort))
		for _, fr := range b.toPort[:n] {
			b.tally.add(toPort, len(fr.Data))
		}
		b.tally.drops[DropPort] += uint64(len(b.toPort) - n)
	}
	for _, place := range b.touched {
		b.marked[place] = false
		_ = b.fib.neighbours[place].sender.Flush() // counted by the path
	}
	f.counters.take(&b.tally)
	clear(b.toPort)
	b.toPort, b.touched, b.answers, b.fib = b.toPort[:0], b.touched[:0], b.answers[:0], nil
	b.learned, b.found = frame.MAC{}, frame.MAC{}
	f.batches.Put(b)
}

// fromPort handles one frame from the bridge (section 6.10).
func (b *batch) fromPort(fr frame.Frame) (why Drop, ok bool) {
	f := b.forwarder
	dst, src, why, ok := addresses(fr.Data)
	if !ok {
		return why, false
	}
	if dst == spanningTree {
		return DropSTP, false
	}
	if b.learn(src, f.self, fr.Data) == Conflict {
		return DropMACConflict, false
	}
	peer, known := b.lookup(dst)
	switch {
	case !known:
		b.flood(frame.Packet{Src: f.self, Frame: fr}, b.fib.graph.self)
		return 0, true
	case peer == f.self:
		b.tally.add(local, len(fr.Data))
		return 0, true
	}
	to, ok := b.fib.peer(peer)
	if !ok {
		return DropUnknownPeer, false
	}
	return b.unicast(frame.Packet{Src: f.self, Dst: peer, Frame: fr}, to, sent)
}

// fromLinks handles one packet from a neighbour (section 6.9, steps 3 to 5).
func (b *batch) fromLinks(p frame.Packet) (why Drop, ok bool) {
	dst, src, why, ok := addresses(p.Frame.Data)
	if !ok {
		return why, false
	}
	self := b.forwarder.self
	if p.Src == self {
		return DropOwnSource, false
	}
	from, ok := b.fib.peer(p.Src)
	if !ok {
		return DropUnknownPeer, false
	}
	to, ok := b.fib.peer(p.Dst)
	if !ok {
		return DropUnknownPeer, false
	}
	if p.Dst != self {
		if !hop(&p) {
			return DropHops, false
		}
		return b.unicast(p, to, relayed)
	}
	if f := b.forwarder; f.local != nil && isLocal(p.Frame.Data) && f.local(p) {
		return 0, true
	}
	if b.learn(src, p.Src, p.Frame.Data) == Conflict {
		return DropMACConflict, false
	}
	b.toPort = append(b.toPort, p.Frame)
	if peer, known := b.lookup(dst); !known || peer != self {
		if !hop(&p) {
			return DropHops, len(b.fib.flood(from)) == 0
		}
		b.flood(p, from)
	}
	return 0, true
}

// hop takes one from the hop limit of a packet that is to be passed on, and
// reports whether it may be. Topology gossip takes time to reach everybody, and
// hosts that disagree on the routes may send packets round in circles meanwhile:
// the limit is what ends that. A packet without one came over weave's sleeve,
// which has no room for it.
func hop(p *frame.Packet) bool {
	if p.Hops == 1 {
		return false
	}
	if p.Hops != 0 {
		p.Hops--
	}
	return true
}

// isLocal reports whether a frame of at least HeaderLen bytes has EtherTypeLocal.
func isLocal(data []byte) bool {
	return binary.BigEndian.Uint16(data[frame.HeaderLen-2:]) == EtherTypeLocal
}

// addresses reads the MAC addresses of a frame. A source that is no host's
// address is refused; that includes the zero headers of sleeve's special frames,
// which are never passed on.
func addresses(data []byte) (dst, src frame.MAC, why Drop, ok bool) {
	if len(data) < frame.HeaderLen {
		return dst, src, DropShort, false
	}
	dst, src = frame.Dst(data), frame.Src(data)
	if src.Multicast() || src == (frame.MAC{}) {
		return dst, src, DropBadSource, false
	}
	return dst, src, 0, true
}

// learn tells the MAC table where a frame comes from.
func (b *batch) learn(src frame.MAC, peer frame.PeerName, data []byte) Verdict {
	announce := announces(data)
	if src == b.learned && peer == b.learnedAt && !announce {
		return Known
	}
	f := b.forwarder
	v := f.macs.Learn(src, peer, announce, b.now)
	switch v {
	case Known:
		b.learned, b.learnedAt = src, peer
	case Flapping:
		if f.warnings.AllowN(b.now, 1) {
			f.log.Warn("MAC address flaps between peers", "mac", src, "peer", peer)
		}
		fallthrough
	case Learned, Moved:
		b.learned, b.learnedAt = src, peer
		b.found = frame.MAC{} // it may have been this one
	}
	return v
}

// lookup returns the peer behind a destination; group addresses are behind none.
func (b *batch) lookup(dst frame.MAC) (frame.PeerName, bool) {
	if dst.Multicast() {
		return 0, false
	}
	if dst == b.found && dst != (frame.MAC{}) {
		return b.foundAt, true
	}
	peer, ok := b.forwarder.macs.Lookup(dst)
	if ok {
		b.found, b.foundAt = dst, peer
	}
	return peer, ok
}

// unicast sends a packet towards its destination, the peer with the number to.
func (b *batch) unicast(p frame.Packet, to int32, way flow) (why Drop, ok bool) {
	place := b.fib.unicast[to]
	if place == noSlot {
		return DropNoRoute, false
	}
	err := b.send(place, p)
	if err == nil {
		b.tally.add(way, len(p.Frame.Data))
		return 0, true
	}
	if tooBig, is := errors.AsType[*transport.TooBigError](err); is {
		b.answer(p, tooBig.MTU)
	}
	return refusal(err), false
}

// flood sends a copy of a packet to each neighbour that source's frames are
// passed to. Copies that are too big are dropped without an answer (section 6.8).
func (b *batch) flood(p frame.Packet, source int32) {
	for _, place := range b.fib.flood(source) {
		p.Dst = b.fib.neighbours[place].name
		if err := b.send(place, p); err != nil {
			b.tally.drops[refusal(err)]++
			continue
		}
		b.tally.add(flooded, len(p.Frame.Data))
	}
}

func (b *batch) send(place int32, p frame.Packet) error {
	if !b.marked[place] {
		b.marked[place] = true
		b.touched = append(b.touched, place)
	}
	return b.fib.neighbours[place].sender.Send(p)
}

// refusal says why a sender did not take a packet.
func refusal(err error) Drop {
	if _, tooBig := errors.AsType[*transport.TooBigError](err); tooBig {
		return DropTooBig
	}
	if errors.Is(err, transport.ErrNoPath) {
		return DropNoPath
	}
	return DropSend
}
