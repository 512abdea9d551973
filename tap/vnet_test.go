package tap

import (
	"encoding/binary"
	"testing"

	"meshd/internal/frame"
)

func TestVnetRoundTrip(t *testing.T) {
	a, b := farContainer(1), farContainer(2)
	for _, s := range allStreams(a, b) {
		for _, f := range []frame.Frame{s.super(pattern(9000), 1300), s.partial(pattern(50), 0), {Data: cut(t, s.partial(pattern(50), 0))[0]}} {
			var h [vnetLen]byte
			putVnet(&h, f.Offload)
			if got, ok := parseVnet(&h, f.Data); !ok || got != f.Offload {
				t.Errorf("%v: parseVnet(putVnet()) = %+v, %v; want %+v", s, got, ok, f.Offload)
			}
		}
	}
}

func TestParseVnet(t *testing.T) {
	tcp := stream{src: farContainer(1), dst: farContainer(2)}
	super, plain := tcp.super(pattern(9000), 1300), tcp.partial(pattern(9), 0)
	header := func(f frame.Frame, change func(h []byte)) *[vnetLen]byte {
		var h [vnetLen]byte
		putVnet(&h, f.Offload)
		change(h[:])
		return &h
	}
	put := binary.NativeEndian.PutUint16
	for _, tt := range []struct {
		name   string
		f      frame.Frame
		change func(h []byte)
		want   frame.Offload
		ok     bool
	}{
		{"checksums were checked", plain, func(h []byte) { h[vnetFlags] = frame.DataValid }, frame.Offload{}, true},
		{"rest of the header without meaning", plain, func(h []byte) { h[vnetFlags] = 0 }, frame.Offload{}, true},
		{"flag of a later driver", super, func(h []byte) { h[vnetFlags] |= 8 }, super.Offload, true},
		{"kernel's idea of the header's length", super, func(h []byte) { put(h[vnetHdrLen:], 1000) }, super.Offload, true},
		{"no header's length", super, func(h []byte) { put(h[vnetHdrLen:], 0) }, super.Offload, true},
		{"no segment size", super, func(h []byte) { put(h[vnetGSOSize:], 0) }, frame.Offload{}, false},
		{"checksum begins behind the frame", plain, func(h []byte) { put(h[vnetCsumStart:], 1000) }, frame.Offload{}, false},
		{"checksum lies behind the frame", plain, func(h []byte) { put(h[vnetCsumOffset:], 1000) }, frame.Offload{}, false},
		{"UDP fragments", super, func(h []byte) { h[vnetGSOType] = 3 }, frame.Offload{}, false},
		{"no frame", frame.Frame{Offload: super.Offload}, func([]byte) {}, frame.Offload{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseVnet(header(tt.f, tt.change), tt.f.Data)
			if ok != tt.ok || ok && got != tt.want {
				t.Errorf("parseVnet() = %+v, %v; want %+v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

// FuzzTake: what the reader takes can be cut, into as many frames as it counts,
// none longer than it may be.
func FuzzTake(f *testing.F) {
	for _, s := range allStreams(farContainer(1), farContainer(2)) {
		for _, fr := range []frame.Frame{s.super(pattern(4000), 1300), s.super(pattern(3), 1), s.partial(pattern(100), 0)} {
			var h [vnetLen]byte
			putVnet(&h, fr.Offload)
			f.Add(append(h[:], fr.Data...))
		}
	}
	f.Add([]byte{})
	f.Add(make([]byte, vnetLen))
	r := newReader(DefaultMTU, true)
	var c frame.Cutter
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > r.slot {
			return
		}
		r.n, r.bytes, r.segments, r.tooBig, r.malformed = 0, 0, 0, 0, 0
		if !r.take(b, true) {
			if r.tooBig+r.malformed == 0 || r.n != 0 {
				t.Errorf("refused without being counted: n %d, too big %d, malformed %d", r.n, r.tooBig, r.malformed)
			}
			return
		}
		fr := r.frames[0]
		if r.n != 1 || r.bytes != len(fr.Data) || len(fr.Data) != len(b)-vnetLen {
			t.Fatalf("took %d frames of %d bytes, the first of %d, from %d", r.n, r.bytes, len(fr.Data), len(b))
		}
		if err := c.Begin(fr); err != nil {
			t.Fatalf("cannot be cut: %v", err)
		}
		if fr.Offload.Flags&frame.NeedsCsum == 0 && fr.Offload.GSOType != frame.GSONone {
			return // where its headers end was not looked at
		}
		if c.Segments() != r.segments || c.Segments() > 1 && c.SegmentLen() > r.max {
			t.Errorf("%d segments of %d bytes, counted %d of at most %d", c.Segments(), c.SegmentLen(), r.segments, r.max)
		}
	})
}
