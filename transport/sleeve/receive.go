package sleeve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
)

// Bounds of one read.
const (
	deliverMax   = 2048      // packets; a batch that grows longer is delivered in parts
	openedMax    = 192 << 10 // bytes that were opened and wait to be delivered; the same
	readErrors   = 100       // in a row, after which the socket is given up
	readErrPause = 10 * time.Millisecond
)

// reader reads one socket and owns the memory of what it reads.
type reader struct {
	t        *Transport
	conn     PacketConn
	messages []udp.Message
	opened   []byte // packets of sealed datagrams of the batch, behind each other
	batch    []frame.Packet
	tally    tally
	verdict  udp.Verdict
	now      time.Time // when the batch was read
}

// tally counts what one path receives, until a datagram of another one comes.
type tally struct {
	p         *path
	datagrams int
	load
}

func newReader(t *Transport, c PacketConn) *reader {
	r := &reader{t: t, conn: c, messages: make([]udp.Message, udp.MaxRead)}
	for i := range r.messages {
		r.messages[i].Buf = make([]byte, udp.MaxDatagram)
	}
	return r
}

// run reads until the socket is closed. Errors that pass are waited out. It keeps
// its thread, as ReadBatch wants it.
func (r *reader) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for failed := 0; ; {
		err := r.read()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			failed = 0
			continue
		case errors.Is(err, net.ErrClosed), failed == readErrors:
			return fmt.Errorf("read sleeve socket %v: %w", r.conn.LocalAddr(), err)
		}
		failed++
		select {
		case <-ctx.Done():
		case <-time.After(readErrPause):
		}
	}
}

// read takes one batch of datagrams and delivers their packets.
func (r *reader) read() error {
	n, err := r.conn.ReadBatch(r.messages)
	if err != nil {
		return err
	}
	r.now = time.Now()
	for i := range r.messages[:n] {
		r.message(&r.messages[i])
	}
	r.flush()
	if r.verdict != (udp.Verdict{}) {
		r.conn.Judge(r.now, r.verdict)
		r.verdict = udp.Verdict{}
	}
	return nil
}

// message takes the datagrams of one message: one, or those of a run.
func (r *reader) message(m *udp.Message) {
	b, run := m.Buf[:m.N], m.Segment > 0 && m.Segment < m.N
	for run && len(b) > m.Segment {
		r.datagram(b[:m.Segment], m.Addr, run)
		b = b[m.Segment:]
	}
	r.datagram(b, m.Addr, run)
}

// flush delivers what has come, and counts it.
func (r *reader) flush() {
	if len(r.batch) > 0 {
		r.t.deliver(r.batch)
		r.batch = r.batch[:0]
	}
	r.opened = r.opened[:0]
	r.settle()
}

// settle adds the tally to its path's counters.
func (r *reader) settle() {
	if r.tally.p != nil {
		rx := &r.tally.p.session.Counters.Rx
		rx.AddDatagrams(r.tally.datagrams)
		rx.Add(r.tally.frames, r.tally.bytes)
		if r.tally.frames > 0 {
			r.tally.p.Busy()
		}
	}
	r.tally = tally{}
}

// datagram finds the path of a datagram by its sender's name and takes its
// packets. run: the kernel left it together with others.
func (r *reader) datagram(b []byte, from netip.AddrPort, run bool) {
	if len(r.batch) >= deliverMax || len(r.opened) >= openedMax {
		r.flush()
	}
	stray := &r.t.stray.Rx
	if len(b) < encap.SleeveNameLen {
		stray.Drop(transport.DropMalformed, 1)
		return
	}
	paths := (*r.t.paths.Load())[frame.PeerNameOf(b)]
	if len(paths) == 0 {
		stray.Drop(transport.DropPeer, 1)
		return
	}
	plain := false
	why := transport.DropAuth
	for _, p := range paths { // newest first
		if p.open == nil {
			plain = true
			continue
		}
		packets, err := r.unseal(p, b)
		if err == nil {
			p.Alive(r.now)
			r.judge(p, from, run, true)
			r.packets(p, packets, from)
			return
		}
		if errors.Is(err, encap.ErrReplay) {
			why = transport.DropReplay
			break
		}
	}
	if plain {
		r.plain(paths, b[encap.SleeveNameLen:], from)
		return
	}
	if why == transport.DropAuth {
		r.judge(paths[0], from, run, false)
	}
	paths[0].session.Counters.Rx.Drop(why, 1)
}

// judge notes for the socket whether a sealed datagram of the neighbour was
// intact. What comes from elsewhere says nothing: anybody may have sent it.
func (r *reader) judge(p *path, from netip.AddrPort, run, passed bool) {
	if !p.confirmed(from) {
		return
	}
	v := &r.verdict
	switch {
	case run && passed:
		v.RunPassed++
	case run:
		v.RunFailed++
	case passed:
		v.SinglePassed++
	default:
		v.SingleFailed++
	}
}

// unseal opens a datagram under the key of p. The packets stay valid for the
// batch.
func (r *reader) unseal(p *path, b []byte) ([]byte, error) {
	if cap(r.opened)-len(r.opened) < len(b) {
		// What was opened before keeps the old memory alive.
		r.opened = make([]byte, 0, max(2*cap(r.opened), udp.MaxDatagram))
	}
	start := len(r.opened)
	opened, err := p.unseal(r.opened, b)
	if err != nil {
		return nil, err
	}
	r.opened = opened
	return opened[start:], nil
}

// packets takes the packets of a datagram, which belong to p, and reports whether
// one of them was good.
func (r *reader) packets(p *path, b []byte, from netip.AddrPort) (good bool) {
	if r.tally.p != p {
		r.settle()
		r.tally.p = p
	}
	packets := encap.NewSleeveReader(b)
	var got load
	for {
		pk, ok := packets.Next()
		if !ok {
			break
		}
		kind, ok := r.sort(p, pk)
		switch {
		case !ok:
		case kind == notSpecial:
			r.batch = append(r.batch, pk)
			got.frames++
			got.bytes += len(pk.Frame.Data)
		default:
			good = p.special(r.now, kind, pk.Frame.Data, from) || good
		}
	}
	r.tally.datagrams++
	r.tally.frames += got.frames
	r.tally.bytes += got.bytes
	if packets.Err() != nil {
		p.session.Counters.Rx.Drop(transport.DropMalformed, 1)
	}
	return good || got.frames > 0
}

// sort tells a packet's kind, and false where it is to be dropped, which it
// counts: too short, or special but not from this neighbour to us.
func (r *reader) sort(p *path, pk frame.Packet) (special, bool) {
	rx := &p.session.Counters.Rx
	if len(pk.Frame.Data) < frame.HeaderLen {
		rx.Drop(transport.DropMalformed, 1)
		return notSpecial, false
	}
	kind := classify(pk.Frame.Data, p.session.Native)
	if kind != notSpecial && (pk.Src != p.session.Remote.Name || pk.Dst != r.t.local) {
		rx.Drop(transport.DropPeer, 1)
		return kind, false
	}
	return kind, true
}

// plain takes a datagram that nothing authenticates but what it says of itself: a
// heartbeat or probe counts if it has the connection UID of a path, from
// wherever it comes; all else only from the address that such a one came from
// last (weave protocol, section 9.2).
func (r *reader) plain(paths []*path, b []byte, from netip.AddrPort) {
	if p := pathByUID(paths, b); p != nil {
		f := b[encap.SleevePacketHeader:]
		p.special(r.now, classify(f, p.session.Native), f, from)
		p.session.Counters.Rx.AddDatagrams(1)
		return
	}
	for _, p := range paths {
		if p.open == nil && p.confirmed(from) {
			// What a restarted neighbour says at its old address is not good here.
			if r.packets(p, b, from) {
				p.Alive(r.now)
			}
			return
		}
	}
	newestPlain(paths).session.Counters.Rx.Drop(transport.DropSource, 1)
}

// pathByUID finds the plain path whose neighbour sent a datagram that is nothing
// but a heartbeat or probe with the path's connection UID.
func pathByUID(paths []*path, b []byte) *path {
	packets := encap.NewSleeveReader(b)
	pk, ok := packets.Next()
	if !ok || len(b) != encap.SleevePacketHeader+len(pk.Frame.Data) || len(pk.Frame.Data) < frame.HeaderLen {
		return nil
	}
	for _, p := range paths {
		if p.open != nil || pk.Src != p.session.Remote.Name || pk.Dst != p.t.local {
			continue
		}
		if uid, ok := frameUID(pk.Frame.Data, p.session.Native); ok && uid == p.session.UID {
			return p
		}
	}
	return nil
}

// frameUID reads the connection UID of a special frame that has one.
func frameUID(b []byte, native bool) (uint64, bool) {
	switch classify(b, native) {
	case specialHeartbeat:
		return binary.BigEndian.Uint64(b[uidAt:]), true
	case specialProbe, specialReply:
		return readProbe(b).uid, true
	}
	return 0, false
}

func newestPlain(paths []*path) *path {
	for _, p := range paths {
		if p.open == nil {
			return p
		}
	}
	return nil
}
