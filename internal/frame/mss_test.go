package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// syn is a recipe for a SYN that announces an MSS behind nops.
func syn(mss uint16, nops int) recipe {
	r := flow(0)
	r.flags = tcpSYN
	r.tcpOpts = bytes.Repeat([]byte{tcpOptNop}, nops)
	r.tcpOpts = append(r.tcpOpts, tcpOptMSS, 4, byte(mss>>8), byte(mss))
	for len(r.tcpOpts)%4 != 0 {
		r.tcpOpts = append(r.tcpOpts, tcpOptNop)
	}
	return r
}

// mss finds the last MSS option of a frame, as its receiver would.
func mss(t testing.TB, b []byte) (mss int) {
	t.Helper()
	l, ok := findLayers(b)
	if !ok {
		t.Fatalf("no TCP: %x", b)
	}
	for o := b[l.l4+tcpHeaderLen : l.payload]; len(o) > 0; {
		if o[0] == tcpOptNop {
			o = o[1:]
			continue
		}
		if o[0] == tcpOptMSS {
			mss = int(binary.BigEndian.Uint16(o[2:]))
		}
		o = o[o[1]:]
	}
	return mss
}

func TestClampMSS(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for nops := range 4 {
			for _, flags := range []uint8{tcpSYN, tcpSYN | tcpACK | tcpECE} {
				for tags := range 3 {
					for _, from := range []uint16{1460, 1361, 8960, 65535} {
						r := syn(from, nops)
						r.v6, r.flags, r.tags = v6, flags, [][]byte{tag(EtherTypeQinQ, 1), tag(EtherTypeVLAN, 2)}[:tags]
						want := 1400 - 40
						if v6 {
							want = 1400 - 60
						}
						b := r.frame()
						if !ClampMSS(b, 1400) || mss(t, b) != want {
							t.Errorf("v6 %v: MSS %d became %d, want %d", v6, from, mss(t, b), want)
						}
						wholeSum(t, b)
						if ClampMSS(b, 1400) {
							t.Error("it was changed once more")
						}
					}
				}
			}
		}
	}
}

// TestClampMSSWrongSum: a wrong checksum is as wrong as it was.
func TestClampMSSWrongSum(t *testing.T) {
	b := syn(1460, 1).frame()
	l, _ := findLayers(b)
	before := Sum(PseudoSum(l.addrs(b), l.proto, l.end-l.l4), with(b, l.l4+tcpChecksum, 0x12, 0x34)[l.l4:])
	copy(b[l.l4+tcpChecksum:], []byte{0x12, 0x34})
	if !ClampMSS(b, 1400) {
		t.Fatal("it was not changed")
	}
	if got := Sum(PseudoSum(l.addrs(b), l.proto, l.end-l.l4), b[l.l4:]); got != before || got == 0xffff {
		t.Errorf("the sum was %#x and is %#x", before, got)
	}
}

func TestClampMSSLeaves(t *testing.T) {
	good := syn(1460, 0)
	change := func(f func(r *recipe)) []byte {
		r := good
		f(&r)
		return r.frame()
	}
	b := good.frame()
	options := HeaderLen + 20 + 20
	tests := []struct {
		name  string
		frame []byte
		mtu   int
	}{
		{"fits", b, 1500},
		{"no room", b, 87},
		{"negative MTU", b, -1},
		{"ACK", change(func(r *recipe) { r.flags = tcpACK }), 1400},
		{"ACK in a VLAN", change(func(r *recipe) { r.flags, r.tags = tcpACK, [][]byte{tag(EtherTypeVLAN, 3)} }), 1400},
		{"ACK over IPv6", change(func(r *recipe) { r.flags, r.v6 = tcpACK, true }), 1400},
		{"UDP", change(func(r *recipe) { r.udp, r.payload = true, count(40) }), 1400},
		{"no options", change(func(r *recipe) { r.tcpOpts = nil }), 1400},
		{"after the end", change(func(r *recipe) { r.tcpOpts = append([]byte{0, 1, 1, 1}, r.tcpOpts...) }), 1400},
		{"option of length 0", with(b, options+1, 0), 1400},
		{"option of length 1", with(b, options+1, 1), 1400},
		{"option too long", with(b, options+1, 5), 1400},
		{"option of length 3", with(b, options+1, 3, 0xff, 1), 1400},
		{"fragment", with(b, HeaderLen+ipv4Frag, 0, 1), 1400},
		{"first fragment", with(b, HeaderLen+ipv4Frag, 0x20), 1400},
		{"TCP header too long", with(b, HeaderLen+20+tcpOff, 0xf0), 1400},
		{"cut", b[:len(b)-1], 1400},
		{"ARP", ethernet(EtherTypeARP, count(60)), 1400},
		{"empty", nil, 1400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := bytes.Clone(tt.frame)
			if ClampMSS(tt.frame, tt.mtu) || !bytes.Equal(tt.frame, before) {
				t.Errorf("%x became %x", before, tt.frame)
			}
		})
	}
}

func FuzzClampMSS(f *testing.F) {
	rng := rand.New(rand.NewPCG(12, 12))
	for i := range 8 {
		f.Add(syn(1460, i).frame(), 1400)
		f.Add(randomRecipe(rng, 40).frame(), 1400)
	}
	f.Fuzz(func(t *testing.T, b []byte, mtu int) {
		before := bytes.Clone(b)
		if !ClampMSS(b, mtu) {
			if !bytes.Equal(b, before) {
				t.Fatalf("%x became %x", before, b)
			}
			return
		}
		l, ok := findLayers(before)
		after, _ := findLayers(b)
		if !ok || l != after || l.proto != protoTCP || mtu < 88 {
			t.Fatalf("%x at %d became %x", before, mtu, b)
		}
		field := l.l4 + tcpChecksum
		for i := range b {
			inOptions := i >= l.l4+tcpHeaderLen && i < l.payload
			inSum := i == field || i == field+1
			if b[i] != before[i] && !inOptions && !inSum {
				t.Fatalf("byte %d of %x changed: %x", i, before, b)
			}
		}
		if was, is := Sum(0, before[l.l4:l.end]), Sum(0, b[l.l4:l.end]); was%0xffff != is%0xffff {
			t.Fatalf("the sum was %#x and is %#x", was, is)
		}
	})
}

func BenchmarkClampMSS(b *testing.B) {
	v6 := flow(100)
	v6.v6 = true
	for name, f := range map[string][]byte{"ack": flow(100).frame(), "ack6": v6.frame(), "syn": syn(1360, 0).frame()} {
		b.Run(fmt.Sprint(name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ClampMSS(f, 1400)
			}
		})
	}
}
