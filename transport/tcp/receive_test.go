package tcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// newReading reads what the neighbour that is returned seals, without goroutines.
func newReading(t testing.TB, deliver frame.Handler) (*reading, *neighbour) {
	t.Helper()
	tr := &Transport{deliver: deliver, log: slog.New(slog.DiscardHandler)}
	p := newPath(tr, transport.Session{Secret: &secret, Counters: &transport.Counters{}})
	open, err := encap.NewNativeOpen(&secret, bestSuite())
	if err != nil {
		t.Fatal(err)
	}
	return &reading{p: p, b: &bound{open: open}, buf: make([]byte, smallBuffer)}, newNeighbour(t, nil, &secret, &secret)
}

// feed reads b as if it came in pieces of at most piece bytes.
func (r *reading) feed(b []byte, piece int) error {
	for len(b) > 0 {
		n := copy(r.buf[r.have:], b[:min(piece, len(b))])
		if n == 0 {
			return errors.New("there is no room for more")
		}
		r.have += n
		b = b[n:]
		if err := r.take(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

// Records come out the same however they are cut, and the buffer is no larger than
// it may be.
func TestRecordsInPieces(t *testing.T) {
	for _, piece := range []int{1, 97, 1460, 40000, 1 << 20} {
		t.Run(fmt.Sprint(piece), func(t *testing.T) {
			var got []frame.Packet
			r, n := newReading(t, func(batch []frame.Packet) {
				for _, p := range batch {
					p.Frame.Data = bytes.Clone(p.Frame.Data)
					got = append(got, p)
				}
			})
			var stream []byte
			var want []frame.Packet
			add := func(items []byte, ps ...frame.Packet) {
				stream = append(stream, n.sealed(t, items)...)
				want = append(want, ps...)
			}
			rng := rand.New(rand.NewPCG(1, uint64(piece)))
			frames := uint64(60)
			if piece == 1 {
				frames = 5
			}
			for i := range frames {
				p := frame.Packet{Src: nameA, Dst: nameB, Hops: 3, Frame: frame.Frame{Data: transporttest.Frame(i, 14+rng.IntN(2000))}}
				super := p
				super.Frame = transporttest.TCP(i, 2000+rng.IntN(60000), 1300, i%2 == 0)
				super.Frame.Offload.HdrLen = 0
				switch i % 4 {
				case 0:
					add(encap.AppendNativeSuper(nil, &super), super)
				case 1:
					add(encap.AppendNativePacket(encap.AppendNativePacket(nil, &p), &p), p, p)
				case 2:
					add(nil)
				case 3:
					p.Frame.Data = transporttest.Frame(i, encap.NativePacketMax-6)
					add(encap.AppendNativePacket([]byte{0x70, 0, 0, 2, 1, 2}, &p), p)
				}
				if i%16 == 15 {
					if err := n.seal.Advance(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := r.feed(stream, piece); err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("%d packets, want %d", len(got), len(want))
			}
			for i := range want {
				w, g := want[i], got[i]
				if g.Src != w.Src || g.Hops != w.Hops || g.Frame.Offload != w.Frame.Offload || !bytes.Equal(g.Frame.Data, w.Frame.Data) {
					t.Fatalf("packet %d has changed", i)
				}
			}
			if len(r.buf) > largeBuffer || r.have != 0 {
				t.Errorf("the buffer has %d bytes, of which %d are left", len(r.buf), r.have)
			}
			if got := r.b.rekeys.Load(); got != (frames-1)/16 {
				t.Errorf("%d changes of keys, want %d", got, (frames-1)/16)
			}
			for range 2 * shrinkAfter {
				if err := r.feed(n.sealed(t, item(1, 100)), 1<<20); err != nil {
					t.Fatal(err)
				}
			}
			if len(r.buf) != smallBuffer {
				t.Errorf("the buffer of an idle connection has %d bytes, want %d", len(r.buf), smallBuffer)
			}
		})
	}
}

// What is no record, or not the next one, ends the connection; nothing of it is
// delivered.
func TestRecordsRefused(t *testing.T) {
	length := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	for _, tt := range []struct {
		name string
		make func(n *neighbour) []byte
		want error
		drop string
	}{
		{"length of nothing", func(*neighbour) []byte { return length(0) }, errRecord, "malformed"},
		{"shorter than any", func(*neighbour) []byte { return length(encap.NativeOverhead - 1) }, errRecord, "malformed"},
		{"longer than any", func(*neighbour) []byte { return length(recordSealed + 1) }, errRecord, "malformed"},
		{"all ones", func(*neighbour) []byte { return length(1<<32 - 1) }, errRecord, "malformed"},
		{"garbage", func(*neighbour) []byte { return append(length(100), make([]byte, 100)...) }, errSealed, "auth"},
		{"a bit changed", func(n *neighbour) []byte {
			b := n.sealed(t, item(1, 100))
			b[50] ^= 1
			return b
		}, errSealed, "auth"},
		{"one is missing", func(n *neighbour) []byte { n.sealed(t, nil); return n.sealed(t, item(1, 100)) }, errSealed, "auth"},
		{"doubled", func(n *neighbour) []byte {
			b := n.sealed(t, nil)
			return append(b, b...)
		}, errSealed, "auth"},
		{"out of order", func(n *neighbour) []byte {
			a, b := n.sealed(t, nil), n.sealed(t, nil)
			return append(b, a...)
		}, errSealed, "auth"},
		{"two keys ahead", func(n *neighbour) []byte {
			n.seal.Advance()
			n.seal.Advance()
			return n.sealed(t, nil)
		}, errSealed, "auth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := 0
			r, n := newReading(t, func(batch []frame.Packet) { got += len(batch) })
			if err := r.feed(tt.make(n), 1<<20); !errors.Is(err, tt.want) {
				t.Errorf("take = %v, want %v", err, tt.want)
			}
			if got != 0 {
				t.Errorf("%d packets were delivered", got)
			}
			if d := r.p.session.Counters.Rx.Stats().Drops; d[tt.drop] != 1 || len(d) != 1 {
				t.Errorf("drops %v, want one %s", d, tt.drop)
			}
		})
	}
}

// Items that lie are dropped and counted; those beside them are delivered.
func TestItemsRefused(t *testing.T) {
	got := 0
	r, n := newReading(t, func(batch []frame.Packet) { got += len(batch) })
	super := func(change func(f *frame.Frame)) []byte {
		p := frame.Packet{Src: nameA, Dst: nameB, Hops: 1, Frame: transporttest.TCP(1, 20000, 1000, false)}
		change(&p.Frame)
		return encap.AppendNativeSuper(nil, &p)
	}
	bad := [][]byte{
		super(func(f *frame.Frame) { f.Offload.GSOSize = 0 }),
		super(func(f *frame.Frame) { f.Offload.GSOSize = 1 }), // 20,000 frames
		super(func(f *frame.Frame) { f.Offload.GSOType = 77 }),
		super(func(f *frame.Frame) { f.Offload.CsumStart = 65535 }),
		super(func(f *frame.Frame) { f.Data = f.Data[:1000] }),
		{1, 0, 0, 0}, {7, 1, 0, 0}, {3, 0, 0, 1, 9}, {4, 0, 0, 0}, {1, 2, 3},
	}
	for i, b := range bad {
		if err := r.feed(n.sealed(t, append(item(1, 100), b...)), 1<<20); err != nil {
			t.Fatalf("item %d ends the connection: %v", i, err)
		}
		if d := r.p.session.Counters.Rx.Stats().Drops["malformed"]; d != uint64(i+1) || got != i+1 {
			t.Fatalf("%d dropped and %d delivered after item %d, want %d each", d, got, i, i+1)
		}
	}
}

func TestReceiveDoesNotAllocate(t *testing.T) {
	r, n := newReading(t, func([]frame.Packet) {})
	p := &frame.Packet{Src: nameA, Dst: nameB, Hops: 1, Frame: transporttest.TCP(1, 40000, 1300, false)}
	it := encap.AppendNativeSuper(item(1, 500), p)
	b := make([]byte, beforeItems, beforeItems+len(it)+encap.NativeTagLen)
	run := func() {
		s, err := sealRecord(n.seal, append(b[:beforeItems], it...))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.feed(s, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	run()
	if n := testing.AllocsPerRun(500, run); n != 0 {
		t.Errorf("%v allocations per record, want none", n)
	}
}

// FuzzRecords reads what a stranger may send in place of records.
func FuzzRecords(f *testing.F) {
	_, n := newReading(f, nil)
	good := n.sealed(f, item(1, 60))
	f.Add(good, 7)
	f.Add(append(good, good...), 1000)
	f.Add(binary.BigEndian.AppendUint32(nil, recordSealed), 1)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		r, _ := newReading(t, func(batch []frame.Packet) {
			for _, p := range batch {
				if len(p.Frame.Data) < frame.HeaderLen {
					t.Fatalf("a frame of %d bytes", len(p.Frame.Data))
				}
			}
		})
		_ = r.feed(b, max(piece, 1))
		if len(r.buf) > largeBuffer {
			t.Fatalf("the buffer has %d bytes", len(r.buf))
		}
	})
}

// FuzzItems reads what a neighbour may send.
func FuzzItems(f *testing.F) {
	p := &frame.Packet{Src: nameA, Dst: nameB, Hops: 1, Frame: transporttest.TCP(1, 3000, 1300, false)}
	f.Add(item(1, 60))
	f.Add(encap.AppendNativeSuper(encap.AppendNativeProbe(nil, encap.NativeQuestion{}), p))
	f.Add(encap.AppendNativeReply(encap.AppendNativeTest(nil, 100), encap.NativeAnswer{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 65535 {
			return
		}
		r, n := newReading(t, func(batch []frame.Packet) {
			for _, p := range batch {
				if frame.CheckOffload(p.Frame) != nil || p.Frame.Wild() {
					t.Fatalf("a frame was delivered whose metadata %+v lie", p.Frame.Offload)
				}
			}
		})
		if err := r.feed(n.sealed(t, b), 1<<20); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzOpening reads what anybody may send to the control port behind the header.
func FuzzOpening(f *testing.F) {
	f.Add(make([]byte, openingLen-headerLen+32))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := bytes.NewBuffer(bytes.Clone(b))
		o, err := readOpening(c)
		if (err == nil) != (len(b) >= openingLen-headerLen) {
			t.Fatalf("an opening of %d bytes: %v", len(b), err)
		}
		if err != nil {
			return
		}
		var out bytes.Buffer
		if _, err := o.answer(twoWay{c, &out}, []byte("key")); err == nil {
			t.Fatal("nobody knows the key")
		}
		if out.Len() > answerLen {
			t.Fatalf("answered with %d bytes", out.Len())
		}
	})
}

type twoWay struct {
	io.Reader
	io.Writer
}
