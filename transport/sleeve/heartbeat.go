package sleeve

import (
	"encoding/binary"
	"net/netip"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
)

// Intervals of heartbeats (weave protocol, section 6.6). Between meshd peers the
// first ones come faster: they are lost while the other end is not ready.
const (
	heartbeatFast  = 500 * time.Millisecond
	heartbeatSlow  = 10 * time.Second
	heartbeatEager = 100 * time.Millisecond
	eagerFor       = time.Second
)

// heartbeatLocked orders a heartbeat where one is due.
func (p *path) heartbeatLocked(now time.Time, o *orders) {
	if p.conn == nil || now.Before(p.heartbeatAt) {
		return
	}
	o.heartbeat = true
	p.heartbeatAt = now.Add(p.heartbeatEveryLocked(now))
}

func (p *path) heartbeatEveryLocked(now time.Time) time.Duration {
	switch {
	case p.established:
		return heartbeatSlow
	case p.session.Native && now.Sub(p.begun) < eagerFor:
		return heartbeatEager
	}
	return heartbeatFast
}

// special takes a special frame of the neighbour to us, and reports whether it
// was valid. A sealed one is authentic; a plain one is from the confirmed address
// or has the connection UID.
func (p *path) special(now time.Time, kind special, b []byte, from netip.AddrPort) bool {
	if uid, ok := frameUID(b, p.session.Native); ok && uid != p.session.UID {
		p.session.Counters.Rx.Drop(transport.DropAuth, 1)
		return false
	}
	switch kind {
	case specialHeartbeat:
		p.contact(now, from)
	case specialProbe:
		p.contact(now, from)
		p.reply(now, readProbe(b))
	case specialReply:
		p.contact(now, from)
		p.replied(now, readProbe(b))
	case specialFragTest:
		if !allZero(b) {
			p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
			return false
		}
		p.answer(now, tagFragTest, nil)
	case specialMTUTest:
		p.answer(now, tagMTU, binary.BigEndian.AppendUint16(nil, uint16(len(b)-frame.HeaderLen)))
	}
	return true
}

// contact notes a heartbeat or probe of this connection: where the neighbour is
// now, and, the first time, that it reaches us.
func (p *path) contact(now time.Time, from netip.AddrPort) {
	p.Alive(now)
	p.mu.Lock()
	was := p.addr
	moved := p.followLocked(now, from)
	first := !p.seen
	p.seen = true
	p.mu.Unlock()
	if moved {
		p.log.Debug("neighbour's address", "addr", from, "was", was)
	}
	if first {
		// An error means that the control connection is gone; Done tells Run.
		_ = p.session.SendControl(tagEstablished, nil)
	}
	if first || moved {
		p.Rouse()
	}
}

// followLocked makes from the neighbour's address, unless it moves too often.
func (p *path) followLocked(now time.Time, from netip.AddrPort) (moved bool) {
	if p.confirmed(from) {
		return false
	}
	if p.addr != from {
		if p.addr.IsValid() && p.seen && !p.session.Counters.Rx.Within(now, p.moves) {
			return false
		}
		p.addr, p.conn = from, p.t.conn(from)
		if !p.home.IsValid() {
			p.home = from
		}
		p.stale.Store(true)
		p.PMTU.Suspect(now)
		p.tx.route(p.addr, p.conn, p.mtuLocked())
		moved = true
	}
	p.from.Store(&from)
	return moved
}

// answer sends a control message about a test, unless there are too many.
func (p *path) answer(now time.Time, tag byte, msg []byte) {
	if p.session.Counters.Rx.Within(now, p.answers) {
		_ = p.session.SendControl(tag, msg) // as in contact
	}
}

// sendSpecial sends a special frame in a datagram of its own, at once.
func (p *path) sendSpecial(b []byte, df bool) {
	p.mu.Lock()
	to, conn := p.addr, p.conn
	p.mu.Unlock()
	p.sendSpecialTo(to, conn, b, df)
}

// sendSpecialTo is sendSpecial to an address that need not be the path's.
func (p *path) sendSpecialTo(to netip.AddrPort, conn PacketConn, b []byte, df bool) {
	if conn == nil {
		return
	}
	size := p.tx.base() + encap.SleevePacketHeader + len(b)
	datagram := make([]byte, 0, size)
	if p.tx.seal != nil {
		packets := encap.AppendSleevePacket(make([]byte, 0, size), p.t.local, p.session.Remote.Name, b)
		datagram = p.tx.seal.Seal(datagram, p.t.local, packets, df)
	} else {
		datagram = encap.AppendSleeveName(datagram, p.t.local)
		datagram = encap.AppendSleevePacket(datagram, p.t.local, p.session.Remote.Name, b)
	}
	n, err := conn.WriteBatch([]udp.Message{{Buf: datagram, N: len(datagram), Addr: to}}, df)
	p.session.Counters.Tx.AddDatagrams(n)
	if err != nil && df {
		p.stale.Store(true) // too big, or the route has gone: look at it
		p.Rouse()
	}
}
