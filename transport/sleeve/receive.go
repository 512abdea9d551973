package sleeve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
)

// Bounds of one read.
const (
	readSize     = 1 << 16 // bytes, more than any datagram
	deliverMax   = 2048    // packets; a batch that grows longer is delivered in parts
	readErrors   = 100     // in a row, after which the socket is given up
	readErrPause = 10 * time.Millisecond
)

// reader reads one socket and owns the memory of what it reads.
type reader struct {
	t        *Transport
	conn     PacketConn
	messages []udp.Message
	opened   []byte // packets of sealed datagrams of the batch, behind each other
	batch    []frame.Packet
	now      time.Time // when the batch was read
}

func newReader(t *Transport, c PacketConn) *reader {
	r := &reader{t: t, conn: c, messages: make([]udp.Message, udp.MaxBatch)}
	for i := range r.messages {
		r.messages[i].Buf = make([]byte, readSize)
	}
	return r
}

// run reads until the socket is closed. Errors that pass are waited out.
func (r *reader) run(ctx context.Context) error {
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
	r.opened = r.opened[:0]
	for _, m := range r.messages[:n] {
		r.datagram(m.Buf[:m.N], m.Addr)
		if len(r.batch) >= deliverMax {
			r.flush()
		}
	}
	r.flush()
	return nil
}

func (r *reader) flush() {
	if len(r.batch) > 0 {
		r.t.deliver(r.batch)
		r.batch = r.batch[:0]
	}
}

// datagram finds the path of a datagram by its sender's name and takes its
// packets.
func (r *reader) datagram(b []byte, from netip.AddrPort) {
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
			p.alive(r.now)
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
	paths[0].session.Counters.Rx.Drop(why, 1)
}

// unseal opens a datagram under the key of p. The packets stay valid for the
// batch.
func (r *reader) unseal(p *path, b []byte) ([]byte, error) {
	if cap(r.opened)-len(r.opened) < len(b) {
		// What was opened before keeps the old memory alive.
		r.opened = make([]byte, 0, max(2*cap(r.opened), readSize))
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
	rx := &p.session.Counters.Rx
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
	rx.AddDatagrams(1)
	rx.Add(got.frames, got.bytes)
	if packets.Err() != nil {
		rx.Drop(transport.DropMalformed, 1)
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
				p.alive(r.now)
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
