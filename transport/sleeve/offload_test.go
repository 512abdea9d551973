package sleeve

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/udp"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// mayFragment takes the DF flag out of an IPv4 frame.
func mayFragment(b []byte) []byte {
	b = bytes.Clone(b)
	ip := b[frame.HeaderLen : frame.HeaderLen+20]
	ip[6] &^= 0x40
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], frame.Checksum(ip))
	return b
}

// mayFragmentSuper is mayFragment of a super-frame.
func mayFragmentSuper(f frame.Frame) frame.Frame {
	f.Data = mayFragment(f.Data)
	return f
}

// taggedSuper puts one VLAN tag into a frame and moves its offload.
func taggedSuper(f frame.Frame) frame.Frame {
	f.Data = tagged(f.Data, 1)
	f.Offload.CsumStart += frame.VLANTagLen
	f.Offload.HdrLen += frame.VLANTagLen
	return f
}

// opened are the frames of datagrams, in order, and what was sent with DF.
func opened(t *testing.T, key *[32]byte, sent []transporttest.Datagram) (frames [][]byte, df bool) {
	t.Helper()
	var open *encap.SleeveOpen
	if key != nil {
		open = encap.NewSleeveOpen(key, true)
	}
	for _, d := range sent {
		b := d.Payload[encap.SleeveNameLen:]
		if open != nil {
			var err error
			if b, err = open.Open(nil, d.Payload); err != nil {
				t.Fatal(err)
			}
		}
		r := encap.NewSleeveReader(b)
		for pk, ok := r.Next(); ok; pk, ok = r.Next() {
			if pk.Src != host1 || pk.Dst != host2 {
				t.Errorf("a packet from %v to %v", pk.Src, pk.Dst)
			}
			frames = append(frames, pk.Frame.Data)
		}
		if r.Err() != nil {
			t.Error(r.Err())
		}
		df = d.DF
	}
	return frames, df
}

// Super-frames leave as their segments, frames with unfinished checksums with
// complete ones, in the class of section 6.8 that each segment alone has.
func TestSendOffload(t *testing.T) {
	const mtu = 1438
	tests := []struct {
		name    string
		frame   frame.Frame
		stackOK bool
		df      bool
		tooBig  int // MTU of the error; 0: none
		drop    transport.Drop
		drops   int
	}{
		{name: "TCP", frame: transporttest.TCP(1, 60000, mtu-52, false), df: true},
		{name: "TCP over IPv6", frame: transporttest.TCP(1, 60000, mtu-72, true)},
		{name: "TCP in a VLAN", frame: taggedSuper(transporttest.TCP(1, 60000, mtu-56, false)), df: true},
		{name: "TCP of two segments", frame: transporttest.TCP(1, 1000, 999, false), df: true},
		{name: "TCP of one segment", frame: transporttest.TCP(1, 1000, 1000, false), df: true},
		{name: "TCP of small segments", frame: transporttest.TCP(1, 3000, 7, false), df: true},
		{name: "TCP without DF", frame: mayFragmentSuper(transporttest.TCP(1, 60000, 1000, false)), df: true},
		{name: "TCP without DF, stack ok", frame: mayFragmentSuper(transporttest.TCP(1, 60000, 1000, false)), stackOK: true},
		{name: "UDP", frame: transporttest.UDP(1, 60000, mtu-28, false), df: true},
		{name: "UDP over IPv6", frame: transporttest.UDP(1, 60000, mtu-48, true)},
		{name: "UDP without DF, stack ok, too big", frame: mayFragmentSuper(transporttest.UDP(1, 60000, 5000, false)), stackOK: true},
		{name: "unfinished checksum, TCP", frame: transporttest.TCP(1, 100, 0, false), df: true},
		{name: "unfinished checksum, UDP over IPv6", frame: transporttest.UDP(1, 100, 0, true)},
		{name: "checked already", frame: frame.Frame{Data: transporttest.IPv4Frame(1, 100, true), Offload: frame.Offload{Flags: frame.DataValid}}, df: true},
		{name: "TCP too big", frame: transporttest.TCP(1, 60000, mtu-51, false), tooBig: mtu, drop: transport.DropTooBig, drops: 44},
		{name: "TCP in a VLAN too big", frame: taggedSuper(transporttest.TCP(1, 2000, mtu-55, false)), tooBig: mtu - 4, drop: transport.DropTooBig, drops: 2},
		{name: "TCP over IPv6 too big", frame: transporttest.TCP(1, 2000, mtu-71, true), tooBig: mtu, drop: transport.DropTooBig, drops: 2},
		{name: "unfinished checksum, too big", frame: transporttest.TCP(1, 2000, 0, false), tooBig: mtu, drop: transport.DropTooBig, drops: 1},
		{name: "the smallest segments of Linux", frame: transporttest.TCP(1, 65000, 48, false), df: true},
		{name: "too many segments", frame: transporttest.TCP(1, 60000, 20, false), drop: transport.DropMalformed, drops: 1},
		{name: "no super-frame", frame: frame.Frame{Data: transporttest.Frame(1, 3000), Offload: transporttest.TCP(1, 3000, 1000, false).Offload}, drop: transport.DropMalformed, drops: 1},
		{name: "cut short", frame: frame.Frame{Data: transporttest.TCP(1, 3000, 1000, false).Data[:2000], Offload: transporttest.TCP(1, 3000, 1000, false).Offload}, drop: transport.DropMalformed, drops: 1},
		{name: "checksum beyond the end", frame: frame.Frame{Data: transporttest.Frame(1, 60), Offload: frame.Offload{Flags: frame.NeedsCsum, CsumStart: 59, CsumOffset: 16}}, drop: transport.DropMalformed, drops: 1},
	}
	for _, tt := range tests {
		for _, key := range []*[32]byte{nil, {1}} {
			t.Run(tt.name, func(t *testing.T) {
				w, far := newWire(t, transporttest.Link{MTU: 65535})
				s := session(host1, key, true)
				p := openPath(t, w, far, s, ignore)
				p.tx.route(far, w, mtu)
				p.tx.setStackOK(tt.stackOK)
				given := frame.Frame{Data: bytes.Clone(tt.frame.Data), Offload: tt.frame.Offload}
				err := p.Send(frame.Packet{Src: host1, Dst: host2, Frame: given})
				if !bytes.Equal(given.Data, tt.frame.Data) {
					t.Error("the borrowed frame was changed")
				}
				clear(given.Data) // it is not borrowed any more
				if big, ok := errors.AsType[*transport.TooBigError](err); ok != (tt.tooBig != 0) || ok && big.MTU != tt.tooBig {
					t.Errorf("Send = %v, want too big for %d", err, tt.tooBig)
				}
				if err := p.Flush(); err != nil {
					t.Fatal(err)
				}
				got, df := opened(t, key, w.take())
				stats := s.Counters.Tx.Stats()
				if tt.drops > 0 {
					if len(got) != 0 || stats.Drops[tt.drop.String()] != uint64(tt.drops) || len(stats.Drops) != 1 {
						t.Errorf("%d frames were sent, drops %v, want %d for %v", len(got), stats.Drops, tt.drops, tt.drop)
					}
					return
				}
				want := transporttest.Segments(tt.frame)
				if !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("%d frames were sent, not the %d that there are", len(got), len(want))
				}
				if df != tt.df {
					t.Errorf("DF = %v, want %v", df, tt.df)
				}
				if stats.Frames != uint64(len(want)) || stats.Bytes != uint64(len(slices.Concat(want...))) || len(stats.Drops) != 0 {
					t.Errorf("counters %+v, want %d frames with %d bytes", stats, len(want), len(slices.Concat(want...)))
				}
			})
		}
	}
}

// Segments that must not be sent whole to a stack that does not put fragments
// together are fragmented by us.
func TestSendOffloadInFragments(t *testing.T) {
	for _, f := range []frame.Frame{
		mayFragmentSuper(transporttest.UDP(1, 9000, 3000, false)),
		mayFragmentSuper(transporttest.UDP(1, 3000, 0, false)),
		mayFragmentSuper(transporttest.TCP(1, 9000, 3000, false)),
	} {
		w, far := newWire(t, transporttest.Link{})
		p := openPath(t, w, far, session(host1, nil, true), ignore)
		if err := p.Send(frame.Packet{Src: host1, Dst: host2, Frame: f}); err != nil {
			t.Fatal(err)
		}
		_ = p.Flush()
		got, df := opened(t, nil, w.take())
		var want [][]byte
		for _, segment := range transporttest.Segments(f) {
			err := frame.FragmentIPv4(segment, 1438, make([]byte, 0, 1500), func(b []byte) { want = append(want, bytes.Clone(b)) })
			if err != nil {
				t.Fatal(err)
			}
		}
		if !df || len(want) < 3 || !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%d frames were sent, DF %v; want the %d fragments with DF", len(got), df, len(want))
		}
	}
}

// batches is a socket that looks at the messages of each call.
type batches struct {
	null
	look func(ms []udp.Message, df bool)
}

func (b *batches) WriteBatch(ms []udp.Message, df bool) (int, error) {
	b.look(ms, df)
	return len(ms), nil
}

// The full segments of super-frames reach the socket as equal datagrams without
// gaps, of which no super-frame is torn between two calls.
func TestSuperFramesMakeRuns(t *testing.T) {
	for _, key := range []*[32]byte{nil, {1}} {
		const mss, segments, supers = 1340, 47, 7
		calls, total, broken := 0, 0, 0
		conn := &batches{look: func(ms []udp.Message, df bool) {
			calls++
			if len(ms)%segments != 0 {
				t.Errorf("sealed %v: a call with %d datagrams, want whole super-frames of %d", key != nil, len(ms), segments)
			}
			for i := range ms {
				if i > 0 && (ms[i].N != ms[0].N || !adjacent(ms[i-1].Buf, ms[i].Buf)) {
					broken++
				}
			}
			total += len(ms)
		}}
		p := openPath(t, conn, farAddr, session(host1, key, true), ignore)
		p.tx.route(farAddr, conn, mss+52)
		for i := range uint64(supers) {
			err := p.Send(frame.Packet{Src: host1, Dst: host2, Frame: transporttest.TCP(i, mss*segments, mss, false)})
			if err != nil {
				t.Fatal(err)
			}
		}
		_ = p.Flush()
		if total != supers*segments || broken != 0 || calls > (supers+1)/2 {
			t.Errorf("sealed %v: %d datagrams in %d calls, broken %d times; want %d in %d, never", key != nil, total, calls, broken, supers*segments, (supers+1)/2)
		}
	}
}

// adjacent reports whether b begins where a ends.
func adjacent(a, b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(a)))+uintptr(len(a)) == uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// Connections that are opened through a path do not ask for more than it carries.
func TestClampMSS(t *testing.T) {
	announced := func(b []byte) int {
		at := bytes.Index(b, []byte{2, 4})
		return int(binary.BigEndian.Uint16(b[at+2:]))
	}
	tests := []struct {
		name  string
		frame []byte
		want  int
	}{
		{"IPv4", transporttest.SYN(8960, false), 1398},
		{"IPv6", transporttest.SYN(8940, true), 1378},
		{"in a VLAN", tagged(transporttest.SYN(8960, false), 1), 1394},
		{"in two", tagged(transporttest.SYN(8940, true), 2), 1370},
		{"fits", transporttest.SYN(1398, false), 1398},
		{"small", transporttest.SYN(536, true), 536},
	}
	for _, tt := range tests {
		for _, key := range []*[32]byte{nil, {1}} {
			w, far := newWire(t, transporttest.Link{})
			p := openPath(t, w, far, session(host1, key, true), ignore)
			p.tx.route(far, w, 1438)
			given := bytes.Clone(tt.frame)
			_ = p.Send(toHost2(given))
			_ = p.Flush()
			if !bytes.Equal(given, tt.frame) {
				t.Errorf("%s: the borrowed frame was changed", tt.name)
			}
			got, _ := opened(t, key, w.take())
			if len(got) != 1 || announced(got[0]) != tt.want {
				t.Fatalf("%s: the segment size is %d, want %d", tt.name, announced(got[0]), tt.want)
			}
			if sum := transporttest.L4Sum(got[0]); sum != 0xffff {
				t.Errorf("%s: the checksum is wrong: the sum is %#x", tt.name, sum)
			}
		}
	}
}

// FuzzSendOffload sends frames with whatever metadata. What leaves are whole
// datagrams that the neighbour can read.
func FuzzSendOffload(f *testing.F) {
	for _, x := range []frame.Frame{
		transporttest.TCP(1, 6000, 1400, false), transporttest.TCP(1, 6000, 100, true),
		transporttest.UDP(1, 6000, 1000, false), transporttest.UDP(1, 100, 0, true),
		mayFragmentSuper(transporttest.UDP(1, 6000, 3000, false)), {Data: transporttest.SYN(9000, false)},
	} {
		o := x.Offload
		f.Add(x.Data, o.Flags, o.GSOType, o.GSOSize, o.CsumStart, o.CsumOffset, 1438)
	}
	f.Fuzz(func(t *testing.T, data []byte, flags, gsoType uint8, gsoSize, start, offset uint16, mtu int) {
		x := frame.Frame{Data: data, Offload: frame.Offload{
			Flags: flags, GSOType: gsoType, GSOSize: gsoSize, CsumStart: start, CsumOffset: offset,
		}}
		before := bytes.Clone(data)
		for _, key := range []*[32]byte{nil, {1}} {
			w, far := newWire(t, transporttest.Link{MTU: 65535})
			s := session(host1, key, true)
			p := openPath(t, w, far, s, ignore)
			p.tx.route(far, w, min(max(mtu, 552), 65473))
			_ = p.Send(frame.Packet{Src: host1, Dst: host2, Frame: x})
			_ = p.Send(toHost2(transporttest.Frame(1, 100)))
			_ = p.Flush()
			got, _ := opened(t, key, w.take())
			stats := s.Counters.Tx.Stats()
			if len(got) == 0 || !bytes.Equal(got[len(got)-1], transporttest.Frame(1, 100)) || stats.Frames != uint64(len(got)) {
				t.Errorf("%d frames were sent, the last not the one that was given last; counters %+v", len(got), stats)
			}
			if !bytes.Equal(data, before) {
				t.Error("the borrowed frame was changed")
			}
		}
	})
}
