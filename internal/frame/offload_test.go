package frame

import (
	"errors"
	"testing"
)

// TestCheckOffloadLies: each change of a good frame makes it a bad one.
func TestCheckOffloadLies(t *testing.T) {
	v4, v6, udp := flow(3000), flow(3000), flow(3000)
	v6.v6, udp.udp = true, true
	ext := v6
	ext.ext = []uint8{extHopByHop, extDstOpts}
	super := func(r recipe, change func(f *Frame)) Frame {
		f := r.super(1000)
		change(&f)
		return f
	}
	partial := func(r recipe, change func(f *Frame)) Frame {
		f := r.partial()
		change(&f)
		return f
	}
	ip := func(at int, x ...byte) func(f *Frame) {
		return func(f *Frame) { copy(f.Data[HeaderLen+at:], x) }
	}
	tests := []struct {
		name string
		f    Frame
	}{
		{"size 0", super(v4, func(f *Frame) { f.Offload.GSOSize = 0 })},
		{"size by fragments", super(v4, func(f *Frame) { f.Offload.GSOSize = 0xffff })},
		{"unknown flag", super(v4, func(f *Frame) { f.Offload.Flags |= 4 })},
		{"unknown flag of an ordinary frame", Frame{Data: v4.frame(), Offload: Offload{Flags: 0x80}}},
		{"UFO", super(udp, func(f *Frame) { f.Offload.GSOType = 3 })},
		{"TCP called UDP", super(v4, func(f *Frame) { f.Offload.GSOType = GSOUDP })},
		{"UDP called TCP", super(udp, func(f *Frame) { f.Offload.GSOType = GSOTCPv4 })},
		{"v4 called v6", super(v4, func(f *Frame) { f.Offload.GSOType = GSOTCPv6 })},
		{"v6 called v4", super(v6, func(f *Frame) { f.Offload.GSOType = GSOTCPv4 })},
		{"ECN of UDP", super(udp, func(f *Frame) { f.Offload.GSOType |= GSOECN })},
		{"ECN of nothing", partial(v4, func(f *Frame) { f.Offload.GSOType = GSOECN })},
		{"start early", super(v4, func(f *Frame) { f.Offload.CsumStart -= 2 })},
		{"start late", super(v4, func(f *Frame) { f.Offload.CsumStart += 2 })},
		{"start beyond", super(v4, func(f *Frame) { f.Offload.CsumStart = 0xffff })},
		{"offset of UDP", super(v4, func(f *Frame) { f.Offload.CsumOffset = udpChecksum })},
		{"offset beyond", super(v4, func(f *Frame) { f.Offload.CsumOffset = 0xffff })},
		{"length short", super(v4, ip(ipv4Len, 0, 60))},
		{"length 0", super(v4, ip(ipv4Len, 0, 0))},
		{"length long", super(v4, ip(ipv4Len, 0xff, 0xff))},
		{"trailing byte", super(v4, func(f *Frame) { f.Data = append(f.Data, 0) })},
		{"v6 length short", super(v6, ip(ipv6Len, 0, 60))},
		{"v6 length long", super(v6, ip(ipv6Len, 0xff, 0xff))},
		{"UDP length", super(udp, ip(20+udpLen, 0, 60))},
		{"UDP sum without NeedsCsum", super(udp, func(f *Frame) { f.Offload.Flags = 0 })},
		{"more fragments", super(v4, ip(ipv4Frag, 0x20))},
		{"fragment", super(v4, ip(ipv4Frag, 0, 1))},
		{"header length 4", super(v4, ip(0, 0x41))},
		{"version", super(v4, ip(0, 0x65))},
		{"TCP header of 4 bytes", super(v4, ip(20+tcpOff, 0x10))},
		{"other protocol", super(v4, ip(ipv4Proto, 132))},
		{"v6 fragment", super(ext, ip(ipv6Next, extFragment))},
		{"v6 authentication", super(ext, ip(ipv6Next, extAuth))},
		{"v6 extension too long", super(ext, ip(ipv6HeaderLen+1, 0xff, 0, 0, 0))},
		{"truncated", super(v4, func(f *Frame) { f.Data = f.Data[:HeaderLen+20+10] })},
		{"no IP", super(v4, func(f *Frame) { f.Data = f.Data[:HeaderLen] })},
		{"empty", super(v4, func(f *Frame) { f.Data = nil })},
		{"cut in a tag", super(v4, func(f *Frame) { f.Data = append(f.Data[:offType], 0x81, 0, 0) })},

		{"ordinary: start in the MACs", partial(v4, func(f *Frame) { f.Offload.CsumStart = 0 })},
		{"ordinary: start in the IP header", partial(v4, func(f *Frame) { f.Offload.CsumStart -= 4 })},
		{"ordinary: start after TCP's", partial(v4, func(f *Frame) { f.Offload.CsumStart += 4 })},
		{"ordinary: offset of UDP in TCP", partial(v4, func(f *Frame) { f.Offload.CsumOffset = udpChecksum })},
		{"ordinary: offset of TCP in UDP", partial(udp, func(f *Frame) { f.Offload.CsumOffset = tcpChecksum })},
		{"ordinary: field is cut", partial(udp, func(f *Frame) {
			f.Offload.CsumStart, f.Offload.CsumOffset = uint16(len(f.Data)-7), 6
		})},
		{"ordinary: beyond", partial(udp, func(f *Frame) { f.Offload.CsumStart = 0xffff })},
		{"ordinary: beyond the packet", partial(udp, func(f *Frame) {
			f.Offload.CsumStart = uint16(len(f.Data))
			f.Data = append(f.Data, make([]byte, 20)...)
		})},
		{"ordinary: fragment", partial(v4, ip(ipv4Frag, 0x20))},
		{"ordinary: v6 fragment", partial(ext, ip(ipv6Next, extFragment))},
		{"ordinary: v6 in an extension", partial(ext, func(f *Frame) { f.Offload.CsumStart = HeaderLen + ipv6HeaderLen })},
		{"ordinary: ARP", Frame{Data: ethernet(EtherTypeARP, count(28)), Offload: Offload{Flags: NeedsCsum, CsumStart: 14}}},
		{"ordinary: empty", Frame{Offload: Offload{Flags: NeedsCsum}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := CheckOffload(tt.f); !errors.Is(err, ErrOffload) {
				t.Errorf("CheckOffload(%+v) = %v, want %v", tt.f.Offload, err, ErrOffload)
			}
			var c Cutter
			if err := c.Begin(tt.f); !errors.Is(err, ErrOffload) {
				t.Errorf("Begin = %v, want %v", err, ErrOffload)
			}
			if seg, ok := c.Next(nil); ok || seg != nil || c.Segments() != 0 {
				t.Errorf("there is a segment of %d bytes", len(seg))
			}
		})
	}
	for _, r := range []recipe{v4, v6, udp, ext} {
		if err := CheckOffload(r.super(1000)); err != nil {
			t.Errorf("a good super-frame: %v", err)
		}
		if err := CheckOffload(r.partial()); err != nil {
			t.Errorf("a good frame: %v", err)
		}
	}
}

// TestHdrLenIsAHint: as in Linux, it may be anything.
func TestHdrLenIsAHint(t *testing.T) {
	for _, n := range []uint16{0, 1, 40, 0xffff} {
		f := flow(3000).super(1000)
		f.Offload.HdrLen = n
		if err := CheckOffload(f); err != nil {
			t.Errorf("HdrLen %d: %v", n, err)
		}
	}
}

// TestWild: no super-frame stands for more frames than MaxSegments.
func TestWild(t *testing.T) {
	for _, tt := range []struct {
		bytes, size int
		want        bool
	}{
		{65535, 8, false}, {65535, 7, true}, {65535, 0, true}, {MaxSegments, 1, false}, {MaxSegments + 1, 1, true},
	} {
		f := Frame{Data: make([]byte, tt.bytes), Offload: Offload{GSOType: GSOTCPv4, GSOSize: uint16(tt.size)}}
		if got := f.Wild(); got != tt.want {
			t.Errorf("Wild of %d bytes in segments of %d = %v, want %v", tt.bytes, tt.size, got, tt.want)
		}
		if f.Offload.GSOType = GSONone; f.Wild() {
			t.Errorf("an ordinary frame of %d bytes is wild", tt.bytes)
		}
	}
}
