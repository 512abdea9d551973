package sleeve

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/pathstate"
	"meshd/internal/udp"
	"meshd/transport"
	"meshd/transport/transporttest"
)

var (
	farAddr   = netip.MustParseAddrPort("10.9.9.2:6783")
	thirdAddr = netip.MustParseAddrPort("203.0.113.7:4711")
)

// bench is one reader with paths of host1 to host2, fed by hand.
type bench struct {
	t        *testing.T
	tr       *Transport
	r        *reader
	stray    transport.Counters
	got      []frame.Packet
	controls []byte
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t}
	w, _ := newWire(t, transporttest.Link{MTU: 65535})
	tr, err := New(Config{
		Local: host1, Sockets: []PacketConn{w}, Stray: &b.stray,
		Deliver: func(batch []frame.Packet) { b.got = append(b.got, batch...) },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.tr, b.r = tr, &reader{t: tr, conn: w} // without room to read, which is slow to make
	return b
}

// path adds a running path with a connection UID.
func (b *bench) path(uid uint64, key *[32]byte, native bool) *path {
	s := session(host1, key, true)
	s.UID, s.Native, s.RemoteAddr = uid, native, farAddr
	s.SendControl = func(tag byte, _ []byte) error {
		b.controls = append(b.controls, tag)
		return nil
	}
	p := newPath(b.tr, s)
	b.tr.add(p)
	return p
}

// feed hands the reader one datagram.
func (b *bench) feed(from netip.AddrPort, datagram []byte) {
	b.read(udp.Message{Buf: datagram, N: len(datagram), Addr: from})
}

// read hands the reader one message.
func (b *bench) read(m udp.Message) {
	b.r.message(&m)
	b.r.flush()
}

// plain makes a plain datagram of host2.
func plain(frames ...[]byte) []byte {
	d := encap.AppendSleeveName(nil, host2)
	for _, f := range frames {
		d = encap.AppendSleevePacket(d, host2, host1, f)
	}
	return d
}

func heartbeat(uid uint64) []byte { return plain(appendHeartbeat(nil, uid)) }

// drops reads one reason's count.
func drops(c *transport.Counters, why transport.Drop) uint64 { return c.Rx.Stats().Drops[why.String()] }

func TestStray(t *testing.T) {
	b := newBench(t)
	b.feed(farAddr, nil)
	b.feed(farAddr, []byte{1, 2, 3, 4, 5})
	b.feed(farAddr, heartbeat(1))
	if m, p := drops(&b.stray, transport.DropMalformed), drops(&b.stray, transport.DropPeer); m != 2 || p != 1 {
		t.Errorf("%d malformed, %d of unknown peers, want 2 and 1", m, p)
	}
}

// In plain mode data counts only from where a heartbeat with the right connection
// UID came from last.
func TestPlainSource(t *testing.T) {
	b := newBench(t)
	p := b.path(77, nil, false)
	data := plain(transporttest.Frame(1, 100))
	steps := []struct {
		name     string
		from     netip.AddrPort
		datagram []byte
		packets  int // delivered
		drop     transport.Drop
	}{
		{"data before any heartbeat", farAddr, data, 0, transport.DropSource},
		{"heartbeat of another connection", farAddr, heartbeat(76), 0, transport.DropSource},
		{"heartbeat", farAddr, heartbeat(77), 0, 255},
		{"data", farAddr, data, 1, 255},
		{"data from a third address", thirdAddr, data, 0, transport.DropSource},
		{"heartbeat of another connection from a third address", thirdAddr, heartbeat(78), 0, transport.DropSource},
		{"test from a third address", thirdAddr, plain(make([]byte, 1000)), 0, transport.DropSource},
		{"heartbeat with data from a third address", thirdAddr, plain(appendHeartbeat(nil, 77), transporttest.Frame(1, 60)), 0, transport.DropSource},
		{"data still", farAddr, data, 1, 255},
		{"heartbeat from a third address", thirdAddr, heartbeat(77), 0, 255},
		{"data from there", thirdAddr, data, 1, 255},
		{"data from the old address", farAddr, data, 0, transport.DropSource},
		{"special frame of somebody else", thirdAddr, encap.AppendSleevePacket(encap.AppendSleeveName(nil, host2), 5, host1, make([]byte, 900)), 0, transport.DropPeer},
		{"special frame to somebody else", thirdAddr, encap.AppendSleevePacket(encap.AppendSleeveName(nil, host2), host2, 5, make([]byte, 900)), 0, transport.DropPeer},
		{"short frame", thirdAddr, plain(make([]byte, 13)), 0, transport.DropMalformed},
		{"cut", thirdAddr, data[:len(data)-1], 0, transport.DropMalformed},
		{"data and a rest", thirdAddr, append(plain(transporttest.Frame(1, 60)), 1, 2, 3), 1, transport.DropMalformed},
		{"nothing but the name", thirdAddr, plain(), 0, 255},
	}
	for _, s := range steps {
		b.got = nil
		before := p.session.Counters.Rx.Stats().Drops
		b.feed(s.from, s.datagram)
		if len(b.got) != s.packets {
			t.Errorf("%s: %d packets, want %d", s.name, len(b.got), s.packets)
		}
		for d := transport.DropNoPath; d <= transport.DropRate; d++ {
			want := uint64(0)
			if d == s.drop {
				want = 1
			}
			if got := drops(p.session.Counters, d) - before[d.String()]; got != want {
				t.Errorf("%s: %d drops for %v, want %d", s.name, got, d, want)
			}
		}
	}
	if string(b.controls) != "\x01" {
		t.Errorf("control messages %v, want one: connection established", b.controls)
	}
}

func TestAddressMovesAreRated(t *testing.T) {
	for _, key := range []*[32]byte{nil, {9}} {
		b := newBench(t)
		p := b.path(77, key, false)
		moved := 0
		for i := range 100 {
			from := netip.AddrPortFrom(thirdAddr.Addr(), uint16(1000+i))
			p.special(b.r.now, specialHeartbeat, appendHeartbeat(nil, 77), from)
			if p.addr == from {
				moved++
			}
		}
		if moved > movesAtOnce+1 || drops(p.session.Counters, transport.DropRate) != uint64(100-moved) {
			t.Errorf("the address moved %d times at once, %d drops", moved, drops(p.session.Counters, transport.DropRate))
		}
	}
}

func TestAnswersAreRated(t *testing.T) {
	b := newBench(t)
	p := b.path(77, nil, true)
	b.feed(farAddr, heartbeat(77))
	b.controls = nil
	for range 500 {
		b.feed(farAddr, plain(make([]byte, 1000)))
	}
	if n := len(b.controls); n != answersPerSecond {
		t.Errorf("500 tests at once got %d answers, want %d", n, answersPerSecond)
	}
	before := p.session.Counters.Tx.Stats().Datagrams
	for i := range uint32(500) {
		b.feed(farAddr, plain(probe{uid: 77, sequence: i}.append(nil, specialProbe)))
	}
	if n := p.session.Counters.Tx.Stats().Datagrams - before; n != repliesPerSecond {
		t.Errorf("500 probes at once got %d replies, want %d", n, repliesPerSecond)
	}
}

func TestSpecialFrames(t *testing.T) {
	dirty := make([]byte, fragTestLen)
	dirty[60000] = 1
	pr := probe{uid: 77, sequence: 5, heard: 7}
	tests := []struct {
		name     string
		native   bool
		frame    []byte
		controls string
	}{
		{"fragmentation test", false, zeros[:fragTestLen], "\x02"},
		{"fragmentation test that is not zero", false, dirty, ""},
		{"MTU test", false, make([]byte, 1452), "\x03"},
		{"MTU test of nothing", false, make([]byte, 14), "\x03"},
		{"MTU test with content", false, append(make([]byte, 14), 1, 2, 3), "\x03"},
		{"probe of a stock router is an MTU test", false, pr.append(nil, specialProbe), "\x03"},
		{"probe", true, pr.append(nil, specialProbe), ""},
		{"reply to nothing", true, pr.append(nil, specialReply), ""},
		{"probe of another connection", true, probe{uid: 78}.append(nil, specialProbe), ""},
		{"heartbeat", false, appendHeartbeat(nil, 77), ""},
		{"heartbeat of another connection", false, appendHeartbeat(nil, 78), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.path(77, nil, tt.native)
			b.feed(farAddr, heartbeat(77))
			b.controls = nil
			b.feed(farAddr, plain(tt.frame))
			if string(b.controls) != tt.controls {
				t.Errorf("control messages %v, want %v", b.controls, []byte(tt.controls))
			}
			if len(b.got) != 0 {
				t.Errorf("%d packets were delivered, want none", len(b.got))
			}
		})
	}
}

// A probe tells when its sender last heard us.
func TestProbeTellsThatWeAreHeard(t *testing.T) {
	b := newBench(t)
	p := b.path(77, nil, true)
	b.r.now = time.Unix(9000, 0)
	b.feed(farAddr, plain(probe{uid: 77, heard: pathstate.NeverHeard}.append(nil, specialProbe)))
	if !p.Life.Reached().IsZero() {
		t.Error("we are taken for heard although we never were")
	}
	b.feed(farAddr, plain(probe{uid: 77, heard: 300}.append(nil, specialProbe)))
	if got, want := p.Life.Reached(), b.r.now.Add(-300*time.Millisecond); !got.Equal(want) {
		t.Errorf("last heard at %v, want %v", got, want)
	}
}

func TestMTUAnswer(t *testing.T) {
	b := newBench(t)
	p := b.path(77, &[32]byte{1}, false)
	var answers []int
	p.session.SendControl = func(tag byte, msg []byte) error {
		if tag != tagMTU || len(msg) != 2 {
			t.Errorf("answer %d %x", tag, msg)
			return nil
		}
		answers = append(answers, int(binary.BigEndian.Uint16(msg)))
		return nil
	}
	for _, c := range []int{0, 7, 9, 552, 1438, 9000, 59986, 59988, 65000} {
		p.special(b.r.now, classify(zeros[:c+frame.HeaderLen], false), zeros[:c+frame.HeaderLen], farAddr)
		if got := answers[len(answers)-1]; got != c {
			t.Errorf("answer to a test of %d = %d", c, got)
		}
	}
}

// sealed makes a datagram of host2 under a key.
func sealed(s *encap.SleeveSeal, frames ...[]byte) []byte {
	return s.Seal(nil, host2, plain(frames...)[encap.SleeveNameLen:], true)
}

// ends reports whether a path has to end for newer ones. It belongs in a bubble.
func ends(t *testing.T, p *path) bool {
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	sleep := func(now time.Time) (time.Time, error) { return now.Add(time.Hour), nil }
	return errors.Is(p.Watch.Run(ctx, nil, sleep), pathstate.ErrReplaced)
}

// Datagrams of several connections find the path whose key opens them.
func TestIncarnations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var paths []*path
		var seals []*encap.SleeveSeal
		for i := range transport.MaxIncarnations + 1 {
			key := &[32]byte{byte(i + 1)}
			paths = append(paths, b.path(uint64(i), key, true))
			seals = append(seals, encap.NewSleeveSeal(key, false))
		}
		for i, s := range seals {
			b.got = nil
			b.feed(farAddr, sealed(s, transporttest.Frame(1, 100)))
			evicted := i == 0
			if got := len(b.got); (got == 0) != evicted {
				t.Errorf("%d packets of connection %d", got, i)
			}
			if got := paths[i].session.Counters.Rx.Stats().Frames; (got == 0) != evicted {
				t.Errorf("connection %d counts %d frames", i, got)
			}
			if got := ends(t, paths[i]); got != evicted {
				t.Errorf("connection %d ends: %v, want %v", i, got, evicted)
			}
		}
		newest := paths[len(paths)-1]
		if got := drops(newest.session.Counters, transport.DropAuth); got != 1 {
			t.Errorf("%d datagrams did not open, want 1", got)
		}
		again := sealed(seals[2], transporttest.Frame(1, 100))
		b.feed(farAddr, again)
		b.feed(farAddr, again)
		if got := drops(newest.session.Counters, transport.DropReplay); got != 1 {
			t.Errorf("%d datagrams were replayed, want 1", got)
		}
		for _, p := range paths {
			b.tr.remove(p)
		}
		if n := len(*b.tr.paths.Load()); n != 0 {
			t.Errorf("%d neighbours left after the last path was removed", n)
		}
	})
}

// Two plain connections of one neighbour are told apart by UID and address.
func TestPlainIncarnations(t *testing.T) {
	b := newBench(t)
	old, fresh := b.path(1, nil, true), b.path(2, nil, true)
	b.feed(farAddr, heartbeat(1))
	b.feed(farAddr, plain(transporttest.Frame(1, 100)))
	if got := old.session.Counters.Rx.Stats().Frames; got != 1 {
		t.Errorf("the old connection counts %d frames, want 1", got)
	}
	b.feed(thirdAddr, heartbeat(2))
	if a, c := old.addr, fresh.addr; a != farAddr || c != thirdAddr {
		t.Errorf("addresses %v, %v, want %v, %v", a, c, farAddr, thirdAddr)
	}
	b.feed(farAddr, heartbeat(2))
	b.feed(farAddr, plain(transporttest.Frame(1, 100)))
	if got := fresh.session.Counters.Rx.Stats().Frames; got != 1 {
		t.Errorf("the new connection counts %d frames, want 1", got)
	}
}

// A restarted neighbour that speaks from the same address, of another connection,
// is no sign of life of this one.
func TestPlainRestart(t *testing.T) {
	b := newBench(t)
	p := b.path(1, nil, true)
	b.r.now = time.Now().Add(time.Second)
	b.feed(farAddr, heartbeat(1))
	heard := p.HeardAt()
	b.r.now = b.r.now.Add(time.Second)
	for _, d := range [][]byte{heartbeat(2), plain(probe{uid: 2}.append(nil, specialProbe)), plain(make([]byte, 13)), plain()} {
		b.feed(farAddr, d)
		if got := p.HeardAt(); !got.Equal(heard) {
			t.Errorf("%x is taken for a sign of life", d)
		}
	}
	b.feed(farAddr, plain(transporttest.Frame(1, 60)))
	if got := p.HeardAt(); !got.Equal(b.r.now) {
		t.Errorf("last heard at %v, want %v", got, b.r.now)
	}
}

// A sealed and a plain connection may exist at a time, when a password was set.
func TestSealedAndPlain(t *testing.T) {
	b := newBench(t)
	b.path(1, nil, true)
	key := &[32]byte{3}
	p := b.path(2, key, true)
	b.feed(farAddr, heartbeat(1))
	b.feed(farAddr, plain(transporttest.Frame(1, 100)))
	b.feed(thirdAddr, sealed(encap.NewSleeveSeal(key, false), transporttest.Frame(2, 100)))
	if len(b.got) != 2 || p.session.Counters.Rx.Stats().Frames != 1 {
		t.Errorf("%d packets, %d of them sealed, want 2 and 1", len(b.got), p.session.Counters.Rx.Stats().Frames)
	}
}

// A datagram full of tiny packets is delivered in parts.
func TestDeliverInParts(t *testing.T) {
	b := newBench(t)
	b.path(77, nil, false)
	b.feed(farAddr, heartbeat(77))
	largest := 0
	packets := 0
	b.tr.deliver = func(batch []frame.Packet) {
		largest = max(largest, len(batch))
		packets += len(batch)
	}
	d := encap.AppendSleeveName(nil, host2)
	per := 0
	for tiny := transporttest.Frame(1, 14); len(d)+28 <= encap.MaxDatagram; per++ {
		d = encap.AppendSleevePacket(d, host2, host1, tiny)
	}
	n := &null{}
	for range udp.MaxRead {
		n.batch = append(n.batch, udp.Message{Buf: d, N: len(d), Addr: farAddr})
	}
	if err := newReader(b.tr, n).read(); err != nil {
		t.Fatal(err)
	}
	if packets != per*udp.MaxRead || largest > deliverMax+per {
		t.Errorf("%d packets in parts of up to %d, want %d in parts of at most %d", packets, largest, per*udp.MaxRead, deliverMax+per)
	}
}

// Datagrams come alone and in runs, and are the same.
func TestRuns(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		b := newBench(t)
		p := b.path(77, key, true)
		p.from.Store(&farAddr)
		var seal *encap.SleeveSeal
		if key != nil {
			seal = encap.NewSleeveSeal(key, false)
		}
		sizes := []int{500, 500, 500, 123}
		run := func(sizes ...int) (run []byte, each int) {
			for i, size := range sizes {
				d := plain(transporttest.Frame(uint64(i), size))
				if seal != nil {
					d = seal.Seal(nil, host2, d[encap.SleeveNameLen:], true)
				}
				each = max(each, len(d))
				run = append(run, d...)
			}
			return run, each
		}
		frames := 0
		read := func(name string, buf []byte, segment, want int) {
			t.Helper()
			b.got = nil
			b.read(udp.Message{Buf: append(buf, "rest of the buffer"...), N: len(buf), Addr: farAddr, Segment: segment})
			if len(b.got) != want {
				t.Fatalf("sealed %v, %s: %d packets, want %d", key != nil, name, len(b.got), want)
			}
			for i, pk := range b.got {
				if !bytes.Equal(pk.Frame.Data, transporttest.Frame(uint64(i), sizes[i])) {
					t.Errorf("sealed %v, %s: frame %d is another", key != nil, name, i)
				}
			}
			frames += want
		}
		buf, each := run(sizes...)
		read("a run", buf, each, 4)
		buf, each = run(sizes[:3]...)
		read("a run of equal datagrams", buf, each, 3)
		buf, _ = run(sizes[0])
		read("no run", buf, 0, 1)
		buf, each = run(sizes[0])
		read("a run of one", buf, each, 1)
		buf, each = run(sizes[0])
		read("segment longer than the message", buf, each+1, 1)
		buf, _ = run(sizes[0])
		read("negative segment", buf, -1, 1)
		before := p.session.Counters.Rx.Stats()
		if before.Frames != uint64(frames) || before.Datagrams != uint64(frames) || len(before.Drops) != 0 {
			t.Errorf("sealed %v: counters %+v, want %d frames", key != nil, before, frames)
		}
		buf, each = run(sizes[:3]...)
		for _, segment := range []int{1, 2, 5, 7, 13, each - 1, each / 2, len(buf) - 1} {
			b.read(udp.Message{Buf: buf, N: len(buf), Addr: farAddr, Segment: segment})
		}
		b.read(udp.Message{Addr: farAddr, Segment: 3})
	}
}

// What authentication makes of datagrams is told to the socket, but not of those
// that anybody may have sent.
func TestVerdict(t *testing.T) {
	key := &[32]byte{1}
	b := newBench(t)
	p := b.path(77, key, true)
	b.path(78, &[32]byte{2}, true) // a newer connection under another key
	q := b.path(79, &[32]byte{3}, true)
	p.from.Store(&farAddr)
	q.from.Store(&farAddr)
	seal := encap.NewSleeveSeal(key, false)
	d := func() []byte { return sealed(seal, transporttest.Frame(1, 100)) }
	read := func(from netip.AddrPort, broken, run bool) {
		x, y := d(), d()
		if broken {
			x[len(x)-1] ^= 1
		}
		m := udp.Message{Buf: x, N: len(x), Addr: from}
		if run {
			m.Buf, m.N, m.Segment = append(x, y...), len(x)+len(y), len(x)
		}
		b.read(m)
	}
	read(farAddr, false, false)
	read(farAddr, true, false)
	read(farAddr, true, false)
	read(farAddr, false, true)
	read(farAddr, true, true)
	read(thirdAddr, true, true)
	read(thirdAddr, false, false)
	again := d()
	b.feed(farAddr, again)
	b.feed(farAddr, again) // replayed: intact, but no new word
	if want := (udp.Verdict{RunPassed: 3, RunFailed: 1, SinglePassed: 2, SingleFailed: 2}); b.r.verdict != want {
		t.Errorf("verdict = %+v, want %+v", b.r.verdict, want)
	}
	w := b.tr.conns[0].(*wire)
	b.r.messages = nil
	before := b.r.verdict
	w.Socket.Judge(time.Time{}, before)
	if got := w.Verdict(); got != before {
		t.Errorf("the socket was told %+v", got)
	}
}

// Plain datagrams prove nothing about runs.
func TestPlainHasNoVerdict(t *testing.T) {
	b := newBench(t)
	b.path(77, nil, true)
	b.path(78, &[32]byte{1}, true)
	b.feed(farAddr, heartbeat(77))
	b.feed(farAddr, plain(transporttest.Frame(1, 100)))
	if b.r.verdict != (udp.Verdict{}) {
		t.Errorf("verdict = %+v, want none", b.r.verdict)
	}
}

// readBatch is a batch of runs as a busy path receives it, sealed anew each time
// where there is a key.
func readBatch(n *null, seal *encap.SleeveSeal, inner []byte, run int) {
	for i := range n.batch {
		m := &n.batch[i]
		m.Buf = m.Buf[:0]
		for range run {
			if seal != nil {
				m.Buf = seal.Seal(m.Buf, host2, inner, true)
			} else {
				m.Buf = append(encap.AppendSleeveName(m.Buf, host2), inner...)
			}
		}
		m.N = len(m.Buf)
		if run > 1 {
			m.Segment = m.N / run
		}
	}
}

// newReadBench makes a reader whose socket gives batches of messages with run
// datagrams each.
func newReadBench(tb testing.TB, key *[32]byte, messages, run int) (r *reader, n *null, refill func()) {
	tr, err := New(Config{Local: host1, Deliver: ignore, Sockets: []PacketConn{&null{}}})
	if err != nil {
		tb.Fatal(err)
	}
	p := newPath(tr, session(host1, key, true))
	tr.add(p)
	p.from.Store(&farAddr)
	n = &null{}
	for range messages {
		n.batch = append(n.batch, udp.Message{Buf: make([]byte, 0, 1500*run), Addr: farAddr})
	}
	var seal *encap.SleeveSeal
	if key != nil {
		seal = encap.NewSleeveSeal(key, false)
	}
	inner := plain(transporttest.IPv4Frame(1, 1300, true), transporttest.IPv4Frame(2, 60, true))[encap.SleeveNameLen:]
	return newReader(tr, n), n, func() { readBatch(n, seal, inner, run) }
}

func TestReceiveDoesNotAllocate(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		for _, run := range []int{1, 40} {
			r, _, refill := newReadBench(t, key, 10, run)
			allocs := testing.AllocsPerRun(100, func() {
				refill()
				if err := r.read(); err != nil {
					t.Fatal(err)
				}
			})
			if allocs != 0 {
				t.Errorf("sealed %v, runs of %d: %v allocations for a batch, want 0", key != nil, run, allocs)
			}
		}
	}
}

// BenchmarkReceive reads a batch of 64 datagrams, alone and in runs.
func BenchmarkReceive(b *testing.B) {
	for _, bm := range []struct {
		name          string
		key           *[32]byte
		messages, run int
	}{
		{"plain", nil, 32, 1}, {"plain runs", nil, 2, 32},
		{"sealed", &[32]byte{1}, 32, 1}, {"sealed runs", &[32]byte{1}, 2, 32},
	} {
		b.Run(bm.name, func(b *testing.B) {
			r, _, refill := newReadBench(b, bm.key, bm.messages, bm.run)
			datagrams := bm.messages * bm.run
			b.ReportAllocs()
			b.SetBytes(int64(datagrams) * 1360)
			refill()
			for b.Loop() {
				if bm.key != nil { // a datagram opens only once
					b.StopTimer()
					refill()
					b.StartTimer()
				}
				if err := r.read(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(datagrams), "ns/datagram")
		})
	}
}

// FuzzDatagram feeds a plain and a sealed path whatever comes, from the
// neighbour's address, and under the seal.
func FuzzDatagram(f *testing.F) {
	for _, d := range readJSON[[]capturedDatagram](f, "datagrams.json") {
		if d.Key == "" {
			f.Add(unhex(f, d.Payload)[6:])
		}
	}
	f.Add([]byte{})
	f.Add(heartbeat(77)[6:])
	f.Add(plain(zeros[:fragTestLen])[6:])
	f.Add(plain(transporttest.Frame(1, 100), probe{uid: 77}.append(nil, specialProbe), nil)[6:])
	f.Add(plain(probe{uid: 77, sequence: 1 << 31, heard: pathstate.NeverHeard}.append(nil, specialReply))[6:])
	f.Add(plain(tagged(transporttest.IPv4Frame(1, 60, true), 2))[6:])
	f.Fuzz(func(t *testing.T, inner []byte) {
		b := newBench(t)
		key := &[32]byte{1}
		p := b.path(77, nil, true)
		q := b.path(78, key, true)
		p.from.Store(&farAddr)
		b.tr.deliver = func(batch []frame.Packet) {
			for _, pk := range batch {
				if len(pk.Frame.Data) < frame.HeaderLen || classify(pk.Frame.Data, true) != notSpecial {
					t.Errorf("delivered %x", pk.Frame.Data)
				}
			}
		}
		b.feed(farAddr, append(plain(), inner...))
		b.feed(thirdAddr, append(plain(), inner...))
		b.feed(thirdAddr, inner)
		seal := encap.NewSleeveSeal(key, false)
		b.feed(thirdAddr, seal.Seal(nil, host2, inner, true))
		run := append(append(plain(), inner...), seal.Seal(nil, host2, inner, true)...)
		b.read(udp.Message{Buf: run, N: len(run), Addr: farAddr, Segment: encap.SleeveNameLen + len(inner)})
		for _, x := range []*path{p, q} {
			x.HandleControl(byte(len(inner)), inner)
			_ = x.Send(toHost2(inner))
			_ = x.Flush()
		}
	})
}
