package tap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// stream says how to make frames of one TCP or UDP stream from one container to
// another.
type stream struct {
	v6, udp, vlan bool
	src, dst      *container
}

func (s stream) String() string {
	name := map[bool]string{false: "TCP", true: "UDP"}[s.udp] + map[bool]string{false: "v4", true: "v6"}[s.v6]
	if s.vlan {
		name += " in a VLAN"
	}
	return name
}

// allStreams are all kinds from a to b.
func allStreams(a, b *container) (all []stream) {
	for i := range 8 {
		all = append(all, stream{v6: i&1 != 0, udp: i&2 != 0, vlan: i&4 != 0, src: a, dst: b})
	}
	return all
}

// headers returns the headers for a payload, with the checksum of the pseudo
// header only. pos is where in the TCP stream the payload is.
func (s stream) headers(payload, pos int) []byte {
	h := append(bytes.Clone(s.dst.mac), s.src.mac...)
	if s.vlan {
		h = append(h, 0x81, 0x00, 0x20, 42)
	}
	l4, proto := 20, byte(unix.IPPROTO_TCP)
	if s.udp {
		l4, proto = 8, unix.IPPROTO_UDP
	}
	var addrs []byte
	if s.v6 {
		h = append(h, 0x86, 0xdd, 0x60, 0, 0, 0)
		h = binary.BigEndian.AppendUint16(h, uint16(l4+payload))
		h = append(h, proto, 64)
		addrs = append(s.src.addrs[1].AsSlice(), s.dst.addrs[1].AsSlice()...)
		h = append(h, addrs...)
	} else {
		ip := []byte{0x45, 0}
		ip = binary.BigEndian.AppendUint16(ip, uint16(20+l4+payload))
		ip = append(ip, 0, 0, 0x40, 0, 64, proto, 0, 0)
		addrs = append(s.src.addrs[0].AsSlice(), s.dst.addrs[0].AsSlice()...)
		ip = append(ip, addrs...)
		binary.BigEndian.PutUint16(ip[10:], frame.Checksum(ip))
		h = append(append(h, 0x08, 0x00), ip...)
	}
	h = append(h, 0x12, 0x34, 0x56, 0x78) // ports
	sum := frame.PseudoSum(addrs, proto, l4+payload)
	if s.udp {
		h = binary.BigEndian.AppendUint16(h, uint16(l4+payload))
		return binary.BigEndian.AppendUint16(h, sum)
	}
	h = binary.BigEndian.AppendUint32(h, uint32(1000+pos))
	h = append(h, 0, 0, 0, 1, 5<<4, 0x10, 0xff, 0xff) // ack, data offset, ACK, window
	h = binary.BigEndian.AppendUint16(h, sum)
	return append(h, 0, 0)
}

// super makes a super-frame of a payload in segments of size bytes.
func (s stream) super(payload []byte, size int) frame.Frame {
	f := s.partial(payload, 0)
	f.Offload.GSOType = frame.GSOTCPv4
	f.Offload.HdrLen = uint16(len(f.Data) - len(payload))
	f.Offload.GSOSize = uint16(size)
	switch {
	case s.udp:
		f.Offload.GSOType = frame.GSOUDP
	case s.v6:
		f.Offload.GSOType = frame.GSOTCPv6
	}
	return f
}

// partial makes an ordinary frame whose checksum is left to the kernel.
func (s stream) partial(payload []byte, pos int) frame.Frame {
	h := s.headers(len(payload), pos)
	o := frame.Offload{Flags: frame.NeedsCsum, CsumStart: uint16(len(h) - 20), CsumOffset: 16}
	if s.udp {
		o.CsumStart, o.CsumOffset = uint16(len(h)-8), 6
	}
	return frame.Frame{Data: append(h, payload...), Offload: o}
}

// cut is what a frame is on a wire.
func cut(t testing.TB, f frame.Frame) (segments [][]byte) {
	t.Helper()
	var c frame.Cutter
	must(t, c.Begin(f))
	for {
		seg, ok := c.Next(nil)
		if !ok {
			return segments
		}
		segments = append(segments, seg)
	}
}

// pattern is n bytes of which no two places look the same.
func pattern(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := uint64(1); len(b) < n; i++ {
		b = binary.BigEndian.AppendUint64(b, i*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

// superWire is a wire as wire makes it, that takes super-frames.
func superWire(t testing.TB, bridge string, mtu int) *device {
	t.Helper()
	d, err := openOffload("super0")
	must(t, err)
	t.Cleanup(func() { d.close() })
	must(t, setIPv6("super0", portSettings))
	join(t, "super0", bridge, mtu)
	return d
}

// readVnet reads what a device with virtio-net headers gives next of what c sent.
func readVnet(t testing.TB, d *device, c *container) frame.Frame {
	t.Helper()
	buf := make([]byte, 1<<17)
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.Read(d.fd, buf)
		if err == unix.EAGAIN && time.Now().Before(deadline) {
			unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, 100)
			continue
		}
		must(t, err)
		if !bytes.Equal(buf[vnetLen+6:vnetLen+12], c.mac) {
			continue
		}
		o, ok := parseVnet((*[vnetLen]byte)(buf), buf[vnetLen:n])
		if !ok {
			t.Fatalf("header % x of a frame of %d bytes cannot be", buf[:vnetLen], n-vnetLen)
		}
		return frame.Frame{Data: bytes.Clone(buf[vnetLen:n]), Offload: o}
	}
}

// TestSuperFrameIsOneRead: what a container sends in one piece passes veth, bridge
// and TAP in one piece.
func TestSuperFrameIsOneRead(t *testing.T) {
	namespace(t)
	p := open(t, Config{CreateBridge: true, Offload: OffloadOn})
	a := addContainer(t, "weave", p.MTU(), 1)
	b := farContainer(2)
	socket := a.packetSocket()
	r, d := newReader(p.MTU(), true), p.dev.Load()
	defer time.AfterFunc(patience, d.interrupt).Stop()
	for _, s := range allStreams(a, b) {
		t.Run(s.String(), func(t *testing.T) {
			want := s.super(nil, 0)
			if payload := 65535 - len(want.Data); s.udp {
				want = s.super(pattern(min(payload, 40*1200)), 1200) // 64 segments at most, UDP_MAX_SEGMENTS
			} else {
				want = s.super(pattern(payload), 1300)
			}
			if s.udp && p.dev.Load().features&unix.TUN_F_USO4 == 0 {
				t.Skip("this kernel has no USO")
			}
			send(t, socket, want)
			var got []frame.Frame
			for len(got) == 0 {
				batch, err := r.batch(d)
				must(t, err)
				// The container's kernel reports its multicast groups (MLD).
				got = slices.DeleteFunc(batch, func(f frame.Frame) bool { return f.Data[0]&1 != 0 })
			}
			if len(got) != 1 || !bytes.Equal(got[0].Data, want.Data) || got[0].Offload != want.Offload {
				t.Fatalf("read %s; want %s", describe(got...), describe(want))
			}
			if segs := len(cut(t, want)); r.segments < segs || r.segments > segs+8 || r.malformed+r.tooBig != 0 {
				t.Errorf("%d segments, %d malformed, %d too big; want %d, 0, 0", r.segments, r.malformed, r.tooBig, segs)
			}
		})
	}
}

func describe(frames ...frame.Frame) string {
	b := fmt.Appendf(nil, "%d frames:", len(frames))
	for _, f := range frames[:min(len(frames), 2)] {
		b = fmt.Appendf(b, " %d bytes % x… %+v;", len(f.Data), f.Data[:min(len(f.Data), 78)], f.Offload)
	}
	return string(b)
}

// send sends a frame with its header.
func send(t testing.TB, d *device, f frame.Frame) {
	t.Helper()
	var h [vnetLen]byte
	putVnet(&h, f.Offload)
	_, err := unix.Write(d.fd, append(h[:], f.Data...))
	must(t, err)
}

// TestWriteSuperFrame: a container receives what is written, whole or cut, and
// each byte and checksum of it is right.
func TestWriteSuperFrame(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
		for _, s := range allStreams(a, b) {
			f := s.super(pattern(1300*20+7), 1300)
			want := cut(t, f)
			before := p.Stats().Written
			if n, err := p.Write([]frame.Frame{f}); n != 1 || err != nil {
				t.Errorf("%v: Write() = %d, %v; want 1", s, n, err)
			}
			if got := arrivals(t, sink, a, want); (got == 1) != (mode == OffloadOn) {
				t.Errorf("%v: arrived in %d pieces", s, got)
			}
			if got := p.Stats().Written.Frames - before.Frames; int(got) != len(want) {
				t.Errorf("%v: counted %d frames, want %d", s, got, len(want))
			}
		}
	})
}

// TestWritePartialChecksum: ordinary frames may come with an open checksum.
func TestWritePartialChecksum(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
		for _, s := range allStreams(a, b) {
			f := s.partial(pattern(777), 0)
			if n, err := p.Write([]frame.Frame{f}); n != 1 || err != nil {
				t.Errorf("%v: Write() = %d, %v; want 1", s, n, err)
			}
			got := cut(t, readVnet(t, sink, a))
			if want := cut(t, f); len(got) != 1 || !bytes.Equal(got[0], want[0]) {
				t.Errorf("%v: arrived as %s, want %s", s, describe(frame.Frame{Data: got[0]}), describe(frame.Frame{Data: want[0]}))
			}
		}
	})
}

// TestWriteLies: metadata that cannot be true never reaches the kernel.
func TestWriteLies(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
		for name, lie := range map[string]func(f *frame.Frame){
			"no size": func(f *frame.Frame) { f.Offload.GSOSize = 0 },
			"size of next to nothing": func(f *frame.Frame) {
				*f = stream{src: a, dst: b}.super(pattern(frame.MaxSegments), 1)
			},
			"size for fragments":     func(f *frame.Frame) { f.Offload.GSOSize = 0xffff },
			"unknown type":           func(f *frame.Frame) { f.Offload.GSOType = 3 },
			"other IP version":       func(f *frame.Frame) { f.Offload.GSOType = frame.GSOTCPv6 },
			"UDP for TCP":            func(f *frame.Frame) { f.Offload.GSOType = frame.GSOUDP },
			"ECN alone":              func(f *frame.Frame) { f.Offload.GSOType = frame.GSOECN },
			"unknown flag":           func(f *frame.Frame) { f.Offload.Flags |= 0x40 },
			"start behind the frame": func(f *frame.Frame) { f.Offload.CsumStart = 0xffff },
			"start in the Ethernet":  func(f *frame.Frame) { f.Offload.CsumStart = 0 },
			"offset elsewhere":       func(f *frame.Frame) { f.Offload.CsumOffset = 4 },
			"offset behind":          func(f *frame.Frame) { f.Offload.CsumOffset = 0xffff },
			"cut":                    func(f *frame.Frame) { f.Data = f.Data[:len(f.Data)-1] },
			"headers only, cut":      func(f *frame.Frame) { f.Data = f.Data[:40] },
			"empty":                  func(f *frame.Frame) { f.Data = nil },
		} {
			f := stream{src: a, dst: b}.super(pattern(5000), 1300)
			lie(&f)
			before := p.Stats().Drops["malformed"]
			n, err := p.Write([]frame.Frame{f})
			if n != 0 || err == nil || p.Stats().Drops["malformed"] != before+1 {
				t.Errorf("%s: Write() = %d, %v, drops %v; want it dropped as malformed", name, n, err, p.Stats().Drops)
			}
		}
		// The first that arrives is one that does not lie.
		f := stream{src: a, dst: b}.partial(pattern(100), 0)
		p.Write([]frame.Frame{f})
		if got := readVnet(t, sink, a); len(got.Data) != len(f.Data) {
			t.Errorf("a lie arrived: %s", describe(got))
		}
	})
}

// TestWriteJoins: segments that follow each other are written as one.
func TestWriteJoins(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
		for _, s := range allStreams(a, b) {
			segments := cut(t, s.super(pattern(1300*30+7), 1300))
			before := p.Stats().Written.Frames
			if n, err := p.Write(plain(segments)); n != len(segments) || err != nil {
				t.Errorf("%v: Write() = %d, %v; want %d", s, n, err, len(segments))
			}
			if got := arrivals(t, sink, a, segments); (got == 1) != (mode == OffloadOn) {
				t.Errorf("%v: arrived in %d pieces", s, got)
			}
			if got := p.Stats().Written.Frames - before; got != uint64(len(segments)) {
				t.Errorf("%v: counted %d frames, want %d", s, got, len(segments))
			}
		}
	})
}

// TestWriteRepairsNothing: a wrong checksum arrives as wrong as it was.
func TestWriteRepairsNothing(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
		for _, s := range allStreams(a, b) {
			segments := cut(t, s.super(pattern(1300*5), 1300))
			segments[2][len(segments[2])-1] ^= 1
			p.Write(plain(segments))
			arrivals(t, sink, a, segments) // compares each byte
		}
	})
}

// TestMixedBatch: one batch of all that there is arrives in its order.
func TestMixedBatch(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		a, b, sink := farContainer(1), farContainer(2), superWire(t, "weave", p.MTU())
		tcp, udp := stream{src: a, dst: b}, stream{src: a, dst: b, udp: true}
		lie := tcp.super(pattern(3000), 1300)
		lie.Offload.GSOSize = 0
		good := []frame.Frame{tcp.super(pattern(3000), 1300), tcp.partial(pattern(10), 3000), udp.super(pattern(2500), 1200), {Data: cut(t, udp.partial(pattern(9), 0))[0]}}
		var want [][]byte
		for _, f := range good {
			want = append(want, cut(t, f)...)
		}
		batch := []frame.Frame{good[0], lie, good[1], {Data: []byte{1}}, good[2], good[3]}
		if n, err := p.Write(batch); n != len(good) || err == nil {
			t.Errorf("Write() = %d, %v; want %d and an error", n, err, len(good))
		}
		arrivals(t, sink, a, want)
		if s := p.Stats(); s.Drops["malformed"] != 1 || s.Drops["refused"] != 1 || s.Written.Frames != uint64(len(want)) {
			t.Errorf("Stats() = %+v; want %d frames, 1 malformed, 1 refused", s, len(want))
		}
	})
}
