package routing

import (
	"meshd/internal/frame"
)

// answer tells the sender of a packet that it is too big for a path of the given
// MTU, the largest inner IP packet in bytes: an ICMP answer that travels as a
// packet from p's destination back to its source (weave protocol, section 6.8).
// Only IPv4 with the don't-fragment flag and IPv6 are answered.
func (b *batch) answer(p frame.Packet, mtu int) {
	f := b.forwarder
	from := len(b.answers)
	made, ok := frame.AppendFragNeeded(b.answers, p.Frame.Data, mtu)
	if !ok {
		made, ok = frame.AppendPacketTooBig(b.answers, p.Frame.Data, mtu)
	}
	if !ok || !f.answers.AllowN(b.now, 1) {
		return
	}
	// Where append moved the bytes, answers already in toPort keep the old ones.
	b.answers = made
	reply := frame.Packet{Src: p.Dst, Dst: p.Src, Frame: frame.Frame{Data: made[from:]}}
	if reply.Dst == f.self {
		b.toPort = append(b.toPort, reply.Frame)
		b.tally.add(answered, len(reply.Frame.Data))
		return
	}
	to, ok := b.fib.peer(reply.Dst)
	if !ok || b.fib.unicast[to] == noSlot {
		return
	}
	if b.send(b.fib.unicast[to], reply) == nil {
		b.tally.add(answered, len(reply.Frame.Data))
	}
}
