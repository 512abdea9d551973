package transporttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"meshd/internal/frame"
	"meshd/transport"
)

// supers are super-frames whose segments fit an MTU, with full and odd lengths.
func supers(mtu int) (all []frame.Frame) {
	for _, v6 := range []bool{false, true} {
		headers := 20
		if v6 {
			headers = 40
		}
		mss, size := mtu-headers-tcpHeader, mtu-headers-udpHeader
		n := uint64(100)
		add := func(f frame.Frame) { all = append(all, f); n++ }
		for _, payload := range []int{65000, 40 * mss, 2 * mss, mss + 1, mss} {
			add(TCP(n, payload, mss, v6))
		}
		add(TCP(n, 20000, 536, v6))
		for _, payload := range []int{60000, 2 * size, size + 1, size} {
			add(UDP(n, payload, size, v6))
		}
		add(UDP(n, 20000, 512, v6))
	}
	return all
}

// sendFrame sends a frame, and fails if it was changed. The bytes are worth
// nothing afterwards: they were borrowed for the call.
func sendFrame(t *testing.T, from, to *End, path transport.Path, f frame.Frame) {
	t.Helper()
	p := packet(from, to, bytes.Clone(f.Data))
	p.Frame.Offload = f.Offload
	if err := path.Send(p); err != nil {
		t.Fatalf("Send of a frame of %d bytes, %+v: %v", len(f.Data), f.Offload, err)
	}
	if !bytes.Equal(p.Frame.Data, f.Data) {
		t.Errorf("Send of a frame of %d bytes changed it", len(f.Data))
	}
	for i := range p.Frame.Data {
		p.Frame.Data[i] = 0xee
	}
}

// whole are the frames that the packets stand for: with complete checksums, and
// cut where the transport left or put segments together.
func whole(t *testing.T, packets []frame.Packet) (all [][]byte) {
	t.Helper()
	for _, p := range packets {
		segments := Segments(p.Frame)
		if segments == nil {
			t.Errorf("a frame of %d bytes came whose metadata %+v lie", len(p.Frame.Data), p.Frame.Offload)
		}
		all = append(all, segments...)
	}
	return all
}

// sameFrames fails unless the frames that arrived are the segments of those that
// were sent, in order.
func sameFrames(t *testing.T, got []frame.Packet, sent []frame.Frame) {
	t.Helper()
	var want [][]byte
	for _, f := range sent {
		want = append(want, Segments(f)...)
	}
	have := whole(t, got)
	if len(have) != len(want) {
		t.Fatalf("%d frames arrived, want %d", len(have), len(want))
	}
	for i := range want {
		if !bytes.Equal(have[i], want[i]) {
			t.Fatalf("frame %d of %d bytes is\n%x, want %d bytes\n%x", i, len(have[i]), have[i][:min(80, len(have[i]))], len(want[i]), want[i][:min(80, len(want[i]))])
		}
	}
}

func (s suite) superFrames(t *testing.T) {
	p, c := s.connect(t)
	for _, f := range supers(c.A.State().MTU) { // one by one
		sendFrame(t, p.A, p.B, c.A.Path, f)
		send(t, c.A.Path)
		wait(rtt + s.traits.Delay)
		sameFrames(t, p.B.Take(), []frame.Frame{f})
	}
	var sent []frame.Frame
	count := 0
	before := c.A.Counters.Tx.Stats().Frames
	for i, f := range supers(c.A.State().MTU) { // in one batch, with others between them
		ordinary := frame.Frame{Data: Frame(uint64(i), 60+i)}
		for _, x := range []frame.Frame{f, ordinary} {
			sendFrame(t, p.A, p.B, c.A.Path, x)
			sent = append(sent, x)
			count += len(Segments(x))
		}
	}
	send(t, c.A.Path)
	wait(rtt + s.traits.Delay)
	unordered(t, whole(t, p.B.Take()), sent)
	if got := c.A.Counters.Tx.Stats().Frames - before; got != uint64(count) {
		t.Errorf("%d frames counted as sent, want the %d segments", got, count)
	}
	if got := c.B.Counters.Rx.Stats(); len(got.Drops) > 0 {
		t.Errorf("the receiver dropped %v", got.Drops)
	}
}

// unordered fails unless the frames that arrived are the segments of those that
// were sent; frames of one kind may overtake those of another.
func unordered(t *testing.T, got [][]byte, sent []frame.Frame) {
	t.Helper()
	var want [][]byte
	for _, f := range sent {
		want = append(want, Segments(f)...)
	}
	slices.SortFunc(got, bytes.Compare)
	slices.SortFunc(want, bytes.Compare)
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d frames arrived, not the %d that were sent", len(got), len(want))
	}
}

// superTooBig sends super-frames whose segments the path does not carry.
func (s suite) superTooBig(t *testing.T) {
	p, c := s.connect(t)
	mtu := c.A.State().MTU
	for _, f := range []frame.Frame{
		TCP(1, 60000, mtu-51, false), TCP(1, 60000, mtu-71, true), UDP(1, 60000, mtu-27, false), TCP(1, 30000, 0, false),
	} {
		pk := packet(p.A, p.B, f.Data)
		pk.Frame.Offload = f.Offload
		big, ok := errors.AsType[*transport.TooBigError](c.A.Path.Send(pk))
		if !ok || big.MTU != mtu {
			t.Errorf("Send of segments of %d bytes = %v, want too big for %d", len(Segments(f)[0])-frame.HeaderLen, big, mtu)
		}
	}
	send(t, c.A.Path)
	wait(rtt + s.traits.Delay)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d packets arrived, want none", len(got))
	}
	works(t, p, c)
}

// superLoss loses datagrams of runs. What arrives are segments that were sent,
// whole and in order, and most of them; over a stream all.
func (s suite) superLoss(t *testing.T) {
	p, c := s.connect(t)
	lossy := lan
	lossy.Loss = 0.05
	p.Net.Connect(p.A.Host, p.B.Host, lossy)
	sent, arrived := 0, 0
	for i := range uint64(20) {
		f := TCP(i, 60000, 1200, i%2 == 0)
		sendFrame(t, p.A, p.B, c.A.Path, f)
		send(t, c.A.Path)
		wait(rtt + s.traits.Delay)
		want := Segments(f)
		sent += len(want)
		for _, b := range whole(t, p.B.Take()) {
			at := slices.IndexFunc(want, func(w []byte) bool { return bytes.Equal(w, b) })
			if at < 0 {
				t.Fatalf("a frame of %d bytes arrived that was not sent, or comes too late", len(b))
			}
			want = want[at+1:]
			arrived++
		}
	}
	if (arrived == sent) != s.traits.Stream || arrived < sent*9/10 {
		t.Errorf("%d of %d segments arrived over a link that loses 5 %%", arrived, sent)
	}
}

// unfinished sends frames whose checksums the sender left to the network card.
func (s suite) unfinished(t *testing.T) {
	p, c := s.connect(t)
	var sent []frame.Frame
	for i := range uint64(200) {
		size := 1 + int(i*7)%1200
		sent = append(sent, TCP(i, size, 0, false), UDP(i, size, 0, false))
	}
	for _, f := range sent {
		sendFrame(t, p.A, p.B, c.A.Path, f)
	}
	send(t, c.A.Path)
	wait(rtt + s.traits.Delay)
	sameFrames(t, p.B.Take(), sent)
	sent = []frame.Frame{TCP(1, 0, 0, true), UDP(1, 999, 0, true), UDP(2, 1, 0, true)}
	for _, f := range sent {
		sendFrame(t, p.A, p.B, c.A.Path, f)
	}
	send(t, c.A.Path)
	wait(rtt + s.traits.Delay)
	sameFrames(t, p.B.Take(), sent)
	// A checksum that is wrong is somebody's business, but not the path's.
	wrong := frame.Frame{Data: Segments(TCP(3, 500, 0, false))[0]}
	wrong.Data[len(wrong.Data)-1] ^= 0x55
	sendFrame(t, p.A, p.B, c.A.Path, wrong)
	send(t, c.A.Path)
	wait(rtt + s.traits.Delay)
	sameFrames(t, p.B.Take(), []frame.Frame{wrong})
}

// lies sends frames whose metadata do not fit them. None arrives.
func (s suite) lies(t *testing.T) {
	p, c := s.connect(t)
	good := TCP(1, 5000, 1000, false)
	change := func(f func(o *frame.Frame)) frame.Frame {
		g := frame.Frame{Data: bytes.Clone(good.Data), Offload: good.Offload}
		f(&g)
		return g
	}
	for i, f := range []frame.Frame{
		change(func(f *frame.Frame) { f.Data = f.Data[:3000] }),
		change(func(f *frame.Frame) { f.Data = f.Data[:40] }),
		change(func(f *frame.Frame) { f.Offload.GSOSize = 0 }),
		change(func(f *frame.Frame) { f.Offload.GSOType = frame.GSOTCPv6 }),
		change(func(f *frame.Frame) { f.Offload.GSOType = frame.GSOUDP }),
		change(func(f *frame.Frame) { f.Offload.GSOType = 77 }),
		change(func(f *frame.Frame) { f.Offload.CsumStart = 65535 }),
		change(func(f *frame.Frame) { f.Offload.CsumOffset = 65535 }),
		{Data: Frame(1, 100), Offload: frame.Offload{Flags: frame.NeedsCsum, CsumStart: 99, CsumOffset: 1}},
		{Data: make([]byte, 13), Offload: good.Offload},
		{Offload: good.Offload},
	} {
		pk := packet(p.A, p.B, f.Data)
		pk.Frame.Offload = f.Offload
		if err := c.A.Path.Send(pk); err != nil {
			t.Errorf("Send of lie %d = %v, want nil: it is counted", i, err)
		}
		if got := c.A.Counters.Tx.Stats().Drops[transport.DropMalformed.String()]; got != uint64(i+1) {
			t.Errorf("%d drops after lie %d, want %d", got, i, i+1)
		}
	}
	send(t, c.A.Path)
	wait(rtt + s.traits.Delay)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d packets arrived, want none", len(got))
	}
	works(t, p, c)
}

// clamps opens TCP connections between hosts whose MTU is larger than the path's.
func (s suite) clamps(t *testing.T) {
	p, c := s.connect(t)
	mtu := c.A.State().MTU
	for _, tt := range []struct {
		announced int
		v6        bool
		want      int
	}{
		{8960, false, mtu - 40}, {65495, true, mtu - 60}, {mtu - 40, false, mtu - 40}, {536, false, 536}, {1220, true, 1220},
	} {
		sendFrame(t, p.A, p.B, c.A.Path, frame.Frame{Data: SYN(uint16(tt.announced), tt.v6)})
		send(t, c.A.Path)
		wait(rtt + s.traits.Delay)
		got := whole(t, p.B.Take())
		if len(got) != 1 {
			t.Fatalf("%d frames arrived, want the SYN", len(got))
		}
		option := got[0][len(got[0])-2:]
		if mss := int(binary.BigEndian.Uint16(option)); mss != tt.want {
			t.Errorf("a SYN that asks for %d asks for %d over an MTU of %d, want %d", tt.announced, mss, mtu, tt.want)
		}
		if !bytes.Equal(got[0], SYN(uint16(tt.want), tt.v6)) {
			t.Errorf("the SYN that asks for %d has other bytes changed, or a wrong checksum", tt.announced)
		}
	}
}

// hops sends packets with a hop limit.
func (s suite) hops(t *testing.T) {
	p, c := s.connect(t)
	limits := []uint8{1, 3, 255, 2, 2}
	for i, limit := range limits {
		pk := packet(p.A, p.B, Frame(uint64(i), 100))
		pk.Hops = limit
		send(t, c.A.Path, pk)
	}
	super := packet(p.A, p.B, nil)
	super.Frame, super.Hops = TCP(1, 10000, 1000, false), 7
	send(t, c.A.Path, super)
	wait(rtt + s.traits.Delay)
	got := p.B.Take()
	if len(got) <= len(limits) {
		t.Fatalf("%d packets arrived, want more than %d", len(got), len(limits))
	}
	for i, pk := range got {
		want := super.Hops
		if i < len(limits) {
			want = limits[i]
		}
		if pk.Hops != want {
			t.Errorf("packet %d has %d hops left, want %d", i, pk.Hops, want)
		}
	}
}
