package routing

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

// rig is a forwarder in the middle of a small mesh:
//
//	bridge ── a ── b ── d
//	          │
//	          c        e is known, but nobody leads there
type rig struct {
	*Forwarder
	port          *memoryPort
	macs          *MACTable
	toB, toC      *recorder
	a, b, c, d, e frame.PeerName
	now           time.Time
	logged        bytes.Buffer
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		port: &memoryPort{}, toB: &recorder{}, toC: &recorder{}, now: start,
		a: peerName(1), b: peerName(2), c: peerName(3), d: peerName(4), e: peerName(5),
	}
	r.macs = NewMACTable(MACConfig{Self: r.a})
	r.Forwarder = NewForwarder(Config{
		Self: r.a, Port: r.port, MACs: r.macs,
		Log: slog.New(slog.NewTextHandler(&r.logged, nil)),
		Now: func() time.Time { return r.now },
	})
	top := topologyOf(r.a, []Peer{
		{Name: r.a, UID: 1, Version: 1, Connections: both(r.b, r.c)},
		{Name: r.b, UID: 2, Version: 1, Connections: both(r.a, r.d)},
		{Name: r.c, UID: 3, Version: 1, Connections: both(r.a)},
		{Name: r.d, UID: 4, Version: 1, Connections: both(r.b, r.e)},
		{Name: r.e, UID: 5, Version: 1},
	})
	r.SetFIB(NewFIB(top, map[frame.PeerName]transport.Sender{r.b: r.toB, r.c: r.toC}))
	return r
}

// A host is behind each peer: hostMAC(1) at a and so on; hostMAC(9) nowhere.
func (r *rig) learnAll() {
	for i, p := range []frame.PeerName{r.a, r.b, r.c, r.d, r.e} {
		r.macs.Learn(hostMAC(i+1), p, false, r.now)
	}
}

// text builds a frame with a payload to recognise it by.
func text(dst, src frame.MAC, payload string) frame.Frame {
	return ethernet(dst, src, 0x88b5, []byte(payload)...)
}

func packet(src, dst frame.PeerName, f frame.Frame) frame.Packet {
	return frame.Packet{Src: src, Dst: dst, Frame: f}
}

// wantPackets checks what a neighbour got, in order, and that it was flushed once
// if anything.
func wantPackets(t *testing.T, to string, r *recorder, want ...frame.Packet) {
	t.Helper()
	got, flushes := r.take()
	if !slices.EqualFunc(got, want, samePacket) {
		t.Errorf("%s got %v, want %v", to, got, want)
	}
	if n := min(len(want), 1); flushes != n {
		t.Errorf("%s was flushed %d times, want %d", to, flushes, n)
	}
}

func samePacket(a, b frame.Packet) bool {
	return a.Src == b.Src && a.Dst == b.Dst && a.Hops == b.Hops && bytes.Equal(a.Frame.Data, b.Frame.Data) && a.Frame.Offload == b.Frame.Offload
}

func wantPort(t *testing.T, p *memoryPort, want ...frame.Frame) {
	t.Helper()
	got, writes := p.take()
	if !slices.EqualFunc(got, want, func(a, b frame.Frame) bool {
		return bytes.Equal(a.Data, b.Data) && a.Offload == b.Offload
	}) {
		t.Errorf("port got %v, want %v", got, want)
	}
	if n := min(len(want), 1); writes != n {
		t.Errorf("port was written to %d times, want %d", writes, n)
	}
}

func wantDrops(t *testing.T, f *Forwarder, want map[Drop]uint64) {
	t.Helper()
	got := f.Stats().Drops
	if len(got) != int(dropCount) {
		t.Errorf("%d reasons are counted, want %d", len(got), dropCount)
	}
	for d := range dropCount {
		if got[d.String()] != want[d] {
			t.Errorf("drops for %v = %d, want %d", d, got[d.String()], want[d])
		}
	}
}

func TestFromPort(t *testing.T) {
	here, atB, atD := hostMAC(1), hostMAC(2), hostMAC(4)
	multicast := frame.MAC{0x01, 0x00, 0x5e, 0, 0, 1}
	tests := []struct {
		name     string
		f        frame.Frame
		toB, toC frame.PeerName // destination peer; 0: nothing
		drop     Drop
		dropped  bool
	}{
		{name: "known at a neighbour", f: text(atB, here, "x"), toB: peerName(2)},
		{name: "known behind a neighbour", f: text(atD, here, "x"), toB: peerName(4)},
		{name: "unknown: flooded", f: text(hostMAC(9), here, "x"), toB: peerName(2), toC: peerName(3)},
		{name: "broadcast", f: text(broadcastMAC, here, "x"), toB: peerName(2), toC: peerName(3)},
		{name: "multicast", f: text(multicast, here, "x"), toB: peerName(2), toC: peerName(3)},
		{name: "link-local multicast other than spanning tree", f: text(frame.MAC{1, 0x80, 0xc2, 0, 0, 0x0e}, here, "x"), toB: peerName(2), toC: peerName(3)},
		{name: "header alone", f: ethernet(atB, here, 0x0800), toB: peerName(2)},
		{name: "spanning tree", f: text(spanningTree, here, "x"), drop: DropSTP, dropped: true},
		{name: "short", f: frame.Frame{Data: make([]byte, 13)}, drop: DropShort, dropped: true},
		{name: "empty", f: frame.Frame{}, drop: DropShort, dropped: true},
		{name: "zero header", f: frame.Frame{Data: make([]byte, 22)}, drop: DropBadSource, dropped: true},
		{name: "source is a group", f: text(atB, multicast, "x"), drop: DropBadSource, dropped: true},
		{name: "source is at another peer", f: text(hostMAC(1), atB, "x"), drop: DropMACConflict, dropped: true},
		{name: "known on our side", f: text(here, hostMAC(8), "x")},
		{name: "nobody leads there", f: text(hostMAC(5), here, "x"), drop: DropNoRoute, dropped: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.learnAll()
			r.FromPort([]frame.Frame{tt.f})
			var toB, toC []frame.Packet
			if tt.toB != 0 {
				toB = append(toB, packet(r.a, tt.toB, tt.f))
			}
			if tt.toC != 0 {
				toC = append(toC, packet(r.a, tt.toC, tt.f))
			}
			wantPackets(t, "b", r.toB, toB...)
			wantPackets(t, "c", r.toC, toC...)
			wantPort(t, r.port)
			if tt.dropped {
				wantDrops(t, r.Forwarder, map[Drop]uint64{tt.drop: 1})
			} else {
				wantDrops(t, r.Forwarder, nil)
			}
		})
	}
}

func TestFromLinks(t *testing.T) {
	here, atB, atC, atD := hostMAC(1), hostMAC(2), hostMAC(3), hostMAC(4)
	a, b, c, d, e := peerName(1), peerName(2), peerName(3), peerName(4), peerName(5)
	tests := []struct {
		name         string
		p            frame.Packet
		port         bool
		viaB, viaC   frame.PeerName // destination peer of what is passed on
		drop         Drop
		dropped      bool
		learntBehind frame.PeerName // of the source address; 0: not learned
	}{
		{name: "for our host", p: packet(b, a, text(here, hostMAC(7), "x")), port: true, learntBehind: b},
		{name: "broadcast by b: on to c", p: packet(b, a, text(broadcastMAC, hostMAC(7), "x")), port: true, viaC: c, learntBehind: b},
		{name: "broadcast by d: on to c", p: packet(d, a, text(broadcastMAC, hostMAC(7), "x")), port: true, viaC: c, learntBehind: d},
		{name: "broadcast by c: on to b", p: packet(c, a, text(broadcastMAC, hostMAC(7), "x")), port: true, viaB: b, learntBehind: c},
		{name: "to us for an address nobody knows", p: packet(b, a, text(hostMAC(9), hostMAC(7), "x")), port: true, viaC: c, learntBehind: b},
		{name: "to us for an address at another peer", p: packet(c, a, text(atD, hostMAC(7), "x")), port: true, viaB: b, learntBehind: c},
		{name: "relay to a neighbour", p: packet(c, b, text(atB, hostMAC(7), "x")), viaB: b},
		{name: "relay to a peer behind a neighbour", p: packet(c, d, text(atD, hostMAC(7), "x")), viaB: d},
		{name: "relay to c", p: packet(d, c, text(atC, hostMAC(7), "x")), viaC: c},
		{name: "relay of a flooded frame", p: packet(d, c, text(broadcastMAC, hostMAC(7), "x")), viaC: c},
		{name: "no route", p: packet(c, e, text(hostMAC(5), hostMAC(7), "x")), drop: DropNoRoute, dropped: true},
		{name: "unknown source", p: packet(peerName(77), a, text(here, hostMAC(7), "x")), drop: DropUnknownPeer, dropped: true},
		{name: "unknown destination", p: packet(b, peerName(77), text(here, hostMAC(7), "x")), drop: DropUnknownPeer, dropped: true},
		{name: "no peer", p: packet(0, a, text(here, hostMAC(7), "x")), drop: DropUnknownPeer, dropped: true},
		{name: "our own, to us", p: packet(a, a, text(broadcastMAC, hostMAC(7), "x")), drop: DropOwnSource, dropped: true},
		{name: "our own, to another", p: packet(a, c, text(broadcastMAC, hostMAC(7), "x")), drop: DropOwnSource, dropped: true},
		{name: "short", p: packet(b, a, frame.Frame{Data: make([]byte, 13)}), drop: DropShort, dropped: true},
		{name: "special frame to us", p: packet(b, a, frame.Frame{Data: make([]byte, 22)}), drop: DropBadSource, dropped: true},
		{name: "special frame to another", p: packet(c, b, frame.Frame{Data: make([]byte, 100)}), drop: DropBadSource, dropped: true},
		{name: "with an address of ours", p: packet(b, a, text(broadcastMAC, here, "x")), drop: DropMACConflict, dropped: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.learnAll()
			r.FromLinks([]frame.Packet{tt.p})
			var toB, toC []frame.Packet
			if tt.viaB != 0 {
				toB = append(toB, packet(tt.p.Src, tt.viaB, tt.p.Frame))
			}
			if tt.viaC != 0 {
				toC = append(toC, packet(tt.p.Src, tt.viaC, tt.p.Frame))
			}
			wantPackets(t, "b", r.toB, toB...)
			wantPackets(t, "c", r.toC, toC...)
			if tt.port {
				wantPort(t, r.port, tt.p.Frame)
			} else {
				wantPort(t, r.port)
			}
			if got, ok := r.macs.Lookup(hostMAC(7)); got != tt.learntBehind || ok != (tt.learntBehind != 0) {
				t.Errorf("source address is behind %v, %v; want %v", got, ok, tt.learntBehind)
			}
			if tt.dropped {
				wantDrops(t, r.Forwarder, map[Drop]uint64{tt.drop: 1})
			} else {
				wantDrops(t, r.Forwarder, nil)
			}
		})
	}
}

// TestBatch: order is kept, everyone who got something is flushed once, the port
// is written to once, bad frames do not stop good ones.
func TestBatch(t *testing.T) {
	r := newRig(t)
	r.learnAll()
	super := text(hostMAC(1), hostMAC(2), "super")
	super.Offload = frame.Offload{GSOType: 1, GSOSize: 1400, HdrLen: 54}
	flooded := text(broadcastMAC, hostMAC(2), "two")
	r.FromLinks([]frame.Packet{
		packet(r.b, r.a, super),
		packet(r.b, r.a, frame.Frame{Data: []byte("bad")}),
		packet(r.b, r.a, flooded),
		packet(r.c, r.d, text(hostMAC(4), hostMAC(3), "three")),
		packet(r.c, r.b, text(hostMAC(2), hostMAC(3), "four")),
	})
	wantPort(t, r.port, super, flooded)
	wantPackets(t, "c", r.toC, packet(r.b, r.c, flooded))
	wantPackets(t, "b", r.toB,
		packet(r.c, r.d, text(hostMAC(4), hostMAC(3), "three")),
		packet(r.c, r.b, text(hostMAC(2), hostMAC(3), "four")))
	wantDrops(t, r.Forwarder, map[Drop]uint64{DropShort: 1})

	r.FromPort([]frame.Frame{text(broadcastMAC, hostMAC(1), "five"), text(hostMAC(2), hostMAC(1), "six")})
	wantPackets(t, "b", r.toB,
		packet(r.a, r.b, text(broadcastMAC, hostMAC(1), "five")),
		packet(r.a, r.b, text(hostMAC(2), hostMAC(1), "six")))
	wantPackets(t, "c", r.toC, packet(r.a, r.c, text(broadcastMAC, hostMAC(1), "five")))

	st := r.Stats()
	n := func(frames ...frame.Frame) (c Count) {
		for _, f := range frames {
			c.Frames++
			c.Bytes += uint64(len(f.Data))
		}
		return c
	}
	x := func(s string) frame.Frame { return text(broadcastMAC, hostMAC(1), s) }
	want := Stats{
		FromPort: n(x("five"), x("six")), FromLinks: n(super, frame.Frame{Data: []byte("bad")}, flooded, x("three"), x("four")),
		ToPort: n(super, flooded), Sent: n(x("six")), Flooded: n(flooded, x("five"), x("five")),
		Relayed: n(x("three"), x("four")), Drops: st.Drops,
	}
	if fmt.Sprint(st) != fmt.Sprint(want) {
		t.Errorf("Stats = %+v\nwant    %+v", st, want)
	}
	r.FromPort(nil)
	r.FromLinks(nil)
	wantPort(t, r.port)
	wantPackets(t, "b", r.toB)
}

// TestBeforeFIB: a forwarder without a FIB knows nobody and sends nothing.
func TestBeforeFIB(t *testing.T) {
	a, b := peerName(1), peerName(2)
	port := &memoryPort{}
	f := NewForwarder(Config{Self: a, Port: port, MACs: NewMACTable(MACConfig{Self: a})})
	f.FromPort([]frame.Frame{text(broadcastMAC, hostMAC(1), "x")})
	f.FromLinks([]frame.Packet{packet(b, a, text(broadcastMAC, hostMAC(2), "x"))})
	wantPort(t, port)
	wantDrops(t, f, map[Drop]uint64{DropUnknownPeer: 1})
	for dest, via := range f.FIB().Unicast() {
		if dest != a || via != 0 {
			t.Errorf("route to %v via %v, want ourselves alone", dest, via)
		}
	}
}

// TestPeerLeft: an address behind a peer that is no longer known.
func TestPeerLeft(t *testing.T) {
	r := newRig(t)
	r.macs.Learn(hostMAC(6), peerName(66), false, r.now)
	r.FromPort([]frame.Frame{text(hostMAC(6), hostMAC(1), "x")})
	wantDrops(t, r.Forwarder, map[Drop]uint64{DropUnknownPeer: 1})
	r.macs.Forget(peerName(66))
	r.FromPort([]frame.Frame{text(hostMAC(6), hostMAC(1), "x")})
	if got, _ := r.toB.take(); len(got) != 1 {
		t.Errorf("after the peer was forgotten b got %v, want the frame flooded", got)
	}
}

func TestRefusedBySender(t *testing.T) {
	r := newRig(t)
	r.learnAll()
	for _, err := range []error{transport.ErrNoPath, fmt.Errorf("link: %w", transport.ErrNoPath), errors.New("no buffers")} {
		r.toB.refuse = err
		r.FromPort([]frame.Frame{text(hostMAC(2), hostMAC(1), "x"), text(broadcastMAC, hostMAC(1), "x")})
	}
	wantDrops(t, r.Forwarder, map[Drop]uint64{DropNoPath: 4, DropSend: 2})
	if got, _ := r.toC.take(); len(got) != 3 {
		t.Errorf("c got %d copies, want 3: b's refusal is not its matter", len(got))
	}
	if st := r.Stats(); st.Flooded.Frames != 3 || st.Sent.Frames != 0 {
		t.Errorf("Stats = %+v, want 3 flooded, 0 sent", st)
	}
}

func TestPortTakesPart(t *testing.T) {
	r := newRig(t)
	r.learnAll()
	r.port.limit, r.port.err = 1, errors.New("the port is down")
	p := packet(r.b, r.a, text(hostMAC(1), hostMAC(2), "x"))
	r.FromLinks([]frame.Packet{p, p, p})
	wantDrops(t, r.Forwarder, map[Drop]uint64{DropPort: 2})
	if got := r.Stats().ToPort.Frames; got != 1 {
		t.Errorf("%d frames to the port, want 1", got)
	}
}

// ipv4 builds an Ethernet frame with a UDP packet of n bytes of payload.
func ipv4(dst, src frame.MAC, df bool, n int) frame.Frame {
	p := make([]byte, 28+n)
	p[0], p[8], p[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	if df {
		p[6] = 0x40
	}
	copy(p[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	return ethernet(dst, src, 0x0800, p...)
}

// ipv6 is the same for IPv6.
func ipv6(dst, src frame.MAC, n int) frame.Frame {
	p := make([]byte, 48+n)
	p[0], p[6], p[7], p[8], p[24], p[39] = 0x60, 17, 64, 0xfd, 0xfd, 1
	binary.BigEndian.PutUint16(p[4:], uint16(8+n))
	return ethernet(dst, src, 0x86dd, p...)
}

// wantAnswer checks that f is an ICMP answer to orig that tells the MTU.
func wantAnswer(t *testing.T, f, orig frame.Frame, mtu int) {
	t.Helper()
	if len(f.Data) < 42 || !bytes.Equal(f.Data[:6], orig.Data[6:12]) || !bytes.Equal(f.Data[6:12], orig.Data[:6]) {
		t.Fatalf("answer %x does not go back to the sender of %x", f.Data, orig.Data[:14])
	}
	if orig.Data[12] == 0x08 {
		if got := int(binary.BigEndian.Uint16(f.Data[40:])); f.Data[34] != 3 || f.Data[35] != 4 || got != mtu {
			t.Errorf("ICMP type %d code %d MTU %d, want 3, 4, %d", f.Data[34], f.Data[35], got, mtu)
		}
		return
	}
	if got := int(binary.BigEndian.Uint32(f.Data[58:])); f.Data[54] != 2 || got != mtu {
		t.Errorf("ICMPv6 type %d MTU %d, want 2, %d", f.Data[54], got, mtu)
	}
}

func TestTooBig(t *testing.T) {
	tooBig := &transport.TooBigError{MTU: 1414}
	t.Run("from the port: answer to the port", func(t *testing.T) {
		r := newRig(t)
		r.learnAll()
		r.toB.refuse = tooBig
		v4, v6 := ipv4(hostMAC(2), hostMAC(1), true, 1480), ipv6(hostMAC(4), hostMAC(1), 1480)
		r.FromPort([]frame.Frame{v4, v6, ipv4(hostMAC(2), hostMAC(1), false, 1480), text(hostMAC(2), hostMAC(1), "no IP")})
		got, writes := r.port.take()
		if len(got) != 2 || writes != 1 {
			t.Fatalf("port got %d frames in %d writes, want 2 in 1", len(got), writes)
		}
		wantAnswer(t, got[0], v4, 1414)
		wantAnswer(t, got[1], v6, 1414)
		wantDrops(t, r.Forwarder, map[Drop]uint64{DropTooBig: 4})
		if n := r.Stats().Answered; n.Frames != 2 || n.Bytes != uint64(len(got[0].Data)+len(got[1].Data)) {
			t.Errorf("Answered = %+v", n)
		}
	})
	t.Run("relayed: answer to the source peer, as from the destination", func(t *testing.T) {
		r := newRig(t)
		r.learnAll()
		r.toB.refuse = tooBig
		v4 := ipv4(hostMAC(4), hostMAC(3), true, 1480)
		r.FromLinks([]frame.Packet{packet(r.c, r.d, v4)})
		wantPort(t, r.port)
		got, flushes := r.toC.take()
		if len(got) != 1 || flushes != 1 || got[0].Src != r.d || got[0].Dst != r.c {
			t.Fatalf("c got %v and %d flushes, want one packet from d to c", got, flushes)
		}
		wantAnswer(t, got[0].Frame, v4, 1414)
	})
	t.Run("relayed, and there is no way back", func(t *testing.T) {
		r := newRig(t)
		r.toB.refuse = tooBig
		r.FromLinks([]frame.Packet{packet(r.e, r.d, ipv4(hostMAC(4), hostMAC(5), true, 1480))})
		wantPackets(t, "c", r.toC)
		if n := r.Stats().Answered.Frames; n != 0 {
			t.Errorf("%d answers, want none", n)
		}
	})
	t.Run("answers that do not fit either are not answered", func(t *testing.T) {
		r := newRig(t)
		r.toB.refuse, r.toC.refuse = tooBig, tooBig
		r.FromLinks([]frame.Packet{packet(r.c, r.d, ipv4(hostMAC(4), hostMAC(3), true, 1480))})
		wantDrops(t, r.Forwarder, map[Drop]uint64{DropTooBig: 1})
	})
	t.Run("flooded frames are not answered", func(t *testing.T) {
		r := newRig(t)
		r.toB.refuse = tooBig
		r.FromPort([]frame.Frame{ipv4(hostMAC(9), hostMAC(1), true, 1480), ipv6(broadcastMAC, hostMAC(1), 1480)})
		wantPort(t, r.port)
		wantDrops(t, r.Forwarder, map[Drop]uint64{DropTooBig: 2})
	})
	t.Run("answers are limited", func(t *testing.T) {
		r := newRig(t)
		r.learnAll()
		r.toB.refuse = tooBig
		batch := slices.Repeat([]frame.Frame{ipv4(hostMAC(2), hostMAC(1), true, 1480)}, 1000)
		r.FromPort(batch)
		if got, _ := r.port.take(); len(got) != answersBurst {
			t.Errorf("%d answers at once, want %d", len(got), answersBurst)
		}
		r.now = r.now.Add(100 * ms)
		r.FromPort(batch)
		if got, _ := r.port.take(); len(got) != answersPerSecond/10 {
			t.Errorf("%d answers 100 ms later, want %d", len(got), answersPerSecond/10)
		}
	})
}

// TestMovesThroughForwarder: a container moves from b to our bridge and back, as
// the forwarder sees it.
func TestMovesThroughForwarder(t *testing.T) {
	r := newRig(t)
	mac := hostMAC(7)
	hello := ethernet(broadcastMAC, mac, 0x0806, arp(1, mac, [4]byte{10, 0, 0, 7}, [4]byte{10, 0, 0, 1})...)
	announcement := ethernet(broadcastMAC, mac, 0x0806, arp(1, mac, [4]byte{10, 0, 0, 7}, [4]byte{10, 0, 0, 7})...)
	step := func(what string, do func(), behind frame.PeerName, port, toB int) {
		t.Helper()
		do()
		if got, _ := r.macs.Lookup(mac); got != behind {
			t.Errorf("%s: the address is behind %v, want %v", what, got, behind)
		}
		if got, _ := r.port.take(); len(got) != port {
			t.Errorf("%s: port got %d frames, want %d", what, len(got), port)
		}
		if got, _ := r.toB.take(); len(got) != toB {
			t.Errorf("%s: b got %d frames, want %d", what, len(got), toB)
		}
	}
	fromB := func(f frame.Frame) func() { return func() { r.FromLinks([]frame.Packet{packet(r.b, r.a, f)}) } }
	fromBridge := func(f frame.Frame) func() { return func() { r.FromPort([]frame.Frame{f}) } }
	step("speaks at b", fromB(hello), r.b, 1, 0)
	step("reflected by our bridge", fromBridge(hello), r.b, 0, 0)
	step("announces itself here", fromBridge(announcement), r.a, 0, 1)
	step("announcement reflected by b's bridge", fromB(announcement), r.a, 0, 0)
	r.now = r.now.Add(5 * time.Second)
	step("speaks at b again", fromB(hello), r.b, 1, 0)
	r.now = r.now.Add(5 * time.Second)
	step("speaks here again", fromBridge(hello), r.a, 0, 1)
	wantDrops(t, r.Forwarder, map[Drop]uint64{DropMACConflict: 2})
}

// TestFlappingIsReported once, and what is held between two other peers is passed
// on all the same.
func TestFlappingIsReported(t *testing.T) {
	r := newRig(t)
	f := text(hostMAC(1), hostMAC(7), "x")
	r.macs.Learn(hostMAC(1), r.a, false, r.now)
	for range 10 {
		r.FromLinks([]frame.Packet{packet(r.b, r.a, f), packet(r.c, r.a, f)})
		r.now = r.now.Add(300 * ms)
	}
	if got, _ := r.port.take(); len(got) != 20 {
		t.Errorf("port got %d frames, want all 20", len(got))
	}
	if n := strings.Count(r.logged.String(), "flaps"); n != 1 {
		t.Errorf("flapping was reported %d times, want once:\n%s", n, &r.logged)
	}
	if !strings.Contains(r.logged.String(), "mac=0a:00:00:00:00:07") {
		t.Errorf("the report does not name the address: %s", &r.logged)
	}
}

// What Local takes is seen by nobody else, and only what is for us is offered.
func TestLocal(t *testing.T) {
	r := newRig(t)
	var offered []frame.Packet
	taking := true
	r.Forwarder = NewForwarder(Config{
		Self: r.a, Port: r.port, MACs: r.macs, Now: func() time.Time { return r.now },
		Local: func(p frame.Packet) bool { offered = append(offered, p); return taking },
	})
	r.SetFIB(newRig(t).FIB())
	local := ethernet(hostMAC(1), hostMAC(7), EtherTypeLocal, 'x')
	tagged := ethernet(hostMAC(1), hostMAC(8), frame.EtherTypeVLAN, 0, 1, 0x88, 0xb5)
	ours := packet(r.d, r.a, local)

	r.FromLinks([]frame.Packet{ours, packet(r.a, r.a, local), packet(r.b, r.c, local), packet(peerName(77), r.a, local)})
	if !slices.EqualFunc(offered, []frame.Packet{ours}, samePacket) {
		t.Errorf("offered %v, want only %v", offered, ours)
	}
	wantPort(t, r.port)
	if at, known := r.macs.Lookup(hostMAC(7)); known {
		t.Errorf("its source address was learned behind %v", at)
	}

	taking = false
	r.FromLinks([]frame.Packet{ours, packet(r.b, r.a, tagged)})
	wantPort(t, r.port, local, tagged)
	if len(offered) != 2 {
		t.Errorf("offered %d packets, want 2", len(offered))
	}
}

func TestOriginate(t *testing.T) {
	r := newRig(t)
	own := text(hostMAC(4), hostMAC(1), "x")
	n, err := r.Originate([]frame.Packet{packet(r.a, r.b, own), packet(r.a, r.d, own)})
	if n != 2 || err != nil {
		t.Errorf("Originate = %d, %v, want 2 sent", n, err)
	}
	wantPackets(t, "b", r.toB, packet(r.a, r.b, own), packet(r.a, r.d, own))
	for _, dst := range []frame.PeerName{r.a, r.e, peerName(77), 0} {
		if n, err := r.Originate([]frame.Packet{packet(r.a, dst, own)}); n != 0 || !errors.Is(err, ErrNoRoute) {
			t.Errorf("Originate to %v = %d, %v, want ErrNoRoute", dst, n, err)
		}
	}
	r.toC.refuse = &transport.TooBigError{MTU: 1000}
	n, err = r.Originate([]frame.Packet{packet(r.a, r.c, own), packet(r.a, r.b, own)})
	if tooBig, is := errors.AsType[*transport.TooBigError](err); n != 1 || !is || tooBig.MTU != 1000 {
		t.Errorf("Originate = %d, %v, want 1 sent and the path's error", n, err)
	}
	if st := r.Stats(); st.Sent.Frames != 3 || st.FromPort.Frames != 0 {
		t.Errorf("Stats = %+v, want 3 sent and none from the port", st)
	}
	wantDrops(t, r.Forwarder, map[Drop]uint64{DropNoRoute: 4, DropTooBig: 1})
}

// What was said of the way holds, even if the routes change before the packet
// leaves.
func TestOriginateByAnEarlierFIB(t *testing.T) {
	r := newRig(t)
	fib := r.FIB()
	if via, _ := fib.NextHop(r.d); via != r.b {
		t.Fatalf("d is behind %v, want b", via)
	}
	r.SetFIB(NewFIB(NewTopology(Peer{Name: r.a}, nil), nil))
	own := text(hostMAC(4), hostMAC(1), "x")
	if n, err := r.OriginateBy(fib, []frame.Packet{packet(r.a, r.d, own)}); n != 1 || err != nil {
		t.Errorf("OriginateBy = %d, %v, want 1 sent", n, err)
	}
	wantPackets(t, "b", r.toB, packet(r.a, r.d, own))
}

// TestForwarderConcurrently runs everything at once for the race detector, with
// FIBs of different sizes.
func TestForwarderConcurrently(t *testing.T) {
	r := newRig(t)
	r.learnAll()
	small := NewFIB(NewTopology(Peer{Name: r.a}, nil), nil)
	full := r.FIB()
	var wg sync.WaitGroup
	const rounds = 500
	for g := range 4 {
		wg.Go(func() {
			for range rounds {
				r.FromPort([]frame.Frame{text(broadcastMAC, hostMAC(1), "x"), text(hostMAC(4), hostMAC(1), "x")})
				r.FromLinks([]frame.Packet{
					packet(r.b, r.a, text(broadcastMAC, hostMAC(2), "x")),
					packet(r.c, r.d, text(hostMAC(4), hostMAC(3), "x")),
				})
				if g == 0 {
					r.SetFIB(small)
					r.SetFIB(full)
				}
				r.Stats()
			}
		})
	}
	wg.Wait()
	st := r.Stats()
	if st.FromPort.Frames != 4*rounds*2 || st.FromLinks.Frames != 4*rounds*2 {
		t.Errorf("Stats = %+v, want %d frames each way", st, 4*rounds*2)
	}
	// Three of four frames go to one place, or nowhere while the FIB is small.
	ended := st.ToPort.Frames + st.Relayed.Frames + st.Sent.Frames + st.Drops[DropUnknownPeer.String()]
	if ended != 4*rounds*3 {
		t.Errorf("%d of %d frames were accounted for: %+v", ended, 4*rounds*3, st)
	}
}

// discard is a Sender that counts.
type discard struct{ packets int }

func (d *discard) Send(frame.Packet) error { d.packets++; return nil }
func (d *discard) Flush() error            { return nil }

// sink is a Port that counts.
type sink struct{ frames int }

func (s *sink) Write(frames []frame.Frame) (int, error) {
	s.frames += len(frames)
	return len(frames), nil
}

// load is a batch for one of the hot paths, and a forwarder for it with
// neighbours enough to make floods expensive.
type load struct {
	name string
	run  func()
}

func loads(batch int) []load {
	a := peerName(1)
	var neighbours []frame.PeerName
	senders := map[frame.PeerName]transport.Sender{}
	for i := range 10 {
		n := peerName(2 + i)
		neighbours = append(neighbours, n)
		senders[n] = &discard{}
	}
	entries := []Peer{{Name: a, UID: 1, Version: 1, Connections: both(neighbours...)}}
	for _, n := range neighbours {
		entries = append(entries, Peer{Name: n, UID: 1, Version: 1, Connections: both(a)})
	}
	f := NewForwarder(Config{
		Self: a, Port: &sink{}, MACs: NewMACTable(MACConfig{Self: a}),
		Local: func(p frame.Packet) bool { return p.Src == neighbours[0] },
	})
	f.SetFIB(NewFIB(topologyOf(a, entries), senders))
	f.macs.Learn(hostMAC(1), a, false, time.Now())
	f.macs.Learn(hostMAC(2), neighbours[0], false, time.Now())
	payload := make([]byte, 1400)
	out := slices.Repeat([]frame.Frame{ethernet(hostMAC(2), hostMAC(1), 0x0800, payload...)}, batch)
	all := slices.Repeat([]frame.Frame{ethernet(broadcastMAC, hostMAC(1), 0x0800, payload...)}, batch)
	in := slices.Repeat([]frame.Packet{packet(neighbours[0], a, ethernet(hostMAC(1), hostMAC(2), 0x0800, payload...))}, batch)
	across := slices.Repeat([]frame.Packet{packet(neighbours[0], neighbours[1], in[0].Frame)}, batch)
	flooded := slices.Repeat([]frame.Packet{packet(neighbours[0], a, ethernet(broadcastMAC, hostMAC(2), 0x0800, payload...))}, batch)
	own := slices.Repeat([]frame.Packet{packet(a, neighbours[0], ethernet(hostMAC(2), hostMAC(1), EtherTypeLocal, payload...))}, batch)
	taken := slices.Repeat([]frame.Packet{packet(neighbours[0], a, own[0].Frame)}, batch)
	return []load{
		{"unicast out", func() { f.FromPort(out) }},
		{"unicast in", func() { f.FromLinks(in) }},
		{"flood out", func() { f.FromPort(all) }},
		{"flood on", func() { f.FromLinks(flooded) }},
		{"relay", func() { f.FromLinks(across) }},
		{"our own", func() { f.Originate(own) }},
		{"taken", func() { f.FromLinks(taken) }},
	}
}

func TestForwarderDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, l := range loads(64) {
		l.run()
		if n := testing.AllocsPerRun(100, l.run); n != 0 {
			t.Errorf("%s: %v allocations per batch of 64, want none", l.name, n)
		}
	}
}

// benchmark runs one load; an operation is one frame.
func benchmark(b *testing.B, names ...string) {
	const batch = 64
	for _, l := range loads(batch) {
		if !slices.Contains(names, l.name) {
			continue
		}
		b.Run(strings.ReplaceAll(l.name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n%batch == 0 {
					l.run()
				}
			}
		})
	}
}

func BenchmarkForwarderUnicast(b *testing.B) { benchmark(b, "unicast out", "unicast in") }
func BenchmarkForwarderFlood(b *testing.B)   { benchmark(b, "flood out", "flood on") }
func BenchmarkForwarderRelay(b *testing.B)   { benchmark(b, "relay") }

// FuzzForwarder: no frame and no pair of peers makes the forwarder panic, send to
// where it should not, or lose count.
func FuzzForwarder(f *testing.F) {
	f.Add([]byte("short"), uint8(1), uint8(2), true)
	f.Add(ipv4(hostMAC(2), hostMAC(1), true, 1480).Data, uint8(1), uint8(2), false)
	f.Add(ipv6(hostMAC(4), hostMAC(3), 1480).Data, uint8(3), uint8(4), true)
	f.Add(ethernet(broadcastMAC, hostMAC(2), 0x0806, arp(1, hostMAC(2), [4]byte{}, [4]byte{})...).Data, uint8(2), uint8(1), true)
	f.Add(make([]byte, 22), uint8(2), uint8(1), false)
	f.Fuzz(func(t *testing.T, data []byte, src, dst uint8, tooBig bool) {
		r := newRig(t)
		r.learnAll()
		if tooBig {
			r.toB.refuse = &transport.TooBigError{MTU: 1000}
		}
		fr := frame.Frame{Data: data}
		r.FromPort([]frame.Frame{fr})
		r.FromLinks([]frame.Packet{packet(peerName(int(src%8)), peerName(int(dst%8)), fr)})
		st := r.Stats()
		if st.FromPort.Frames != 1 || st.FromLinks.Frames != 1 {
			t.Fatalf("Stats = %+v, want one frame from each side", st)
		}
		var dropped uint64
		for _, n := range st.Drops {
			dropped += n
		}
		ended := st.ToPort.Frames + st.Sent.Frames + st.Flooded.Frames + st.Relayed.Frames + st.Local.Frames + dropped
		if ended < 2 {
			t.Fatalf("a frame is not accounted for: %+v", st)
		}
		toC, _ := r.toC.take()
		for _, p := range toC {
			if p.Dst != r.c {
				t.Fatalf("c got a packet for %v, which is not behind it", p.Dst)
			}
		}
	})
}
