package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// flow is a recipe like what containers send: TCP with timestamps.
func flow(payload int) recipe {
	return recipe{
		frag: ipv4DF, id: 0xfffe, seq: 0xfffff000, ack: 77, flags: tcpACK, ports: 0x1f90_c350,
		tcpOpts: append([]byte{1, 1, 8, 10}, count(8)...), payload: count(payload),
	}
}

// cutAll returns the segments of a frame.
func cutAll(t testing.TB, c *Cutter, f Frame) (segs [][]byte) {
	t.Helper()
	if err := c.Begin(f); err != nil {
		t.Fatalf("Begin: %v", err)
	}
	for {
		seg, ok := c.Next(nil)
		if !ok {
			return segs
		}
		segs = append(segs, seg)
	}
}

// wholeSum checks that a frame's lengths and checksums are complete and right.
func wholeSum(t testing.TB, b []byte) {
	t.Helper()
	l, ok := findLayers(b)
	if !ok || l.end != len(b) {
		t.Fatalf("a segment's headers do not hold: %x", b[:min(len(b), 100)])
	}
	if !l.v6 && Checksum(b[l.l3:l.l4]) != 0 {
		t.Fatalf("a segment's IP checksum is wrong: %x", b[:l.payload])
	}
	if Sum(PseudoSum(l.addrs(b), l.proto, l.end-l.l4), b[l.l4:]) != 0xffff {
		t.Fatalf("a segment's checksum is wrong: %x", b[:l.payload])
	}
	if l.proto == protoUDP && int(binary.BigEndian.Uint16(b[l.l4+udpLen:])) != len(b)-l.l4 {
		t.Fatalf("a datagram's length is wrong: %x", b[:l.payload])
	}
}

func TestCutTCP(t *testing.T) {
	r := flow(2500)
	r.flags = tcpACK | tcpCWR | tcpECE | tcpPSH | tcpFIN
	var c Cutter
	f := r.super(1000)
	segs := cutAll(t, &c, f)
	if len(segs) != 3 || c.Segments() != 3 || c.SegmentLen() != 66+1000 {
		t.Fatalf("%d segments, said %d of %d bytes", len(segs), c.Segments(), c.SegmentLen())
	}
	wantFlags := []byte{tcpACK | tcpCWR | tcpECE, tcpACK | tcpECE, tcpACK | tcpECE | tcpPSH | tcpFIN}
	var payload []byte
	for i, s := range segs {
		wholeSum(t, s)
		p := s[HeaderLen:]
		if got, want := binary.BigEndian.Uint16(p[ipv4ID:]), uint16(0xfffe+i); got != want {
			t.Errorf("segment %d has ID %#x, want %#x", i, got, want)
		}
		if got, want := binary.BigEndian.Uint32(p[20+tcpSeq:]), r.seq+uint32(1000*i); got != want {
			t.Errorf("segment %d has sequence number %#x, want %#x", i, got, want)
		}
		if got := p[20+tcpFlags]; got != wantFlags[i] {
			t.Errorf("segment %d has flags %#x, want %#x", i, got, wantFlags[i])
		}
		if !bytes.Equal(p[20+20:20+32], r.tcpOpts) {
			t.Errorf("segment %d has options %x", i, p[40:52])
		}
		payload = append(payload, p[52:]...)
	}
	if !bytes.Equal(payload, r.payload) {
		t.Error("the payload is not what it was")
	}
}

// TestCutUDP: a checksum of 0 is sent as 0xffff, and one that is off stays off.
func TestCutUDP(t *testing.T) {
	r := flow(4)
	r.udp = true
	// Of the two datagrams of two bytes the second's sum becomes 0 with this.
	r.payload[2], r.payload[3] = 0, 0
	var c Cutter
	plain := cutAll(t, &c, r.super(2))[1]
	copy(r.payload[2:], plain[len(plain)-4:]) // its checksum
	segs := cutAll(t, &c, r.super(2))
	if len(segs) != 2 || !bytes.Equal(segs[1][len(segs[1])-4:len(segs[1])-2], []byte{0xff, 0xff}) {
		t.Errorf("the checksum of %x is not 0xffff", segs[1])
	}
	wholeSum(t, segs[0])
	wholeSum(t, segs[1])

	f := r.super(2)
	f.Offload.Flags = 0
	copy(f.Data[HeaderLen+20+udpChecksum:], []byte{0, 0})
	if segs = cutAll(t, &c, f); len(segs) != 2 {
		t.Fatalf("%d segments", len(segs))
	}
	for i, s := range segs {
		if sum := s[HeaderLen+20+udpChecksum:][:2]; !bytes.Equal(sum, []byte{0, 0}) {
			t.Errorf("datagram %d without a checksum got %x", i, sum)
		}
	}
}

// TestCutInTunnel: an unfinished checksum inside a tunnel is completed too.
func TestCutInTunnel(t *testing.T) {
	inner := flow(100).partial()
	inner.Data[1] |= 2 // another frame, so that its sum is wrong if it is taken for the outer one's
	outer := recipe{udp: true, ports: 0x12b5_12b5, payload: append(make([]byte, 8), inner.Data...)}
	vxlan := Frame{Data: outer.frame(), Offload: inner.Offload}
	at := HeaderLen + 20 + 8 + 8
	vxlan.Offload.CsumStart += uint16(at)
	gre := bytes.Clone(vxlan.Data)
	gre[HeaderLen+ipv4Proto] = 47
	for name, f := range map[string]Frame{"VXLAN": vxlan, "GRE": {Data: gre, Offload: vxlan.Offload}} {
		var c Cutter
		segs := cutAll(t, &c, f)
		if len(segs) != 1 {
			t.Fatalf("%s: %d segments", name, len(segs))
		}
		wholeSum(t, segs[0][at:])
	}
}

func TestCutOrdinary(t *testing.T) {
	var c Cutter
	for _, data := range [][]byte{nil, {1, 2, 3}, flow(100).frame(), ethernet(EtherTypeARP, count(28))} {
		segs := cutAll(t, &c, Frame{Data: data, Offload: Offload{Flags: DataValid}})
		if len(segs) != 1 || !bytes.Equal(segs[0], data) || c.SegmentLen() != len(data) {
			t.Errorf("%x became %x", data, segs)
		}
	}
	f := flow(100).partial()
	before := bytes.Clone(f.Data)
	segs := cutAll(t, &c, f)
	wholeSum(t, segs[0])
	if !bytes.Equal(f.Data, before) {
		t.Error("the frame was changed")
	}
}

// TestCutAppends: Next leaves what is in dst, and returns it when it is done.
func TestCutAppends(t *testing.T) {
	var c Cutter
	dst := make([]byte, 3, 4000)
	if err := c.Begin(flow(2500).super(1000)); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ok := true; ok; n++ {
		var more []byte
		if more, ok = c.Next(dst); &more[0] != &dst[0] {
			t.Fatal("dst was moved though it has room")
		}
		dst = more
	}
	if n != 4 || len(dst) != 3+3*66+2500 {
		t.Errorf("%d calls of Next, %d bytes", n, len(dst))
	}
}

func TestCutAllocations(t *testing.T) {
	f, dst := flow(60000).super(1448), make([]byte, 0, 70000)
	var c Cutter
	if got := testing.AllocsPerRun(100, func() {
		if err := c.Begin(f); err != nil {
			t.Fatal(err)
		}
		for ok := true; ok; {
			dst, ok = c.Next(dst[:0])
		}
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func FuzzCut(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 9))
	for i := range 40 {
		r := randomRecipe(rng, 300)
		s := r.super(1 + rng.IntN(100))
		if i%4 == 0 {
			s = r.partial()
		}
		o := s.Offload
		f.Add(s.Data, o.Flags, o.GSOType, o.GSOSize, o.CsumStart, o.CsumOffset)
	}
	f.Fuzz(func(t *testing.T, b []byte, flags, gso uint8, size, start, offset uint16) {
		before := bytes.Clone(b)
		in := Frame{Data: b, Offload: Offload{Flags: flags, GSOType: gso, GSOSize: size, CsumStart: start, CsumOffset: offset}}
		var c Cutter
		err := c.Begin(in)
		if check := CheckOffload(in); !errors.Is(check, err) || err != nil && !errors.Is(err, ErrOffload) {
			t.Fatalf("Begin = %v, CheckOffload = %v", err, check)
		}
		var segs [][]byte
		for {
			seg, ok := c.Next(nil)
			if !ok {
				break
			}
			segs = append(segs, seg)
		}
		if !bytes.Equal(b, before) {
			t.Fatal("the frame was changed")
		}
		if err != nil {
			if len(segs) != 0 || c.Segments() != 0 {
				t.Fatalf("%d segments with %v", len(segs), err)
			}
			return
		}
		sameBytes(t, &c, b, segs)
	})
}

// sameBytes checks that segments have the lengths that c told and the payload of
// b, and that they are what c tells of them.
func sameBytes(t *testing.T, c *Cutter, b []byte, segs [][]byte) {
	t.Helper()
	if len(segs) != c.Segments() {
		t.Fatalf("%d segments, %d were told", len(segs), c.Segments())
	}
	header, payload := 0, []byte{}
	if len(segs) > 1 {
		l, _ := findLayers(segs[0])
		header = l.payload
		payload = append(payload, b[:header]...)
	}
	for i, s := range segs {
		if len(s) > c.SegmentLen() || i < len(segs)-1 && len(s) != c.SegmentLen() {
			t.Fatalf("segment %d of %d has %d bytes, %d were told", i, len(segs), len(s), c.SegmentLen())
		}
		payload = append(payload, s[header:]...)
	}
	if len(payload) != len(b) {
		t.Fatalf("%d bytes became %d", len(b), len(payload))
	}
	if len(segs) > 1 && !bytes.Equal(payload[header:], b[header:]) {
		t.Fatalf("%x became %x", b, segs)
	}
}

func BenchmarkCut(b *testing.B) {
	for _, size := range []int{1336, 1448} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			f, dst := flow(65535-52).super(size), make([]byte, 0, 80000)
			var c Cutter
			b.SetBytes(int64(len(f.Data)))
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Begin(f); err != nil {
					b.Fatal(err)
				}
				dst = dst[:0]
				for ok := true; ok; {
					dst, ok = c.Next(dst)
				}
			}
		})
	}
}
