package tcp

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
	"meshd/transport/transporttest"
)

func newSender() (*sender, *bound) {
	b := &bound{}
	s := &sender{counters: &transport.Counters{}, more: make(chan struct{}, 1)}
	s.open(b)
	s.fit(testMTU)
	return s, b
}

func to(f frame.Frame) *frame.Packet { return &frame.Packet{Src: 1, Dst: 2, Frame: f} }

// items are those of what a sender lets be written.
func items(t *testing.T, s *sender, b *bound) (all []encap.NativeItem) {
	t.Helper()
	for {
		var l load
		if !s.takeUp(b, &l) {
			t.Fatal("the connection is not in use")
		}
		if len(l.records) == 0 {
			return all
		}
		for _, r := range l.records {
			list := encap.NewNativeReader(append([]byte(nil), l.arena[r.at+beforeItems:r.end]...))
			for {
				i, ok := list.Next()
				if !ok {
					break
				}
				all = append(all, i)
			}
			if list.Err() != nil {
				t.Fatal(list.Err())
			}
		}
		s.sent(b, &l)
	}
}

// A queue that nobody takes from is bounded; what waited for too long is dropped;
// all of it is counted.
func TestQueueDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSender()
		const frames = 3000
		for i := range uint64(frames) {
			if err := s.send(to(frame.Frame{Data: transporttest.Frame(i, 1000)})); err != nil {
				t.Fatal(err)
			}
			s.flush()
		}
		dropped := int(s.counters.Tx.Stats().Drops["queue-full"])
		if kept := frames - dropped; kept > queueSize/1000 || kept < queueSize*9/10/1016 {
			t.Errorf("%d frames are kept in %d bytes", kept, queueSize)
		}
		var l load
		if !s.takeUp(b, &l) || len(l.records) != takeAtOnce/recordSize {
			t.Errorf("%d records at once, want %d", len(l.records), takeAtOnce/recordSize)
		}
		sent := 0
		for _, r := range l.records {
			sent += r.frames
		}
		s.sent(b, &l)
		time.Sleep(maxWait + time.Millisecond)
		if got := items(t, s, b); len(got) != 0 {
			t.Errorf("%d frames are sent that waited for too long", len(got))
		}
		if got := s.counters.Tx.Stats().Drops["queue-full"]; got != uint64(frames-sent) {
			t.Errorf("%d frames dropped, want %d", got, frames-sent)
		}
	})
}

// What waits for a connection that ends is dropped and counted, and nothing is
// taken for it any more.
func TestQueueOfDeadConnection(t *testing.T) {
	s, b := newSender()
	for i := range uint64(10) {
		if err := s.send(to(frame.Frame{Data: transporttest.Frame(i, 1000)})); err != nil {
			t.Fatal(err)
		}
	}
	s.note([]byte{3, 0, 0, 0})
	s.close(&bound{}) // another one
	var l load
	if s.takeUp(&bound{}, &l) {
		t.Error("a connection that is not in use takes records")
	}
	s.flush()
	if !s.takeUp(b, &l) || len(l.records) != 1 || len(l.notes) != 4 {
		t.Errorf("%d records and %d bytes of notes, want one and 4", len(l.records), len(l.notes))
	}
	s.close(b)
	s.sent(b, &l) // who was writing notices later
	if got := s.counters.Tx.Stats().Drops["no-path"]; got != 10 {
		t.Errorf("%d frames dropped, want 10", got)
	}
	if err := s.send(to(frame.Frame{Data: transporttest.Frame(1, 100)})); err != transport.ErrNoPath {
		t.Errorf("send = %v, want %v", err, transport.ErrNoPath)
	}
	if s.queue.arena != nil {
		t.Error("a queue without a connection keeps its memory")
	}
	fresh := &bound{}
	s.open(fresh)
	if got := items(t, s, fresh); len(got) != 0 {
		t.Errorf("%d items of the connection before", len(got))
	}
}

// The memory of a queue that is not used any more is given up.
func TestQueueMemory(t *testing.T) {
	s, b := newSender()
	now := time.Now()
	if err := s.send(to(frame.Frame{Data: transporttest.Frame(1, 100)})); err != nil {
		t.Fatal(err)
	}
	s.flush()
	s.tend(now)
	s.tend(now.Add(time.Hour))
	if s.queue.empty() {
		t.Fatal("a frame is gone")
	}
	if got := items(t, s, b); len(got) != 1 {
		t.Fatalf("%d items, want 1", len(got))
	}
	s.tend(now.Add(time.Hour + freeAfter - 1))
	if s.queue.arena == nil {
		t.Error("the memory was given up too soon")
	}
	if s.tend(now.Add(time.Hour + freeAfter)); s.queue.arena != nil {
		t.Error("the memory is kept")
	}
}

// Super-frames go whole where they fit an item, else in segments; either way they
// count as their segments.
func TestSuperFramesGoWhole(t *testing.T) {
	for _, tt := range []struct {
		name   string
		f      frame.Frame
		supers int
		others int
	}{
		{"TCP", transporttest.TCP(1, 60000, 1300, false), 1, 0},
		{"UDP over IPv6", transporttest.UDP(2, 9000, 1000, true), 1, 0},
		{"one segment", transporttest.TCP(3, 1300, 1300, false), 0, 1},
		{"unfinished checksum", transporttest.TCP(4, 1000, 0, false), 0, 1},
		{"too long for an item", transporttest.TCP(5, 65480, 1300, false), 0, 51},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, b := newSender()
			if err := s.send(to(tt.f)); err != nil {
				t.Fatal(err)
			}
			s.flush()
			supers, others := 0, 0
			for _, i := range items(t, s, b) {
				if _, ok := i.Super(); ok {
					supers++
				} else if _, ok := i.Packet(); ok {
					others++
				}
			}
			if supers != tt.supers || others != tt.others {
				t.Errorf("%d super-frames and %d frames, want %d and %d", supers, others, tt.supers, tt.others)
			}
		})
	}
}

// A frame that is larger than the neighbour's port is an error where its sender can
// be told, else it goes.
func TestOversize(t *testing.T) {
	s, b := newSender()
	for i, tt := range []struct {
		data []byte
		big  bool
	}{
		{transporttest.IPv4Frame(1, testMTU, true), false},
		{transporttest.IPv4Frame(1, testMTU+1, true), true},
		{transporttest.IPv4Frame(1, 9000, false), false},
		{transporttest.IPv6Frame(1, testMTU+1), true},
		{transporttest.Frame(1, 9000), false},
		{transporttest.Frame(1, encap.NativePacketMax), false},
	} {
		err := s.send(to(frame.Frame{Data: tt.data}))
		s.flush()
		if _, big := err.(*transport.TooBigError); big != tt.big {
			t.Errorf("frame %d of %d bytes: %v, want too big: %v", i, len(tt.data), err, tt.big)
		}
		want := 1
		if tt.big {
			want = 0
		}
		if got := items(t, s, b); len(got) != want {
			t.Errorf("frame %d of %d bytes makes %d items, want %d", i, len(tt.data), len(got), want)
		}
	}
	if err := s.send(to(frame.Frame{Data: transporttest.Frame(1, encap.NativePacketMax+1)})); err != nil {
		t.Error(err)
	}
	if got := s.counters.Tx.Stats().Drops["too-big"]; got != 3 {
		t.Errorf("%d frames dropped as too big, want 3", got)
	}
}

// sink is a connection that takes everything.
type sink struct{ net.Conn }

func (sink) Write(b []byte) (int, error) { return len(b), nil }

// Neither sending nor sealing and writing allocates.
func TestSendDoesNotAllocate(t *testing.T) {
	s, b := newSender()
	b.conn = sink{}
	var err error
	if b.seal, err = encap.NewNativeSeal(&secret, encap.NativeAES, 0); err != nil {
		t.Fatal(err)
	}
	w := writer{b: b, keyed: time.Now()}
	for name, f := range map[string]frame.Frame{
		"super-frame": transporttest.TCP(1, 40000, 1200, false),
		"in segments": transporttest.TCP(1, 65480, 1200, false),
		"frame":       {Data: transporttest.Frame(1, 1000)},
		"partial":     transporttest.UDP(1, 1000, 0, false),
	} {
		p := to(f)
		run := func() {
			if err := s.send(p); err != nil {
				t.Fatal(err)
			}
			s.flush()
			for {
				if !s.takeUp(b, &w.load) {
					t.Fatal("the connection is not in use")
				}
				if len(w.records) == 0 {
					return
				}
				if err := w.write(); err != nil {
					t.Fatal(err)
				}
				w.count(s.counters)
				s.sent(b, &w.load)
			}
		}
		run()
		if n := testing.AllocsPerRun(500, run); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

// The key changes by use and by time, and not before it was used.
func TestRekey(t *testing.T) {
	seal, err := encap.NewNativeSeal(&secret, encap.NativeChaCha, 0)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	w := writer{b: &bound{seal: seal}, keyed: start}
	if err := w.rekey(start.Add(time.Hour)); err != nil || seal.Epoch() != 0 {
		t.Errorf("an unused key was changed: epoch %d, %v", seal.Epoch(), err)
	}
	if _, err := sealRecord(seal, make([]byte, beforeItems, 100)); err != nil {
		t.Fatal(err)
	}
	if err := w.rekey(start.Add(rekeyAfter - 1)); err != nil || seal.Epoch() != 0 {
		t.Errorf("a key was changed too soon: epoch %d, %v", seal.Epoch(), err)
	}
	if err := w.rekey(start.Add(rekeyAfter)); err != nil || seal.Epoch() != 1 || w.b.rekeys.Load() != 1 {
		t.Errorf("epoch %d, %d changes, %v; want 1", seal.Epoch(), w.b.rekeys.Load(), err)
	}
}

func BenchmarkSend(b *testing.B) {
	for name, f := range map[string]frame.Frame{
		"super-frame": transporttest.TCP(1, 60000, 1300, false), "frame": {Data: transporttest.Frame(1, 100)},
	} {
		b.Run(name, func(b *testing.B) {
			s, bo := newSender()
			p := to(f)
			var l load
			b.SetBytes(int64(len(f.Data)))
			for b.Loop() {
				_ = s.send(p)
				s.flush()
				s.takeUp(bo, &l)
				s.sent(bo, &l)
			}
		})
	}
}
