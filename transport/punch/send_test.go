package punch

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// mtu is the inner MTU on an Ethernet over IPv4.
const mtu = 1500 - 87

// A super-frame leaves in equal datagrams that lie behind each other, but for the
// last, and comes out as its segments, whether it is read as a run or not.
func TestSuperFrame(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    frame.Frame
	}{
		{"TCP over IPv4", transporttest.TCP(1, 30000, 1300, false)},
		{"TCP over IPv6", transporttest.TCP(2, 64000, 1341, true)},
		{"UDP", transporttest.UDP(3, 20000, 1200, false)},
		{"UDP over IPv6", transporttest.UDP(5, 20000, 1200, true)},
		{"small segments", transporttest.TCP(6, 3000, 100, false)},
	} {
		for _, asARun := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/run %v", tt.name, asARun), func(t *testing.T) {
				a, b := newEnds(t, Config{}, Config{})
				given := bytes.Clone(tt.f.Data)
				ms := a.send(t, b, tt.f)
				for i, m := range ms[:len(ms)-1] {
					if m.N != ms[0].N || m.N > besides+mtu {
						t.Fatalf("datagram %d has %d bytes, the first %d", i, m.N, ms[0].N)
					}
				}
				if asARun {
					ms = asRuns(ms)
				}
				got := b.feed(addrA, ms...)
				want := transporttest.Segments(tt.f)
				if len(got) != len(want) {
					t.Fatalf("%d frames came out, want %d", len(got), len(want))
				}
				bytesWant := 0
				for i, p := range got {
					if p.Src != nameA || p.Dst != nameB || p.Hops != hopLimit {
						t.Fatalf("packet %v to %v, %d hops", p.Src, p.Dst, p.Hops)
					}
					if p.Frame.Offload != (frame.Offload{}) {
						t.Fatalf("offload %+v", p.Frame.Offload)
					}
					if s := transporttest.Segments(p.Frame); len(s) != 1 || !bytes.Equal(s[0], want[i]) {
						t.Fatalf("segment %d is not what Linux makes of the super-frame", i)
					}
					bytesWant += len(want[i])
				}
				if !bytes.Equal(given, tt.f.Data) {
					t.Error("the frame was changed, which is borrowed")
				}
				for _, f := range []*transport.Flow{&a.sess.Counters.Tx, &b.sess.Counters.Rx} {
					if st := f.Stats(); st.Frames != uint64(len(want)) || st.Bytes != uint64(bytesWant) || len(st.Drops) != 0 {
						t.Errorf("counted %+v, want %d frames of %d bytes", st, len(want), bytesWant)
					}
				}
			})
		}
	}
}

// The datagrams of a super-frame are one piece of memory, which the socket takes
// as one.
func TestRunIsOnePiece(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	var before *udp.Message
	runs := 0
	a.wire.refuse = func(_ int, m udp.Message) error {
		if before != nil && m.N == before.N {
			if end := before.Buf[:before.N+1]; &end[before.N] != &m.Buf[0] {
				t.Error("a datagram does not lie behind the one before")
			}
			runs++
		}
		before = &m
		return nil
	}
	a.send(t, b, transporttest.TCP(1, 30000, 1300, false), transporttest.TCP(2, 30000, 1300, false))
	if runs < 40 {
		t.Errorf("%d datagrams lie behind one of their size, want at least 40", runs)
	}
}

func TestBundles(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	var sent []frame.Frame
	for i := range uint64(500) {
		sent = append(sent, plain(transporttest.Frame(i, 60+int(i%7))))
	}
	ms := a.send(t, b, sent...)
	perDatagram := (besides + mtu - encap.NativeOverhead) / (encap.NativePacketHeader + 66)
	if len(ms) > 500/perDatagram+1 {
		t.Errorf("500 small frames took %d datagrams, want about %d", len(ms), 500/perDatagram)
	}
	for _, m := range ms {
		if m.N > besides+mtu || m.Addr != addrB || m.Segment != 0 {
			t.Errorf("datagram of %d bytes to %v, segment %d", m.N, m.Addr, m.Segment)
		}
	}
	got := b.feed(addrA, ms...)
	if len(got) != len(sent) {
		t.Fatalf("%d frames came out, want %d", len(got), len(sent))
	}
	for i := range got {
		if !bytes.Equal(got[i].Frame.Data, sent[i].Data) {
			t.Fatalf("frame %d came out as another", i)
		}
	}
}

func TestHops(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	for _, tt := range []struct{ given, want uint8 }{{0, hopLimit}, {1, 1}, {7, 7}, {255, 255}} {
		p := frame.Packet{Src: 0xa1, Dst: 0xb2, Hops: tt.given, Frame: plain(transporttest.Frame(1, 60))}
		if err := a.path.Send(p); err != nil {
			t.Fatal(err)
		}
		_ = a.path.Flush()
		got := b.feed(addrA, a.wire.take()...)
		if len(got) != 1 || got[0].Hops != tt.want || got[0].Src != 0xa1 || got[0].Dst != 0xb2 {
			t.Errorf("hops %d came out as %+v, want %d", tt.given, got, tt.want)
		}
	}
}

func TestTooBig(t *testing.T) {
	vlan := func(b []byte) []byte { return slices.Insert(bytes.Clone(b), 12, 0x81, 0, 0, 5) }
	for _, tt := range []struct {
		name   string
		f      frame.Frame
		mtu    int // told
		frames uint64
	}{
		{"IPv4 with DF", plain(transporttest.IPv4Frame(1, mtu+1, true)), mtu, 1},
		{"IPv6", plain(transporttest.IPv6Frame(1, mtu+1)), mtu, 1},
		{"one tag", plain(vlan(transporttest.IPv4Frame(1, mtu-3, true))), mtu - 4, 1},
		{"super-frame", transporttest.TCP(1, 13000, 1400, false), mtu, 10},
		{"super-frame over IPv6", transporttest.TCP(1, 13000, 1400, true), mtu, 10},
		{"UDP super-frame", transporttest.UDP(1, 13000, 1400, false), mtu, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newEnds(t, Config{}, Config{})
			err := a.path.Send(frame.Packet{Src: nameA, Dst: nameB, Frame: tt.f})
			big, ok := errors.AsType[*transport.TooBigError](err)
			if !ok || big.MTU != tt.mtu {
				t.Fatalf("Send = %v, want too big for %d", err, tt.mtu)
			}
			_ = a.path.Flush()
			if out := a.wire.take(); len(out) != 0 {
				t.Errorf("%d datagrams left", len(out))
			}
			if got := drops(&a.sess.Counters.Tx)["too-big"]; got != tt.frames {
				t.Errorf("%d frames counted, want %d", got, tt.frames)
			}
			fits := plain(transporttest.IPv4Frame(1, mtu, true))
			if got := b.feed(addrA, a.send(t, b, fits)...); len(got) != 1 {
				t.Error("a frame of the MTU did not come out")
			}
		})
	}
}

// What is larger than the path and may be cut comes out whole.
func TestFragments(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	for _, f := range []frame.Frame{
		plain(transporttest.Frame(1, mtu+frame.HeaderLen+1)), plain(transporttest.Frame(2, 9000)),
		plain(transporttest.Frame(3, encap.NativeFrameMax)), plain(transporttest.IPv4Frame(4, 65000, false)),
		noDF(transporttest.UDP(5, 5000, 0, false)),
		noDF(transporttest.UDP(6, 20000, 4000, false)),
	} {
		want := transporttest.Segments(f)
		ms := a.send(t, b, f)
		for _, m := range ms {
			if m.N > besides+mtu {
				t.Fatalf("a datagram has %d bytes", m.N)
			}
		}
		for _, way := range []struct {
			name string
			ms   []udp.Message
		}{{"in runs", asRuns(ms)}, {"replayed", ms}} {
			got := b.feed(addrA, way.ms...)
			if way.name == "replayed" {
				want = nil
			}
			if len(got) != len(want) {
				t.Fatalf("%s of %d bytes: %d frames came out, want %d", way.name, len(f.Data), len(got), len(want))
			}
			for i := range got {
				if s := transporttest.Segments(got[i].Frame); len(s) != 1 || !bytes.Equal(s[0], want[i]) {
					t.Errorf("%s of %d bytes: segment %d is not what was sent", way.name, len(f.Data), i)
				}
			}
		}
	}
	if tx, rx := a.sess.Counters.Tx.Stats(), b.sess.Counters.Rx.Stats(); tx.Frames != 10 || rx.Frames != 10 || tx.Bytes != rx.Bytes {
		t.Errorf("sent %+v, received %+v, want 10 frames of the same bytes", tx, rx)
	}
	big := plain(make([]byte, encap.NativeFrameMax+1))
	big.Data[0] = 2
	if ms := a.send(t, b, big); len(ms) != 0 || drops(&a.sess.Counters.Tx)["too-big"] != 1 {
		t.Errorf("a frame too long for fragments took %d datagrams, drops %v", len(ms), drops(&a.sess.Counters.Tx))
	}
}

// noDF takes the don't-fragment flag from an IPv4 packet.
func noDF(f frame.Frame) frame.Frame {
	ip := f.Data[frame.HeaderLen:]
	ip[6] &^= 0x40
	ip[10], ip[11] = 0, 0
	sum := frame.Checksum(ip[:20])
	ip[10], ip[11] = byte(sum>>8), byte(sum)
	return f
}

func TestClampsMSS(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	for _, tt := range []struct {
		v6   bool
		want uint16
	}{{false, mtu - 40}, {true, mtu - 60}} {
		got := b.feed(addrA, a.send(t, b, plain(transporttest.SYN(8960, tt.v6)))...)
		if want := transporttest.SYN(tt.want, tt.v6); len(got) != 1 || !bytes.Equal(got[0].Frame.Data, want) {
			t.Errorf("IPv6 %v: SYN came out as %x, want %x", tt.v6, got[0].Frame.Data, want)
		}
	}
}

func TestSendRefuses(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	for _, f := range []frame.Frame{
		{}, plain(make([]byte, 13)), plain(make([]byte, 60)),
		{Data: transporttest.Frame(1, 60), Offload: frame.Offload{GSOType: frame.GSOTCPv4, GSOSize: 100}},
		{Data: transporttest.Frame(1, 60), Offload: frame.Offload{Flags: frame.NeedsCsum, CsumStart: 59, CsumOffset: 7}},
	} {
		if ms := a.send(t, b, f); len(ms) != 0 {
			t.Errorf("%d bytes with %+v took %d datagrams", len(f.Data), f.Offload, len(ms))
		}
	}
	if got := drops(&a.sess.Counters.Tx)["malformed"]; got != 5 {
		t.Errorf("%d frames counted as malformed, want 5", got)
	}
	a.path.tx.route(addrB, nil, mtu, false)
	err := a.path.Send(frame.Packet{Src: nameA, Dst: nameB, Frame: transporttest.TCP(1, 13000, 1300, false)})
	if !errors.Is(err, transport.ErrNoPath) || drops(&a.sess.Counters.Tx)["no-path"] != 10 {
		t.Errorf("Send without an address = %v, drops %v", err, drops(&a.sess.Counters.Tx))
	}
}

// What the socket refuses is counted, and the rest is sent.
func TestSocketErrors(t *testing.T) {
	errOther := errors.New("operation not permitted")
	for _, tt := range []struct {
		name  string
		err   error
		drops map[string]uint64
		left  int // datagrams of 40
	}{
		{"too big", udp.ErrTooBig, map[string]uint64{"too-big": 30}, 10},
		{"other", errOther, map[string]uint64{"send-error": 1}, 39},
		{"full", udp.ErrFull, map[string]uint64{"queue-full": 30}, 10},
		{"no way", udp.ErrNoWay, map[string]uint64{"send-error": 30}, 10},
		{"closed", net.ErrClosed, map[string]uint64{"send-error": 30}, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newEnds(t, Config{}, Config{})
			a.wire.refuse = func(i int, _ udp.Message) error {
				switch i {
				case 10:
					return tt.err
				case 11:
					if tt.left == 10 {
						t.Error("what follows is tried although it would go the same way")
					}
				}
				return nil
			}
			ms := a.send(t, b, transporttest.TCP(1, 40*1300, 1300, false))
			if len(ms) != tt.left {
				t.Errorf("%d datagrams left, want %d", len(ms), tt.left)
			}
			st := a.sess.Counters.Tx.Stats()
			if !maps.Equal(st.Drops, tt.drops) || int(st.Frames) != tt.left || int(st.Datagrams) != tt.left {
				t.Errorf("counted %+v, want drops %v and %d frames", st, tt.drops, tt.left)
			}
			if got := a.path.refused.Load(); got != (tt.name == "too big") {
				t.Errorf("MTU in question: %v", got)
			}
			if got := b.feed(addrA, ms...); len(got) != tt.left {
				t.Errorf("%d frames came out, want %d", len(got), tt.left)
			}
		})
	}
}

// More than the outbox holds is sent before the flush, all of it in order.
func TestOutboxOverflows(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	var frames []frame.Frame
	var want [][]byte
	for i := range uint64(10) {
		frames = append(frames, transporttest.TCP(i, 60000, 1300, false), plain(transporttest.Frame(i, 70)))
		want = append(append(want, transporttest.Segments(frames[2*i])...), frames[2*i+1].Data)
	}
	got := b.feed(addrA, a.send(t, b, frames...)...)
	if len(got) != len(want) {
		t.Fatalf("%d frames came out, want %d", len(got), len(want))
	}
	for i := range got {
		if s := transporttest.Segments(got[i].Frame); !bytes.Equal(s[0], want[i]) {
			t.Fatalf("frame %d is another", i)
		}
	}
}

// The MTU rises while datagrams are put together, wherever the end of their memory
// is just then.
func TestMTURisesWhileSending(t *testing.T) {
	for _, size := range []int{60, 131, 260} {
		for before := range 40 {
			a, b := newEnds(t, Config{}, Config{})
			small := plain(transporttest.Frame(1, size))
			n := 0
			for a.path.tx.box.arena == nil || cap(a.path.tx.box.arena)-len(a.path.tx.box.arena) > besides+mtu+50*before {
				_ = a.path.Send(frame.Packet{Src: nameA, Dst: nameB, Frame: small})
				n++
			}
			a.path.tx.route(addrB, a.wire, 9000-besides, false)
			var more []frame.Frame
			for range 40 {
				more = append(more, small)
			}
			if got := b.feed(addrA, a.send(t, b, more...)...); len(got) != n+len(more) {
				t.Fatalf("%d frames came out, want %d", len(got), n+len(more))
			}
			if got := cap(a.path.tx.box.arena); got != arenaSize {
				t.Fatalf("the datagrams' memory grew to %d bytes", got)
			}
		}
	}
}

// A key that has sealed all it may seals no more, and nothing breaks.
func TestSpentKey(t *testing.T) {
	if testing.Short() {
		t.Skip("seals 2^24 datagrams")
	}
	a, b := newEnds(t, Config{}, Config{})
	for range encap.NativeSpent - 1 { // empty ones, to be quick
		if _, err := a.path.tx.seal.Seal(make([]byte, encap.NativeHeaderLen, encap.NativeOverhead)); err != nil {
			t.Fatal(err)
		}
	}
	ms := a.send(t, b, transporttest.TCP(1, 13000, 1300, false))
	if got := b.feed(addrA, ms...); len(got) != 1 || drops(&a.sess.Counters.Tx)["send-error"] != 9 {
		t.Errorf("%d frames came out, drops %v; want 1 and 9", len(got), drops(&a.sess.Counters.Tx))
	}
	if err := a.path.tx.advance(); err != nil {
		t.Fatal(err)
	}
	if got := b.feed(addrA, a.send(t, b, plain(transporttest.Frame(1, 60)))...); len(got) != 1 {
		t.Error("nothing came out under the next key")
	}
}

func TestDoesNotAllocate(t *testing.T) {
	for _, noAES := range []bool{false, true} {
		taken := 0
		a, b := newEnds(t, Config{NoAES: noAES}, Config{Deliver: func(batch []frame.Packet) { taken += len(batch) }})
		a.wire.discard = true
		super, small := transporttest.TCP(1, 60000, 1300, false), transporttest.Frame(1, 80)
		large := transporttest.Frame(2, 9000)
		a.send(t, b, super, plain(small), plain(large)) // makes the buffers
		n := testing.AllocsPerRun(200, func() {
			for _, f := range []frame.Frame{super, plain(small), plain(large)} {
				if err := a.path.Send(frame.Packet{Src: nameA, Dst: nameB, Frame: f}); err != nil {
					t.Fatal(err)
				}
			}
			_ = a.path.Flush()
		})
		if n != 0 {
			t.Errorf("no AES %v: %v allocations per batch sent, want 0", noAES, n)
		}
		a.wire.discard = false
		const rounds = 100
		var runs [rounds + 1][]udp.Message
		for i := range runs {
			runs[i] = asRuns(a.send(t, b, super, plain(small), plain(large)))
			for k := range runs[i] {
				runs[i][k].Addr = addrA
			}
		}
		i := 0
		n = testing.AllocsPerRun(rounds, func() { b.read(runs[i]); i++ })
		if n != 0 {
			t.Errorf("no AES %v: %v allocations per batch received, want 0", noAES, n)
		}
		if want := (rounds + 1) * 49; taken != want {
			t.Errorf("%d frames came out, want %d", taken, want)
		}
	}
}
