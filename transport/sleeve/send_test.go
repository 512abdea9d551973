package sleeve

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// tagged puts VLAN tags into a frame.
func tagged(b []byte, tags int) []byte {
	for range tags {
		b = append(append(append([]byte(nil), b[:12]...), 0x81, 0, 0, 42), b[12:]...)
	}
	return b
}

func toHost2(b []byte) frame.Packet {
	return frame.Packet{Src: host1, Dst: host2, Frame: frame.Frame{Data: b}}
}

// The table of section 6.8, and what we add to it.
func TestSendClasses(t *testing.T) {
	const mtu = 1438
	type want struct {
		df     bool
		frames int // 0: dropped
		tooBig int // MTU of the error; 0: none
		drop   transport.Drop
	}
	tests := []struct {
		name    string
		mtu     int
		stackOK bool
		frame   []byte
		want    want
	}{
		{"IPv4 DF that fits", mtu, false, transporttest.IPv4Frame(1, mtu, true), want{df: true, frames: 1}},
		{"IPv4 DF too big", mtu, true, transporttest.IPv4Frame(1, mtu+1, true), want{tooBig: mtu, drop: transport.DropTooBig}},
		{"IPv4 that fits, stack ok", mtu, true, transporttest.IPv4Frame(1, mtu, false), want{frames: 1}},
		{"IPv4 that fits", mtu, false, transporttest.IPv4Frame(1, mtu, false), want{df: true, frames: 1}},
		{"IPv4 big, stack ok", mtu, true, transporttest.IPv4Frame(1, 9000, false), want{frames: 1}},
		{"IPv4 big", mtu, false, transporttest.IPv4Frame(1, 4000, false), want{df: true, frames: 3}},
		{"IPv4 big in a VLAN", mtu, false, tagged(transporttest.IPv4Frame(1, 2000, false), 1), want{df: true, frames: 2}},
		{"IPv6 that fits", mtu, false, transporttest.IPv6Frame(1, mtu), want{frames: 1}},
		{"IPv6 too big", mtu, true, transporttest.IPv6Frame(1, mtu+1), want{tooBig: mtu, drop: transport.DropTooBig}},
		{"IPv6 of 1280 over less", 1000, false, transporttest.IPv6Frame(1, 1280), want{frames: 1}},
		{"IPv6 of 1281 over less", 1000, false, transporttest.IPv6Frame(1, 1281), want{tooBig: 1000, drop: transport.DropTooBig}},
		{"VLAN, IPv4 DF that fits", mtu, false, tagged(transporttest.IPv4Frame(1, mtu-4, true), 1), want{df: true, frames: 1}},
		{"VLAN, IPv4 DF too big", mtu, false, tagged(transporttest.IPv4Frame(1, mtu-3, true), 1), want{tooBig: mtu - 4, drop: transport.DropTooBig}},
		{"two tags, IPv6 too big", mtu, false, tagged(transporttest.IPv6Frame(1, mtu), 2), want{tooBig: mtu - 8, drop: transport.DropTooBig}},
		{"VLAN, IPv6 of 1280 over less", 1000, false, tagged(transporttest.IPv6Frame(1, 1280), 1), want{frames: 1}},
		{"other that fits", mtu, false, transporttest.Frame(1, 100), want{frames: 1}},
		{"other, big", mtu, false, transporttest.Frame(1, 9000), want{frames: 1}},
		{"the largest", mtu, false, transporttest.Frame(1, encap.MaxDatagram-20), want{frames: 1}},
		{"larger than any datagram", mtu, false, transporttest.Frame(1, encap.MaxDatagram-19), want{drop: transport.DropTooBig}},
		{"no header", mtu, false, make([]byte, 13), want{drop: transport.DropMalformed}},
		{"empty", mtu, false, nil, want{drop: transport.DropMalformed}},
		{"zero header", mtu, false, make([]byte, 22), want{drop: transport.DropMalformed}},
		{"IPv4 that claims more than there is", mtu, false, transporttest.IPv4Frame(1, 4000, false)[:3000], want{frames: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, far := newWire(t, transporttest.Link{MTU: 65535})
			s := session(host1, nil, true)
			p := openPath(t, w, far, s, ignore)
			p.tx.route(far, w, tt.mtu)
			p.tx.setStackOK(tt.stackOK)
			err := p.Send(toHost2(tt.frame))
			if err2 := p.Flush(); err2 != nil {
				t.Fatal(err2)
			}
			if big, ok := errors.AsType[*transport.TooBigError](err); ok != (tt.want.tooBig != 0) || ok && big.MTU != tt.want.tooBig {
				t.Errorf("Send = %v, want too big for %d", err, tt.want.tooBig)
			}
			frames := 0
			for _, d := range w.take() {
				if d.DF != tt.want.df {
					t.Errorf("DF = %v, want %v", d.DF, tt.want.df)
				}
				if d.DF && len(d.Payload) > tt.mtu+34 {
					t.Errorf("a DF datagram has %d bytes, limit %d", len(d.Payload), tt.mtu+34)
				}
				r := encap.NewSleeveReader(d.Payload[encap.SleeveNameLen:])
				for _, ok := r.Next(); ok; _, ok = r.Next() {
					frames++
				}
			}
			if frames != tt.want.frames {
				t.Errorf("%d frames were sent, want %d", frames, tt.want.frames)
			}
			drops := s.Counters.Tx.Stats().Drops
			if tt.want.frames == 0 && (drops[tt.want.drop.String()] != 1 || len(drops) != 1) || tt.want.frames > 0 && len(drops) > 0 {
				t.Errorf("drops = %v, want %v", drops, tt.want.drop)
			}
		})
	}
}

func TestSendWithoutAddress(t *testing.T) {
	w, _ := newWire(t, transporttest.Link{})
	s := session(host1, nil, false)
	p := openPath(t, w, netip.AddrPort{}, s, ignore)
	p.tx.route(netip.AddrPort{}, nil, 1438)
	if err := p.Send(toHost2(transporttest.Frame(1, 100))); !errors.Is(err, transport.ErrNoPath) {
		t.Errorf("Send = %v, want %v", err, transport.ErrNoPath)
	}
	if err := p.Flush(); err != nil {
		t.Errorf("Flush = %v", err)
	}
	if n := s.Counters.Tx.Stats().Drops[transport.DropNoPath.String()]; n != 1 {
		t.Errorf("%d drops without a path, want 1", n)
	}
}

// Datagrams are filled to their limit and never beyond, in both modes.
func TestAggregationLimit(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		w, far := newWire(t, transporttest.Link{MTU: 65535})
		p := openPath(t, w, far, session(host1, key, true), ignore)
		mtu := p.PMTU.Limit(1500)
		limit := 1472
		for size := frame.HeaderLen; size <= mtu+frame.HeaderLen; size += 61 {
			for range 100 {
				_ = p.Send(toHost2(transporttest.Frame(7, size)))
			}
			_ = p.Flush()
			per := (limit - p.tx.base()) / (encap.SleevePacketHeader + size)
			sent := w.take()
			if want := (100 + per - 1) / per; len(sent) != want {
				t.Errorf("100 frames of %d bytes took %d datagrams, want %d", size, len(sent), want)
			}
			for _, d := range sent {
				if len(d.Payload) > limit {
					t.Errorf("datagram of %d bytes, limit %d", len(d.Payload), limit)
				}
			}
		}
	}
}

// An outbox that is full is flushed at once, in order, whatever the sizes.
func TestOutboxOverflows(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		for _, size := range []int{60, 1400, 9000, 60000} {
			w, far := newWire(t, transporttest.Link{MTU: 65535})
			p := openPath(t, w, far, session(host1, key, true), ignore)
			far2 := session(host2, key, false)
			q := openPath(t, w, far, far2, func(b []frame.Packet) {})
			const frames = 4000
			for i := range uint64(frames) {
				_ = p.Send(toHost2(transporttest.Frame(i, size)))
			}
			early := len(w.sent)
			_ = p.Flush()
			next := uint64(0)
			for _, d := range w.take() {
				b := d.Payload[encap.SleeveNameLen:]
				if key != nil {
					var err error
					if b, err = q.unseal(nil, d.Payload); err != nil {
						t.Fatal(err)
					}
				}
				r := encap.NewSleeveReader(b)
				for pk, ok := r.Next(); ok; pk, ok = r.Next() {
					if got := binary.BigEndian.Uint64(pk.Frame.Data[frame.HeaderLen:]); got != next {
						t.Fatalf("frame %d of %d bytes where %d was due", got, size, next)
					}
					next++
				}
			}
			if next != frames || early == 0 {
				t.Errorf("%d frames of %d bytes were sent, %d datagrams before Flush; want %d and some", next, size, early, frames)
			}
		}
	}
}

// sick is a socket that refuses some datagrams.
type sick struct {
	*wire
	err   error
	every int // which of them
	calls int
}

func (s *sick) WriteBatch(ms []udp.Message, df bool) (int, error) {
	for i := range ms {
		if s.calls++; s.calls%s.every == 0 {
			return i, s.err
		}
		if _, err := s.wire.WriteBatch(ms[i:i+1], df); err != nil {
			return i, err
		}
	}
	return len(ms), nil
}

func TestSendErrors(t *testing.T) {
	tests := []struct {
		err     error
		drop    transport.Drop
		sent    int // of 10, when each third is refused
		refused bool
	}{
		{udp.ErrTooBig, transport.DropTooBig, 2, true},
		{udp.ErrFull, transport.DropQueueFull, 2, false},
		{net.ErrClosed, transport.DropSendError, 2, false},
		{udp.ErrNoWay, transport.DropSendError, 2, false},
		{errors.New("operation not permitted"), transport.DropSendError, 7, false},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			w, far := newWire(t, transporttest.Link{})
			s := session(host1, nil, true)
			p := openPath(t, w, far, s, ignore)
			p.tx.route(far, &sick{wire: w, err: tt.err, every: 3}, 1438)
			for i := range uint64(10) {
				if err := p.Send(toHost2(transporttest.IPv4Frame(i, 1400, true))); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Flush(); err != nil {
				t.Errorf("Flush = %v, want nil: the error is counted", err)
			}
			st := s.Counters.Tx.Stats()
			if got := len(w.take()); got != tt.sent || st.Frames != uint64(tt.sent) {
				t.Errorf("%d datagrams sent, %d frames counted, want %d", got, st.Frames, tt.sent)
			}
			if got := st.Drops[tt.drop.String()]; got != uint64(10-tt.sent) || len(st.Drops) != 1 {
				t.Errorf("drops = %v, want %d for %v", st.Drops, 10-tt.sent, tt.drop)
			}
			if p.refused.Load() != tt.refused {
				t.Errorf("the route is in doubt: %v, want %v", !tt.refused, tt.refused)
			}
		})
	}
}

// null is a socket that takes all and gives what it was given.
type null struct {
	batch []udp.Message
}

func (n *null) ReadBatch(ms []udp.Message) (int, error) {
	for i, m := range n.batch {
		ms[i].N, ms[i].Addr, ms[i].Segment = copy(ms[i].Buf, m.Buf[:m.N]), m.Addr, m.Segment
	}
	return len(n.batch), nil
}
func (n *null) WriteBatch(ms []udp.Message, df bool) (int, error) { return len(ms), nil }
func (n *null) LocalAddr() netip.AddrPort                         { return netip.MustParseAddrPort("10.9.9.1:6783") }
func (n *null) PathMTU(netip.AddrPort) (int, error)               { return 1500, nil }
func (n *null) Judge(time.Time, udp.Verdict)                      {}
func (n *null) OnTooBig(func(netip.AddrPort, int))                {}
func (n *null) Close() error                                      { return nil }

// mixed is a batch as a busy path carries it.
func mixed() []frame.Packet {
	var batch []frame.Packet
	add := func(f frame.Frame) { batch = append(batch, frame.Packet{Src: host1, Dst: host2, Frame: f}) }
	for i := range uint64(64) {
		batch = append(batch, toHost2(transporttest.IPv4Frame(i, 1400, true)), toHost2(transporttest.IPv4Frame(i, 60, false)))
		add(transporttest.TCP(i, 100, 0, i%2 == 0))
		if i%8 == 0 {
			batch = append(batch, toHost2(transporttest.IPv4Frame(i, 4000, false)), toHost2(transporttest.IPv6Frame(i, 3000)))
			add(transporttest.TCP(i, 60000, 1300, i%16 == 0))
			add(transporttest.TCP(i, 60000, 3000, i%16 == 0)) // too big
			add(transporttest.UDP(i, 30000, 700, i%16 == 0))
			add(frame.Frame{Data: mayFragment(transporttest.UDP(i, 30000, 3000, false).Data), Offload: transporttest.UDP(i, 30000, 3000, false).Offload})
		}
	}
	return batch
}

func TestSendDoesNotAllocate(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		p := openPath(t, &null{}, netip.MustParseAddrPort("10.9.9.2:6783"), session(host1, key, true), ignore)
		batch := mixed()
		allocs := testing.AllocsPerRun(100, func() {
			for _, pk := range batch {
				_ = p.Send(pk)
			}
			_ = p.Flush()
		})
		if allocs != 0 {
			t.Errorf("sealed %v: %v allocations for a batch, want 0", key != nil, allocs)
		}
	}
}

// BenchmarkSend sends 64 frames, or one super-frame of 64 KB, and flushes.
func BenchmarkSend(b *testing.B) {
	small, large := toHost2(transporttest.IPv4Frame(1, 60, true)), toHost2(transporttest.IPv4Frame(1, 1400, true))
	super := frame.Packet{Src: host1, Dst: host2, Frame: transporttest.TCP(1, 65000, 1362, false)}
	for _, bm := range []struct {
		name   string
		key    *[32]byte
		packet frame.Packet
		times  int
	}{
		{"plain/60", nil, small, 64}, {"plain/1400", nil, large, 64}, {"plain/super-frame", nil, super, 1},
		{"sealed/60", &[32]byte{1}, small, 64}, {"sealed/1400", &[32]byte{1}, large, 64}, {"sealed/super-frame", &[32]byte{1}, super, 1},
	} {
		b.Run(bm.name, func(b *testing.B) {
			tr, err := New(Config{Local: host1, Deliver: ignore, Sockets: []PacketConn{&null{}}})
			if err != nil {
				b.Fatal(err)
			}
			p := newPath(tr, session(host1, bm.key, true))
			p.tx.route(netip.MustParseAddrPort("10.9.9.2:6783"), &null{}, 1414)
			b.SetBytes(int64(bm.times * (len(bm.packet.Frame.Data) - frame.HeaderLen)))
			b.ReportAllocs()
			for b.Loop() {
				for range bm.times {
					_ = p.Send(bm.packet)
				}
				_ = p.Flush()
			}
			frames := float64(bm.times * len(transporttest.Segments(bm.packet.Frame)))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/frames, "ns/frame")
		})
	}
}
