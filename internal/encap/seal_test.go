package encap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"meshd/internal/frame"
)

var testKey = [32]byte{1, 2, 3, 31: 9}

const testSender = frame.PeerName(0x020000000001)

func TestSealCounts(t *testing.T) {
	s := NewSleeveSeal(&testKey, true)
	var got []uint64
	for _, df := range []bool{true, true, false, true, false} {
		got = append(got, binary.BigEndian.Uint64(s.Seal(nil, testSender, nil, df)[offSeq:]))
	}
	want := []uint64{1 << 63, 1<<63 + 1, 0, 1<<63 + 2, 1}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("sequence numbers %x, want %x", got, want)
	}
}

func TestSealConcurrently(t *testing.T) {
	const workers, each = 8, 500
	s := NewSleeveSeal(&testKey, false)
	sealed := make([][][]byte, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for range each {
				sealed[i] = append(sealed[i], s.Seal(nil, testSender, []byte("packets"), i%2 == 0))
			}
		})
	}
	wg.Wait()
	o := NewSleeveOpen(&testKey, false)
	for _, ds := range sealed {
		for _, d := range ds {
			if _, err := o.Open(nil, d); err != nil {
				t.Fatalf("Open(%x) = %v", d, err) // two with one number are a replay
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good := NewSleeveSeal(&testKey, true).Seal(nil, testSender, []byte("packets"), true)
	flip := func(at int) []byte {
		d := bytes.Clone(good)
		d[at] ^= 1
		return d
	}
	otherKey := testKey
	otherKey[0]++
	tests := []struct {
		name     string
		open     *SleeveOpen
		datagram []byte
		want     error
	}{
		{"nothing", NewSleeveOpen(&testKey, true), nil, ErrShort},
		{"only a name", NewSleeveOpen(&testKey, true), good[:SleeveNameLen], ErrShort},
		{"a byte too short for a seal", NewSleeveOpen(&testKey, true), good[:SleeveNameLen+SleeveSealOverhead-1], ErrShort},
		{"cut", NewSleeveOpen(&testKey, true), good[:len(good)-1], ErrAuth},
		{"longer", NewSleeveOpen(&testKey, true), append(bytes.Clone(good), 0), ErrAuth},
		{"changed class", NewSleeveOpen(&testKey, true), flipTop(good), ErrAuth},
		{"changed sequence", NewSleeveOpen(&testKey, true), flip(offSeq + 7), ErrAuth},
		{"changed tag", NewSleeveOpen(&testKey, true), flip(offBox), ErrAuth},
		{"changed content", NewSleeveOpen(&testKey, true), flip(len(good) - 1), ErrAuth},
		{"reflected to its sender", NewSleeveOpen(&testKey, false), good, ErrAuth},
		{"other key", NewSleeveOpen(&otherKey, true), good, ErrAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.open.Open([]byte("dst"), tt.datagram)
			if !errors.Is(err, tt.want) || string(got) != "dst" {
				t.Errorf("Open = %q, %v; want dst as it was, %v", got, err, tt.want)
			}
		})
	}
}

func flipTop(good []byte) []byte {
	d := bytes.Clone(good)
	d[offSeq] ^= 0x80
	return d
}

func TestOpenReplay(t *testing.T) {
	s, o := NewSleeveSeal(&testKey, true), NewSleeveOpen(&testKey, true)
	df := s.Seal(nil, testSender, []byte("df"), true)
	plain := s.Seal(nil, testSender, []byte("plain"), false)
	forged := bytes.Clone(plain)
	forged[len(forged)-1] ^= 1
	steps := []struct {
		name     string
		datagram []byte
		want     error
	}{
		{"first of the DF class", df, nil},
		{"forged with a number not yet seen", forged, ErrAuth},
		{"first of the other class", plain, nil},
		{"DF again", df, ErrReplay},
		{"other again", plain, ErrReplay},
	}
	for _, tt := range steps {
		if got, err := o.Open([]byte("dst"), tt.datagram); !errors.Is(err, tt.want) {
			t.Errorf("%s: Open = %v, want %v", tt.name, err, tt.want)
		} else if err != nil && string(got) != "dst" {
			t.Errorf("%s: dst = %q", tt.name, got)
		}
	}
}

func TestSealAppends(t *testing.T) {
	s, o := NewSleeveSeal(&testKey, true), NewSleeveOpen(&testKey, true)
	got := s.Seal([]byte("before"), testSender, []byte("packets"), true)
	if !bytes.HasPrefix(got, []byte("before")) || len(got) != 6+SleeveNameLen+SleeveSealOverhead+7 {
		t.Fatalf("Seal = %x", got)
	}
	if name := frame.PeerNameOf(got[6:]); name != testSender {
		t.Errorf("sender %v, want %v", name, testSender)
	}
	opened, err := o.Open([]byte("before"), got[6:])
	if err != nil || string(opened) != "beforepackets" {
		t.Errorf("Open = %q, %v", opened, err)
	}
}

func FuzzSleeveOpen(f *testing.F) {
	_, sealed := loadGolden(f)
	key := [32]byte(unhex(f, sealed[0].Crypto.Key))
	for _, d := range sealed {
		if d.Payload.whole != nil {
			f.Add(d.Payload.whole, d.Crypto.Dialled)
		}
	}
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, datagram []byte, dialled bool) {
		o := NewSleeveOpen(&key, dialled)
		packets, err := o.Open(nil, datagram)
		if err != nil {
			if len(packets) != 0 {
				t.Fatalf("Open gave %d bytes with %v", len(packets), err)
			}
			return
		}
		s := NewSleeveSeal(&key, dialled)
		seq := binary.BigEndian.Uint64(datagram[offSeq:])
		s.next[seq>>63].Store(seq &^ seqDF)
		again := s.Seal(nil, frame.PeerNameOf(datagram), packets, seq>>63 == 1)
		if !bytes.Equal(again, datagram) {
			t.Fatalf("%x opened and sealed is %x", datagram, again)
		}
		if _, err := o.Open(nil, datagram); !errors.Is(err, ErrReplay) {
			t.Fatalf("second Open = %v", err)
		}
	})
}

// TestNoAllocation walks a datagram through all steps of both directions.
func TestNoAllocation(t *testing.T) {
	s, o := NewSleeveSeal(&testKey, true), NewSleeveOpen(&testKey, true)
	data := make([]byte, 1400)
	packets := make([]byte, 0, 2048)
	datagram, opened := make([]byte, 0, 2048), make([]byte, 0, 2048)
	got := testing.AllocsPerRun(1000, func() {
		packets = AppendSleevePacket(packets[:0], testSender, 2, data)
		datagram = s.Seal(datagram[:0], testSender, packets, true)
		plain, err := o.Open(opened[:0], datagram)
		if err != nil {
			t.Fatal(err)
		}
		r := NewSleeveReader(plain)
		if p, ok := r.Next(); !ok || len(p.Frame.Data) != len(data) {
			t.Fatal("the packet was lost")
		}
		if _, err := o.Open(opened[:0], datagram); err != ErrReplay {
			t.Fatal(err)
		}
	})
	if got != 0 {
		t.Errorf("%v allocations per datagram, want 0", got)
	}
}

var sizes = []int{64, 1400, 8900}

func BenchmarkSeal(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := NewSleeveSeal(&testKey, true)
			packets, datagram := make([]byte, size), make([]byte, 0, size+64)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				datagram = s.Seal(datagram[:0], testSender, packets, true)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			datagram := NewSleeveSeal(&testKey, true).Seal(nil, testSender, make([]byte, size), true)
			o, opened := NewSleeveOpen(&testKey, true), make([]byte, 0, size+64)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if opened, err = o.Open(opened[:0], datagram); err != nil {
					b.Fatal(err)
				}
				*o.windows[1].cur.pages[0], o.windows[1].cur.seen[0] = page{}, 0 // or the next is a replay
			}
		})
	}
}
