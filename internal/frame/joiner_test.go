package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

const joinAll = JoinTCPv4 | JoinTCPv6 | JoinUDP

// frames turns segments into frames of one Offload.
func frames(o Offload, segs ...[]byte) (f []Frame) {
	for _, s := range segs {
		f = append(f, Frame{Data: s, Offload: o})
	}
	return f
}

// segments cuts a super-frame into the frames that a transport would bring.
func segments(t testing.TB, f Frame) []Frame {
	t.Helper()
	var c Cutter
	return frames(Offload{}, cutAll(t, &c, f)...)
}

// counts tells of how many frames each joined one is made.
func counts(out []Joined) (n []int) {
	for _, o := range out {
		n = append(n, o.Frames)
	}
	return n
}

// whole puts a joined frame in one piece.
func whole(o Joined) Frame {
	return Frame{Data: append(bytes.Clone(o.Head), bytes.Join(o.Pieces, nil)...), Offload: o.Offload}
}

// flowName names the flow of a frame; all that is of none has one name.
func flowName(b []byte) string {
	l, ok := findLayers(b)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%x %v %d %x %x", b[:l.l3], l.v6, l.proto, l.addrs(b), b[l.l4:l.l4+4])
}

// normal makes equal what means the same: the two zeros of a TCP checksum, and
// identifications of packets that are never fragmented.
func normal(b []byte) []byte {
	l, ok := findLayers(b)
	if !ok || l.end != len(b) {
		return b
	}
	b = bytes.Clone(b)
	if sum := b[l.l4+l.checksumOffset():]; l.proto == protoTCP && sum[0]&sum[1] == 0xff {
		sum[0], sum[1] = 0, 0
	}
	if ip := b[l.l3:l.l4]; !l.v6 && ip[ipv4Frag]&(ipv4DF>>8) != 0 && Checksum(ip) == 0 {
		ip[ipv4ID], ip[ipv4ID+1] = 0, 0
		putIPv4Checksum(ip)
	}
	return b
}

// wantUndone checks what Join made of a batch: cut again it is the batch, flow
// by flow in its order, and what is not joined is what it was.
func wantUndone(t testing.TB, in []Frame, out []Joined) {
	t.Helper()
	flows := map[string][]Frame{}
	for _, f := range in {
		flows[flowName(f.Data)] = append(flows[flowName(f.Data)], f)
	}
	total := 0
	for i, o := range out {
		f := whole(o)
		name := flowName(f.Data)
		if len(flows[name]) < o.Frames || o.Frames < 1 {
			t.Fatalf("frame %d of %d has %d frames of flow %s, which has %d left", i, len(out), o.Frames, name, len(flows[name]))
		}
		from := flows[name][:o.Frames]
		flows[name] = flows[name][o.Frames:]
		total += o.Frames
		if len(f.Data) != o.Bytes {
			t.Fatalf("frame %d has %d bytes, %d are told", i, len(f.Data), o.Bytes)
		}
		if o.Frames == 1 {
			if !bytes.Equal(f.Data, from[0].Data) || f.Offload != from[0].Offload || o.Pieces != nil {
				t.Fatalf("frame %d was not joined but changed:\n%x %+v\n%x %+v", i, from[0].Data, from[0].Offload, f.Data, f.Offload)
			}
			continue
		}
		wantCutTo(t, f, from)
	}
	if total != len(in) {
		t.Fatalf("%d frames became %d", len(in), total)
	}
}

// wantCutTo checks that a super-frame is cut to these frames.
func wantCutTo(t testing.TB, f Frame, want []Frame) {
	t.Helper()
	if err := CheckOffload(f); err != nil {
		t.Fatalf("%v: %+v of %x", err, f.Offload, f.Data[:min(len(f.Data), 100)])
	}
	c := Classify(f.Data)
	if ip := f.Data[c.L3:]; c.Kind != IPv6 && Checksum(ip[:ipv4HeaderLen]) != 0 {
		t.Fatalf("a joined IP header has a wrong checksum: %x", ip[:ipv4HeaderLen])
	}
	if c.L3+c.Len != len(f.Data) || c.Len > maxJoinedIP {
		t.Fatalf("a joined packet has %d bytes and is in a frame of %d", c.Len, len(f.Data))
	}
	got := segments(t, f)
	if len(got) != len(want) {
		t.Fatalf("%d frames were joined and cut to %d", len(want), len(got))
	}
	for i := range want {
		want[i].Offload.Flags &^= DataValid
		if !bytes.Equal(normal(got[i].Data), normal(want[i].Data)) || got[i].Offload.Flags != want[i].Offload.Flags {
			t.Fatalf("segment %d of %d differs:\n%x %+v\n%x %+v", i, len(want), got[i].Data, got[i].Offload, want[i].Data, want[i].Offload)
		}
	}
}

// TestJoinRandom: super-frames that were cut are joined again, several flows at
// once, all of them whole.
func TestJoinRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 13))
	j := NewJoiner(joinAll)
	for round := range 300 {
		var flows [][]Frame
		pieces := 0
		for i := range 1 + rng.IntN(maxFlows) {
			r := randomRecipe(rng, 3000)
			r.flags &^= tcpCWR
			r.ipOpts, r.ext, r.ports = nil, nil, uint32(i)<<16|1
			segs := segments(t, r.super(1+max(len(r.payload)/(1+rng.IntN(60)), 1)))
			flows = append(flows, segs)
			pieces += len(segs)
		}
		in, want := shuffle(rng, flows), len(flows)
		out := j.Join(in)
		wantUndone(t, in, out)
		if len(out) != want {
			t.Fatalf("round %d: %d frames of %d flows became %d", round, pieces, want, len(out))
		}
	}
}

// shuffle interleaves flows.
func shuffle(rng *rand.Rand, flows [][]Frame) (in []Frame) {
	for len(flows) > 0 {
		i := rng.IntN(len(flows))
		in = append(in, flows[i][0])
		if flows[i] = flows[i][1:]; len(flows[i]) == 0 {
			flows = append(flows[:i], flows[i+1:]...)
		}
	}
	return in
}

// TestJoinHostile: whatever is changed, left out, repeated or exchanged in a
// batch, nothing is made of it that was not in it.
func TestJoinHostile(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 14))
	j := NewJoiner(joinAll)
	joined := 0
	for range 3000 {
		var flows [][]Frame
		for i := range 1 + rng.IntN(5) {
			r := randomRecipe(rng, 1000)
			r.ports = uint32(i)
			flows = append(flows, segments(t, r.super(1+rng.IntN(300))))
		}
		in := shuffle(rng, flows)
		for range rng.IntN(6) {
			harm(rng, in)
		}
		out := j.Join(in)
		wantUndone(t, in, out)
		joined += len(in) - len(out)
	}
	if joined < 1000 {
		t.Errorf("only %d frames were joined", joined)
	}
}

// harm does something bad to a batch.
func harm(rng *rand.Rand, in []Frame) {
	a, b := rng.IntN(len(in)), rng.IntN(len(in))
	switch rng.IntN(5) {
	case 0:
		in[a], in[b] = in[b], in[a]
	case 1:
		in[a] = in[b]
	case 2:
		in[a].Data = bytes.Clone(in[a].Data)
		in[a].Data[rng.IntN(len(in[a].Data))] ^= 1 << rng.IntN(8)
	case 3:
		in[a].Data = in[a].Data[:rng.IntN(len(in[a].Data))]
	case 4:
		in[a].Offload = Offload{Flags: uint8(rng.Uint32()), GSOType: uint8(rng.IntN(6)), CsumStart: uint16(rng.IntN(80))}
	}
}

// TestJoinRules has for each rule of the Joiner a run of four segments of 100
// bytes, of which the third is another than it should be.
func TestJoinRules(t *testing.T) {
	type edit func(b []byte, l layers)
	tcp := func(at int, x ...byte) edit { return func(b []byte, l layers) { copy(b[l.l4+at:], x) } }
	ip := func(at int, x ...byte) edit { return func(b []byte, l layers) { copy(b[l.l3+at:], x) } }
	flags := func(x byte) edit { return func(b []byte, l layers) { b[l.l4+tcpFlags] |= x } }
	v4, v6, udp, frag := flow(400), flow(400), flow(400), flow(400)
	v6.v6, udp.udp, frag.frag = true, true, 0
	tests := []struct {
		name string
		r    recipe
		edit edit
		want []int
	}{
		{"nothing", v4, func([]byte, layers) {}, []int{4}},
		{"nothing, v6", v6, func([]byte, layers) {}, []int{4}},
		{"nothing, UDP", udp, func([]byte, layers) {}, []int{4}},
		{"nothing, without DF", frag, func([]byte, layers) {}, []int{4}},
		{"sequence number", v4, tcp(tcpSeq, 1), []int{2, 1, 1}},
		{"acknowledgement", v4, tcp(tcpAck, 1), []int{2, 1, 1}},
		{"window", v4, tcp(tcpWindow, 1), []int{2, 1, 1}},
		{"timestamp", v4, tcp(tcpHeaderLen+4, 9), []int{2, 1, 1}},
		{"PSH", v4, flags(tcpPSH), []int{3, 1}},
		{"FIN", v4, flags(tcpFIN), []int{3, 1}},
		{"SYN", v4, flags(tcpSYN), []int{2, 1, 1}},
		{"RST", v4, flags(tcpRST), []int{2, 1, 1}},
		{"URG", v4, flags(tcpURG), []int{2, 1, 1}},
		{"CWR", v4, flags(tcpCWR), []int{2, 1, 1}},
		{"ECE", v4, flags(tcpECE), []int{2, 1, 1}},
		{"reserved flag", v4, func(b []byte, l layers) { b[l.l4+tcpOff] |= 1 }, []int{2, 1, 1}},
		{"urgent pointer", v4, tcp(tcpUrgent, 1), []int{2, 1, 1}},
		{"TTL", v4, ip(ipv4TTL, 63), []int{2, 1, 1}},
		{"TOS", v4, ip(ipv4TOS, 1), []int{2, 1, 1}},
		{"DF", v4, ip(ipv4Frag, 0), []int{2, 1, 1}},
		{"reserved IP flag", v4, ip(ipv4Frag, 0xc0), []int{2, 1, 1}},
		{"ID with DF", v4, ip(ipv4ID, 77), []int{4}},
		{"ID without DF", frag, ip(ipv4ID, 77), []int{2, 1, 1}},
		{"more fragments", v4, ip(ipv4Frag, 0x20), []int{2, 1, 1}},
		{"hop limit", v6, ip(ipv6Hops, 63), []int{2, 1, 1}},
		{"class", v6, ip(0, 0x6f), []int{2, 1, 1}},
		{"flow label", v6, ip(2, 1), []int{2, 1, 1}},
		{"UDP TTL", udp, ip(ipv4TTL, 63), []int{2, 1, 1}},
		{"other port", v4, tcp(0, 1), []int{2, 1, 1}}, // the fourth does not follow the second
		{"other port, UDP", udp, tcp(0, 1), []int{3, 1}},
		{"other address", udp, ip(ipv4Src, 11), []int{3, 1}},
		{"other address, v6", v6, ip(ipv6Src, 0xfe), []int{2, 1, 1}},
		{"other source MAC", udp, func(b []byte, l layers) { b[offSrc]++ }, []int{3, 1}},
		{"other destination MAC", udp, func(b []byte, l layers) { b[0]++ }, []int{3, 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := segments(t, tt.r.super(100))
			l, _ := findLayers(in[2].Data)
			tt.edit(in[2].Data, l)
			resum(in[2].Data, l)
			out := NewJoiner(joinAll).Join(in)
			wantUndone(t, in, out)
			if got := counts(out); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("joined to %v, want %v", got, tt.want)
			}
		})
	}
}

// resum makes the checksums of a frame right again.
func resum(b []byte, l layers) {
	if !l.v6 {
		putIPv4Checksum(b[l.l3:l.l4])
	}
	sum := b[l.l4+l.checksumOffset():]
	binary.BigEndian.PutUint16(sum, PseudoSum(l.addrs(b), l.proto, l.end-l.l4))
	binary.BigEndian.PutUint16(sum, ^Sum(0, b[l.l4:l.end]))
}

// TestJoinChecksums: a wrong checksum keeps a segment out, and stays wrong.
func TestJoinChecksums(t *testing.T) {
	for _, udp := range []bool{false, true} {
		for wrong := range 4 {
			for _, header := range []bool{false, true} {
				r := flow(400)
				r.udp = udp
				in := segments(t, r.super(100))
				l, _ := findLayers(in[wrong].Data)
				at := l.l4 + l.checksumOffset()
				if header {
					at = l.l3 + ipv4Checksum
				}
				in[wrong].Data[at] ^= 0x40
				out := NewJoiner(joinAll).Join(in)
				wantUndone(t, in, out)
				want := [][]int{{1, 3}, {1, 1, 2}, {2, 1, 1}, {3, 1}}[wrong]
				if got := counts(out); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("segment %d of 4 wrong: joined to %v, want %v", wrong, got, want)
				}
			}
		}
	}
}

// TestJoinNot: frames that are left alone, and end what their flow has open.
func TestJoinNot(t *testing.T) {
	run := segments(t, flow(400).super(100))
	ack := flow(0)
	super := flow(300)
	opts, ext, off := flow(100), flow(100), flow(100)
	opts.ipOpts = []byte{1, 1, 1, 1}
	ext.v6, ext.ext = true, []uint8{extDstOpts}
	off.udp = true
	noSum := off.frame()
	copy(noSum[HeaderLen+20+udpChecksum:], []byte{0, 0})
	long := append(off.frame(), 0, 0)
	shorter := with(off.frame(), HeaderLen+20+udpLen, 0, 9)
	fragment := with(run[2].Data, HeaderLen+ipv4Frag, 0, 1)
	putIPv4Checksum(fragment[HeaderLen : HeaderLen+20])
	between := func(f Frame) []Frame { return []Frame{run[0], run[1], f, run[2], run[3]} }
	twice := func(b []byte) []Frame { return frames(Offload{}, b, b) }
	tests := []struct {
		name string
		can  JoinWhat
		in   []Frame
		want []int
	}{
		{"none", joinAll, nil, nil},
		{"an empty one", joinAll, frames(Offload{}, nil, []byte{1}), []int{1, 1}},
		{"pure ACK", joinAll, between(Frame{Data: ack.frame()}), []int{2, 1, 2}},
		{"super-frame", joinAll, between(super.super(100)), []int{2, 1, 2}},
		{"IP options", joinAll, between(Frame{Data: opts.frame()}), []int{2, 1, 2}},
		{"only IP options", joinAll, twice(opts.frame()), []int{1, 1}},
		{"extension header", joinAll, twice(ext.frame()), []int{1, 1}},
		{"fragment", joinAll, between(Frame{Data: fragment}), []int{2, 1, 2}},
		{"cut header", joinAll, between(Frame{Data: run[2].Data[:40]}), []int{2, 1, 2}},
		{"ARP", joinAll, between(Frame{Data: ethernet(EtherTypeARP, count(28))}), []int{4, 1}},
		{"ICMP", joinAll, between(Frame{Data: with(opts.frame(), HeaderLen+ipv4Proto, protoICMP)}), []int{4, 1}},
		{"UDP without checksum", joinAll, twice(noSum), []int{1, 1}},
		{"UDP with padding", joinAll, twice(long), []int{1, 1}},
		{"UDP length too short", joinAll, twice(shorter), []int{1, 1}},
		{"checked by somebody", joinAll, frames(Offload{Flags: DataValid}, run[0].Data, run[1].Data), []int{2}},
		{"complete and not", joinAll, append(run[:2:2], frames(flow(100).partial().Offload, run[2].Data, run[3].Data)...), []int{2, 1, 1}},
		{"wrong place of the sum", joinAll, frames(Offload{Flags: NeedsCsum, CsumStart: 14, CsumOffset: 10}, run[0].Data, run[1].Data), []int{1, 1}},
		{"no TCP over IPv4", JoinTCPv6 | JoinUDP, run, []int{1, 1, 1, 1}},
		{"nothing", 0, run, []int{1, 1, 1, 1}},
		{"no UDP", JoinTCPv6 | JoinTCPv4, twice(off.frame()), []int{1, 1}},
		{"UDP", JoinUDP, twice(off.frame()), []int{2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := NewJoiner(tt.can).Join(tt.in)
			wantUndone(t, tt.in, out)
			if got := counts(out); fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("joined to %v, want %v", got, tt.want)
			}
		})
	}
}

// TestJoinSizes: the last may be shorter, and ends the super-frame; limits.
func TestJoinSizes(t *testing.T) {
	r := flow(1000)
	var in []Frame
	for _, n := range []int{100, 100, 60, 60, 61, 1, 1, 2} {
		s := r
		s.payload = r.payload[:n]
		in = append(in, Frame{Data: s.frame()})
		r.payload = r.payload[n:]
		r.seq += uint32(n)
		r.id++
	}
	out := NewJoiner(joinAll).Join(in)
	wantUndone(t, in, out)
	if got := fmt.Sprint(counts(out)); got != "[3 1 2 1 1]" {
		t.Errorf("joined to %s", got)
	}
	tests := []struct {
		name    string
		r       recipe
		size, n int
		want    string
	}{
		{"TCP of one byte", flow(300), 1, 300, "[128 128 44]"},
		{"UDP", recipe{udp: true, payload: count(130)}, 1, 130, "[64 64 2]"},
		{"64 KiB", flow(60000), 1448, 50, "[45 5]"},
		{"64 KiB, v6", recipe{v6: true, payload: count(60000)}, 9000, 8, "[7 1]"},
	}
	for _, tt := range tests {
		// One super-frame may be too short for all the segments.
		var in []Frame
		for whole := tt.r.payload[:tt.size]; len(in) < tt.n; {
			s := tt.r
			s.payload = whole
			in = append(in, Frame{Data: s.frame()})
			tt.r.seq += uint32(tt.size)
			tt.r.id++
		}
		out := NewJoiner(joinAll).Join(in)
		wantUndone(t, in, out)
		if got := fmt.Sprint(counts(out)); got != tt.want {
			t.Errorf("%s: joined to %s, want %s", tt.name, got, tt.want)
		}
	}
}

// TestJoinManyFlows: more flows than are kept open lose nothing.
func TestJoinManyFlows(t *testing.T) {
	var in []Frame
	for n := range 3 {
		for i := range 3 * maxFlows {
			r := flow(300)
			r.ports = uint32(i)
			in = append(in, segments(t, r.super(100))[n])
		}
	}
	out := NewJoiner(joinAll).Join(in)
	wantUndone(t, in, out)
	if len(out) != len(in) {
		t.Errorf("%d frames became %d", len(in), len(out))
	}
}

func TestJoinAllocations(t *testing.T) {
	in := segments(t, flow(60000).super(1448))
	other := flow(20000)
	other.v6, other.udp = true, true
	in = append(in, segments(t, other.super(500))...)
	j := NewJoiner(joinAll)
	out := j.Join(in)
	if fmt.Sprint(counts(out)) != "[42 40]" {
		t.Fatalf("joined to %v", counts(out))
	}
	if got := testing.AllocsPerRun(100, func() { j.Join(in) }); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// FuzzJoin reads a batch from the input: two bytes of length, one that says what
// Offload the frame has, then the frame.
func FuzzJoin(f *testing.F) {
	rng := rand.New(rand.NewPCG(15, 15))
	for i := range 30 {
		r := randomRecipe(rng, 200)
		if i%2 == 0 {
			r.ipOpts, r.ext = nil, nil
		}
		var seed []byte
		for _, s := range segments(f, r.super(1+rng.IntN(60))) {
			seed = binary.BigEndian.AppendUint16(seed, uint16(len(s.Data)))
			seed = append(append(seed, s.Offload.Flags), s.Data...)
		}
		f.Add(seed, uint8(joinAll))
	}
	j := NewJoiner(joinAll)
	f.Fuzz(func(t *testing.T, b []byte, can uint8) {
		var in []Frame
		for len(b) > 3 {
			n, flags := min(int(binary.BigEndian.Uint16(b)), len(b)-3), b[2]
			fr := Frame{Data: b[3 : 3+n]}
			if flags&NeedsCsum != 0 {
				if l, ok := findLayers(fr.Data); ok {
					fr.Offload = l.partial()
				}
			}
			in = append(in, fr)
			b = b[3+n:]
		}
		j.can = JoinWhat(can)
		wantUndone(t, in, j.Join(in))
	})
}

func BenchmarkJoin(b *testing.B) {
	for _, size := range []int{1336, 1448} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			in := segments(b, flow(45*size).super(size))
			j, bytes := NewJoiner(joinAll), 0
			for _, o := range j.Join(in) {
				bytes += o.Bytes
			}
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			for b.Loop() {
				if out := j.Join(in); out[0].Frames != 45 {
					b.Fatal(counts(out))
				}
			}
		})
	}
	b.Run("64 flows of small datagrams", func(b *testing.B) {
		var in []Frame
		for i := range 64 {
			r := flow(64)
			r.udp, r.ports = true, uint32(i)
			in = append(in, Frame{Data: r.frame()})
		}
		j := NewJoiner(joinAll)
		b.ReportAllocs()
		for b.Loop() {
			if out := j.Join(in); len(out) != 64 {
				b.Fatal(counts(out))
			}
		}
	})
}
