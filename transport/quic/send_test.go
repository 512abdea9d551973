package quic

import (
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
	s.fit(1369)
	return s, b
}

func to(f frame.Frame) *frame.Packet { return &frame.Packet{Src: 1, Dst: 2, Frame: f} }

// A queue that nobody takes from is bounded; what waited for too long is dropped;
// all of it is counted.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b := newSender()
		const frames = 3 * maxQueued
		for i := range uint64(frames) {
			if err := s.send(to(frame.Frame{Data: transporttest.Frame(i, 1000)})); err != nil {
				t.Fatal(err)
			}
			s.flush()
		}
		dropped := s.counters.Tx.Stats().Drops["queue-full"]
		if want := uint64(frames - maxQueued + takeAtOnce); dropped != want {
			t.Errorf("%d frames dropped, want %d", dropped, want)
		}
		_, ds, ok := s.takeUp(b, nil, nil)
		if len(ds) != takeAtOnce || !ok {
			t.Errorf("%d datagrams, want %d", len(ds), takeAtOnce)
		}
		time.Sleep(maxWait + time.Millisecond)
		if _, ds, _ := s.takeUp(b, nil, nil); len(ds) != 0 {
			t.Errorf("%d datagrams are sent that waited for too long", len(ds))
		}
		if got := s.counters.Tx.Stats().Drops["queue-full"]; got != uint64(frames-takeAtOnce) {
			t.Errorf("%d frames dropped, want %d", got, frames-takeAtOnce)
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
	s.note([]byte{1})
	s.close(&bound{}) // another one
	if _, _, ok := s.takeUp(&bound{}, nil, nil); ok {
		t.Error("a connection that is not in use takes datagrams")
	}
	s.close(b)
	if got := s.counters.Tx.Stats().Drops["no-path"]; got != 10 {
		t.Errorf("%d frames dropped, want 10", got)
	}
	if err := s.send(to(frame.Frame{Data: transporttest.Frame(1, 100)})); err != transport.ErrNoPath {
		t.Errorf("send = %v, want %v", err, transport.ErrNoPath)
	}
	fresh := &bound{}
	s.open(fresh)
	if notes, ds, ok := s.takeUp(fresh, nil, nil); len(notes)+len(ds) != 0 || !ok {
		t.Errorf("%d notes and %d datagrams of the connection before", len(notes), len(ds))
	}
}

// Frames join a datagram that was let go and not yet taken, up to the MTU.
func TestFillsDatagrams(t *testing.T) {
	s, b := newSender()
	const frames, size = 100, 100
	for i := range uint64(frames) {
		if err := s.send(to(frame.Frame{Data: transporttest.Frame(i, size)})); err != nil {
			t.Fatal(err)
		}
		s.flush()
	}
	each := s.limit / (encap.NativePacketHeader + size)
	_, ds, _ := s.takeUp(b, nil, nil)
	if want := (frames + each - 1) / each; len(ds) != want {
		t.Errorf("%d frames are in %d datagrams, want %d", frames, len(ds), want)
	}
	got := 0
	for _, d := range ds {
		if len(d.b) > s.limit {
			t.Errorf("a datagram has %d bytes, more than %d", len(d.b), s.limit)
		}
		for r := encap.NewNativeReader(d.b); ; got++ {
			i, ok := r.Next()
			if !ok {
				break
			}
			if i.Type == padding {
				got--
				continue
			}
			if pk, ok := i.Packet(); !ok || len(pk.Frame.Data) != size {
				t.Error("a frame came out changed")
			}
		}
	}
	if got != frames {
		t.Errorf("%d frames, want %d", got, frames)
	}
}

func TestSendDoesNotAllocate(t *testing.T) {
	s, b := newSender()
	f := transporttest.TCP(1, 40000, 1200, false)
	ds := make([]datagram, 0, takeAtOnce)
	run := func() {
		_ = s.send(to(f))
		s.flush()
		_, ds, _ = s.takeUp(b, nil, ds)
	}
	for range maxQueued { // all of the ring has memory
		run()
	}
	if n := testing.AllocsPerRun(100, run); n > 1 {
		t.Errorf("%v allocations per super-frame, want none but the test's packet", n)
	}
}
