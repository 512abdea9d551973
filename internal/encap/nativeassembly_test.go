package encap

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"meshd/internal/frame"
)

// part is a fragment of a frame of n numbered bytes.
func part(id uint32, offset, length, total int) *NativePart {
	data := make([]byte, length)
	for i := range data {
		data[i] = byte(offset + i)
	}
	return &NativePart{
		Packet: frame.Packet{Src: 0x020000000001, Dst: 0x020000000002, Hops: 5, Frame: frame.Frame{Data: data}},
		ID:     id, Offset: offset, Total: total,
	}
}

func TestAssembly(t *testing.T) {
	t0 := time.Unix(1000, 0)
	var a NativeAssembly
	rng := rand.New(rand.NewPCG(1, 1))
	for id := range uint32(200) {
		total := 14 + rng.IntN(NativeFrameMax-14)
		unit := (8 + rng.IntN(3000)) &^ 7
		var parts []*NativePart
		for at := 0; at < total; at += unit {
			parts = append(parts, part(id, at, min(unit, total-at), total))
		}
		rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		for i, f := range parts {
			whole, lost, ok := a.Add(t0, f)
			if !ok || lost != 0 || (whole != nil) != (i == len(parts)-1) {
				t.Fatalf("part %d of %d: whole %v, lost %d, ok %v", i, len(parts), whole != nil, lost, ok)
			}
			if whole != nil && !bytes.Equal(whole, part(0, 0, total, total).Packet.Frame.Data) {
				t.Fatal("put together wrongly")
			}
		}
		if a.bytes != 0 {
			t.Fatalf("%d bytes are held for nothing", a.bytes)
		}
	}
}

func TestAssemblyRefuses(t *testing.T) {
	t0 := time.Unix(1000, 0)
	change := func(f *NativePart, how func(*NativePart)) *NativePart { how(f); return f }
	for _, tt := range []struct {
		name  string
		parts []*NativePart
	}{
		{"odd offset", []*NativePart{part(1, 4, 8, 100)}},
		{"odd length", []*NativePart{part(1, 0, 9, 100)}},
		{"twice the same", []*NativePart{part(1, 0, 16, 100), part(1, 0, 16, 100)}},
		{"overlap", []*NativePart{part(1, 0, 16, 100), part(1, 8, 16, 100)}},
		{"another total", []*NativePart{part(1, 0, 16, 100), part(1, 16, 16, 101)}},
		{"another source", []*NativePart{part(1, 0, 16, 100), change(part(1, 16, 16, 100), func(f *NativePart) { f.Packet.Src++ })}},
		{"another destination", []*NativePart{part(1, 0, 16, 100), change(part(1, 16, 16, 100), func(f *NativePart) { f.Packet.Dst++ })}},
		{"another hop limit", []*NativePart{part(1, 0, 16, 100), change(part(1, 16, 16, 100), func(f *NativePart) { f.Packet.Hops++ })}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a NativeAssembly
			for i, f := range tt.parts {
				whole, _, ok := a.Add(t0, f)
				if whole != nil || ok != (i < len(tt.parts)-1) {
					t.Errorf("part %d: whole %v, ok %v", i, whole != nil, ok)
				}
			}
			if a.bytes != 0 {
				t.Error("the frame is not given up")
			}
		})
	}
}

func TestAssemblyBounds(t *testing.T) {
	t0 := time.Unix(1000, 0)
	var a NativeAssembly
	lostAll, most := 0, 0
	for id := range uint32(1000) {
		_, lost, _ := a.Add(t0.Add(time.Duration(id)*time.Millisecond), part(id, 0, 8, 60000))
		lostAll += lost
		most = max(most, a.bytes)
	}
	if held := 1000 - lostAll; held != maxPartBytes/60000 || most > maxPartBytes {
		t.Errorf("%d frames held, %d bytes at most; want %d and %d", held, most, maxPartBytes/60000, maxPartBytes)
	}
	a = NativeAssembly{}
	lostAll = 0
	for id := range uint32(100) {
		_, lost, _ := a.Add(t0.Add(time.Duration(id)*time.Millisecond), part(id, 0, 8, 1000))
		lostAll += lost
	}
	if lostAll != 100-NativePartsMax {
		t.Errorf("%d of 100 frames given up, want all but %d", lostAll, NativePartsMax)
	}
	if a.find(99) == nil || a.find(100-NativePartsMax) == nil || a.find(99-NativePartsMax) != nil {
		t.Error("not the oldest were given up")
	}
	if lost := a.Expire(t0.Add(NativePartsLive)); lost != 0 {
		t.Errorf("%d given up too early", lost)
	}
	if lost := a.Expire(t0.Add(time.Second + NativePartsLive)); lost != NativePartsMax || a.bytes != 0 {
		t.Errorf("%d given up after their time, %d bytes left; want %d and 0", lost, a.bytes, NativePartsMax)
	}
}
