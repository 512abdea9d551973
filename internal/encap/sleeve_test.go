package encap

import (
	"bytes"
	"errors"
	"testing"

	"meshd/internal/frame"
)

func TestSleeveReaderTrailing(t *testing.T) {
	one := AppendSleevePacket(nil, 1, 2, []byte("first"))
	empty := AppendSleevePacket(nil, 3, 4, nil)
	tests := []struct {
		name    string
		packets []byte
		want    int
		err     error
	}{
		{"nothing", nil, 0, nil},
		{"one", one, 1, nil},
		{"an empty frame", empty, 1, nil},
		{"two", append(bytes.Clone(one), empty...), 2, nil},
		{"a byte more", append(bytes.Clone(one), 0), 1, ErrTrailing},
		{"a header less one byte", append(bytes.Clone(one), empty[:SleevePacketHeader-1]...), 1, ErrTrailing},
		{"a frame less one byte", one[:len(one)-1], 0, ErrTrailing},
		{"a length of 65535", append(bytes.Clone(empty[:offPacketLen]), 0xff, 0xff), 0, ErrTrailing},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewSleeveReader(tt.packets)
			got := 0
			for _, ok := r.Next(); ok; _, ok = r.Next() {
				got++
			}
			if got != tt.want || !errors.Is(r.Err(), tt.err) {
				t.Errorf("%d packets, Err %v; want %d, %v", got, r.Err(), tt.want, tt.err)
			}
		})
	}
}

func TestSleeveReaderKeepsFramesApart(t *testing.T) {
	b := AppendSleevePacket(AppendSleevePacket(nil, 1, 2, []byte("one")), 1, 2, []byte("two"))
	r := NewSleeveReader(b)
	p, _ := r.Next()
	if got := append(p.Frame.Data, "overwritten"...); &got[0] == &b[SleevePacketHeader] {
		t.Error("appending to a frame writes into the next packet")
	}
	if p, ok := r.Next(); !ok || string(p.Frame.Data) != "two" {
		t.Errorf("second frame %q, %v", p.Frame.Data, ok)
	}
}

func TestAppendSleevePacketTooLong(t *testing.T) {
	before := []byte("before")
	if got := AppendSleevePacket(before, 1, 2, make([]byte, 65536)); string(got) != "before" {
		t.Errorf("a frame of 65536 bytes appended %d bytes", len(got)-len(before))
	}
	if got := AppendSleevePacket(before, 1, 2, make([]byte, 65535)); len(got) != 6+14+65535 {
		t.Errorf("a frame of 65535 bytes gave %d bytes", len(got))
	}
}

func FuzzSleeveReader(f *testing.F) {
	plain, sealed := loadGolden(f)
	for _, d := range append(plain, sealed...) {
		if d.Len < 4096 {
			f.Add(d.packets(f))
		}
	}
	f.Add([]byte{})
	f.Add(make([]byte, SleevePacketHeader-1))
	f.Fuzz(func(t *testing.T, packets []byte) {
		r := NewSleeveReader(packets)
		var again []byte
		for p, ok := r.Next(); ok; p, ok = r.Next() {
			again = AppendSleevePacket(again, p.Src, p.Dst, p.Frame.Data)
		}
		if !bytes.HasPrefix(packets, again) {
			t.Fatalf("%x was read as %x", packets, again)
		}
		if whole := len(again) == len(packets); whole != (r.Err() == nil) {
			t.Fatalf("%d of %d bytes read, Err = %v", len(again), len(packets), r.Err())
		}
	})
}

func BenchmarkSleeveReader(b *testing.B) {
	var packets []byte
	for range 10 {
		packets = AppendSleevePacket(packets, 1, 2, make([]byte, 132))
	}
	b.SetBytes(int64(len(packets)))
	for b.Loop() {
		r := NewSleeveReader(packets)
		var last frame.Packet
		for p, ok := r.Next(); ok; p, ok = r.Next() {
			last = p
		}
		if last.Dst != 2 {
			b.Fatal("wrong packet")
		}
	}
}
