package punch

import (
	"bytes"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport/transporttest"
)

var elsewhere = netip.MustParseAddrPort("203.0.113.9:6785")

// packetItem is a frame as an item.
func packetItem(hops uint8, data []byte) []byte {
	return encap.AppendNativePacket(nil, &frame.Packet{Src: nameA, Dst: nameB, Hops: hops, Frame: plain(data)})
}

// Items that an authentic neighbour must not send are counted, those around them
// count.
func TestHostileItems(t *testing.T) {
	good := packetItem(9, transporttest.Frame(1, 60))
	for _, tt := range []struct {
		name  string
		items []byte
		got   int
		drops map[string]uint64
	}{
		{"good", slices.Concat(good, good), 2, nil},
		{"nothing", nil, 0, nil},
		{"unknown type", slices.Concat(good, []byte{0x77, 1, 0, 2, 9, 9}, good), 2, nil},
		{"no hop limit", slices.Concat(packetItem(0, transporttest.Frame(1, 60)), good), 1, map[string]uint64{"malformed": 1}},
		{"no Ethernet header", slices.Concat(packetItem(9, make([]byte, 0)), good), 1, map[string]uint64{"malformed": 1}},
		{"trailing bytes", slices.Concat(good, []byte{1, 2, 3}), 1, map[string]uint64{"malformed": 1}},
		{"empty probe", []byte{byte(encap.NativeProbe), 0, 0, 0}, 0, map[string]uint64{"malformed": 1}},
		{"empty reply", []byte{byte(encap.NativeReply), 0, 0, 0}, 0, map[string]uint64{"malformed": 1}},
		{"empty fragment", []byte{byte(encap.NativeFragment), 0, 0, 0}, 0, map[string]uint64{"malformed": 1}},
		{"reply to nothing", encap.AppendNativeReply(nil, encap.NativeAnswer{Sequence: 99}), 0, nil},
		{"too many probes", bytes.Repeat(encap.AppendNativeProbe(nil, encap.NativeQuestion{}), maxNotes+5), 0, map[string]uint64{"rate": 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newEnds(t, Config{}, Config{})
			if got := b.feed(addrA, a.sealed(t, tt.items)); len(got) != tt.got {
				t.Errorf("%d packets came out, want %d", len(got), tt.got)
			}
			if got := drops(&b.sess.Counters.Rx); !maps.Equal(got, tt.drops) {
				t.Errorf("drops %v, want %v", got, tt.drops)
			}
			if got := b.feed(addrA, a.sealed(t, good)); len(got) != 1 {
				t.Error("the path does not work any more")
			}
		})
	}
}

// A run holds datagrams of two paths, of none, and some that do not open: each is
// what it would be alone, and the socket hears how many were good.
func TestMixedRun(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	b.feed(addrA, a.send(t, b, plain(transporttest.Frame(0, 100)))...) // b knows a's address now
	first := a.path
	// A second session between the same two.
	a.open(t, b, true)
	b2 := *b
	b2.open(t, a, false)
	now := time.Now()
	a.path.step(now)
	b2.path.step(now)
	a.path.HandleControl(tagHello, b2.path.hello)
	b2.path.HandleControl(tagHello, a.path.hello)
	a.path.step(now)
	second := a.path

	var ms []udp.Message
	add := func(p *path, i int) {
		a.path = p
		ms = append(ms, a.send(t, b, plain(transporttest.Frame(uint64(i), 200)))...)
	}
	add(first, 1)
	add(second, 2)
	add(first, 3)
	add(first, 4)
	ms[3].Buf[40] ^= 1
	add(first, 5)
	ms[4].Buf[1] ^= 1 // another index
	add(second, 6)
	ms[5].Buf[0] |= 0x10 // no kind we know
	add(second, 7)
	run := asRuns(ms)
	if len(run) != 1 {
		t.Fatalf("%d runs, want one", len(run))
	}
	got := b.feed(addrA, run...)
	var numbers []uint64
	for _, p := range got {
		numbers = append(numbers, binary.BigEndian.Uint64(p.Frame.Data[frame.HeaderLen:]))
	}
	if want := []uint64{1, 2, 3, 7}; !slices.Equal(numbers, want) {
		t.Errorf("frames %v came out, want %v", numbers, want)
	}
	if got, want := b.wire.verdict, (udp.Verdict{RunPassed: 4, RunFailed: 1}); got != want {
		t.Errorf("verdict %+v, want %+v", got, want)
	}
	if got, want := drops(&b.tr.stray.Rx), (map[string]uint64{"unknown-peer": 1, "malformed": 1}); !maps.Equal(got, want) {
		t.Errorf("strays %v, want %v", got, want)
	}
	if got, want := drops(&b.sess.Counters.Rx), (map[string]uint64{"auth": 1}); !maps.Equal(got, want) {
		t.Errorf("drops %v, want %v", got, want)
	}
	if got := b.path.rx.bad; got != 1 {
		t.Errorf("%d bad datagrams, want 1", got)
	}
	// A failure from somewhere else is nobody's fault.
	ms[0].Buf[40] ^= 1
	b.feed(elsewhere, ms[0])
	if b.path.rx.bad != 1 || b.wire.verdict != (udp.Verdict{}) {
		t.Errorf("a datagram from elsewhere counts: %d bad, %+v", b.path.rx.bad, b.wire.verdict)
	}
}

// Datagrams of one session's keys mean nothing to another session's path, and a
// path that has ended takes none.
func TestKeyOfAnotherSession(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	old := a.send(t, b, plain(transporttest.Frame(1, 100)))
	a2, b2 := newEnds(t, Config{}, Config{})
	binary.BigEndian.PutUint32(old[0].Buf[1:], b2.path.index)
	if got := b2.feed(addrA, old...); len(got) != 0 || drops(&b2.sess.Counters.Rx)["auth"] != 1 {
		t.Errorf("%d packets of another session came out, drops %v", len(got), drops(&b2.sess.Counters.Rx))
	}
	ms := a2.send(t, b2, plain(transporttest.Frame(1, 100)))
	b2.tr.paths.Remove(b2.path.index)
	if got := b2.feed(addrA, ms...); len(got) != 0 || drops(&b2.tr.stray.Rx)["unknown-peer"] != 1 {
		t.Errorf("%d packets came out of a path that has ended", len(got))
	}
}

// Only the newest authentic datagram moves the neighbour's address, and not too
// often.
func TestFollows(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	var ms []udp.Message
	for i := range uint64(20) {
		ms = append(ms, a.send(t, b, plain(transporttest.Frame(i, 100)))...)
	}
	place := func(n byte) netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 1) }
	at := func() netip.AddrPort { return b.path.tx.to }
	steps := []struct {
		name string
		m    udp.Message
		from netip.AddrPort
		want netip.AddrPort
	}{
		{"where it was expected", ms[0], addrA, addrA},
		{"newer, from elsewhere", ms[5], place(1), place(1)},
		{"older", ms[3], place(2), place(1)},
		{"replayed", ms[5], place(2), place(1)},
		{"back", ms[6], addrA, addrA},
		{"again", ms[7], place(3), place(3)},
		{"too often", ms[8], place(4), place(3)},
	}
	for _, s := range steps {
		b.feed(s.from, s.m)
		if got := at(); got != s.want {
			t.Fatalf("%s: address %v, want %v", s.name, got, s.want)
		}
	}
	forged := ms[9]
	forged.Buf[50] ^= 1
	b.feed(place(5), forged)
	if got := at(); got != place(3) {
		t.Errorf("a forged datagram moved the address to %v", got)
	}
	if drops(&b.sess.Counters.Rx)["rate"] != 1 {
		t.Errorf("drops %v, want one for its rate", drops(&b.sess.Counters.Rx))
	}
}

// FuzzReader feeds what an authentic neighbour with bad intentions might send, and
// what others might, in runs and alone.
func FuzzReader(f *testing.F) {
	frameItem := packetItem(3, transporttest.Frame(1, 60))
	f.Add(frameItem, []byte{0x80}, uint16(0))
	f.Add(encap.AppendNativePart(frameItem, &encap.NativePart{
		Packet: frame.Packet{Src: 1, Dst: 2, Hops: 1, Frame: plain(make([]byte, 16))}, ID: 1, Offset: 8, Total: 24,
	}), []byte{0x81, 0, 0}, uint16(60))
	f.Add(encap.AppendNativeProbe(encap.AppendNativeTest(nil, 30), encap.NativeQuestion{Heard: 1}), []byte{}, uint16(31))
	f.Add([]byte{0x81, 9, 0, 80}, bytes.Repeat([]byte{0x80}, 60), uint16(29))
	f.Fuzz(func(t *testing.T, items, junk []byte, segment uint16) {
		if len(items) > 60000 || len(junk) > 60000 {
			return
		}
		a, b := newEnds(t, Config{}, Config{})
		good := a.sealed(t, items)
		run := udp.Message{Buf: slices.Concat(good.Buf, junk, good.Buf), Segment: int(segment)}
		run.N = min(len(run.Buf), 65535)
		for _, m := range []udp.Message{good, {Buf: junk, N: len(junk)}, run} {
			for _, p := range b.feed(addrA, m) {
				if len(p.Frame.Data) < frame.HeaderLen || p.Hops == 0 || p.Src == 0 || p.Dst == 0 || frame.CheckOffload(p.Frame) != nil {
					t.Fatalf("%+v came out", p)
				}
			}
		}
		if got := b.feed(addrA, a.send(t, b, plain(transporttest.Frame(1, 60)))...); len(got) != 1 {
			t.Fatal("the path does not work any more")
		}
	})
}

// Lost fragments cost their frame, which is counted, and no memory for long.
func TestLostFragments(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	for i := range uint64(20) {
		ms := a.send(t, b, plain(transporttest.Frame(i, 9000)))
		if got := b.feed(addrA, ms[1:]...); len(got) != 0 {
			t.Fatal("a frame came out that misses a fragment")
		}
	}
	want := uint64(20 - encap.NativePartsMax)
	if got := drops(&b.sess.Counters.Rx)["queue-full"]; got != want {
		t.Errorf("%d frames given up, want %d", got, want)
	}
	b.path.step(time.Now().Add(encap.NativePartsLive + time.Second))
	if got := drops(&b.sess.Counters.Rx)["queue-full"]; got != 20 || b.path.rx.parts != nil {
		t.Errorf("%d frames given up, want 20; memory is held: %v", got, b.path.rx.parts != nil)
	}
	if got := b.feed(addrA, a.send(t, b, plain(transporttest.Frame(1, 9000)))...); len(got) != 1 {
		t.Error("a frame in fragments did not come out")
	}
}

func benchmarkEnds(b *testing.B, run func(b *testing.B, config Config)) {
	b.Run("AES", func(b *testing.B) { run(b, Config{}) })
	b.Run("ChaCha", func(b *testing.B) { run(b, Config{NoAES: true}) })
}

// superFrame has 45 segments for an inner MTU of 1413.
var superFrame = transporttest.TCP(1, 45*1361, 1361, false)

const superSegments = 45

// One operation is one segment.
func BenchmarkSend(b *testing.B) {
	benchmarkEnds(b, func(b *testing.B, c Config) {
		x, _ := newEnds(b, c, Config{})
		x.wire.discard = true
		p := frame.Packet{Src: nameA, Dst: nameB, Frame: superFrame}
		b.SetBytes(int64(len(superFrame.Data)) / superSegments)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i%superSegments != 0 {
				continue
			}
			if err := x.path.Send(p); err != nil {
				b.Fatal(err)
			}
			_ = x.path.Flush()
			if x.path.tx.seal.Used() > rekeyUsed {
				if err := x.path.tx.advance(); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// One operation is one segment.
func BenchmarkReceive(b *testing.B) {
	benchmarkEnds(b, func(b *testing.B, c Config) {
		x, y := newEnds(b, c, Config{Deliver: func([]frame.Packet) {}})
		const ring = 256
		var runs [ring][]udp.Message
		for i := range runs {
			runs[i] = asRuns(x.send(b, y, superFrame))
			for k := range runs[i] {
				runs[i][k].Addr = addrA
			}
		}
		secret, _, err := pathSecrets(y.sess.Secret, x.path.hello, y.path.hello)
		if err != nil {
			b.Fatal(err)
		}
		suite := (x.tr.can & y.tr.can).suite()
		buf := make([]byte, 1<<16)
		b.SetBytes(int64(len(superFrame.Data)) / superSegments)
		for i := 0; b.Loop(); i++ {
			if i%superSegments != 0 {
				continue
			}
			k := i / superSegments % ring
			if k == 0 { // the ring comes round: forget what was seen
				if y.path.rx.open, err = encap.NewNativeOpen(secret, suite); err != nil {
					b.Fatal(err)
				}
			}
			for _, m := range runs[k] {
				m.Buf = append(buf[:0], m.Buf...)
				y.read([]udp.Message{m})
			}
		}
		if got := y.sess.Counters.Rx.Stats(); got.Frames == 0 || len(got.Drops) != 0 {
			b.Fatalf("counted %+v", got)
		}
	})
}
