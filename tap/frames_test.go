package tap

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

var (
	macA      = frame.MAC{2, 0, 0, 0, 0, 0xa}
	macB      = frame.MAC{2, 0, 0, 0, 0, 0xb}
	broadcast = frame.MAC{255, 255, 255, 255, 255, 255}
)

// flows sends a frame each way between port and wire until both arrived.
func flows(t *testing.T, p *Port, w *device, frames <-chan []byte) {
	t.Helper()
	in := ethernet(broadcast, macA, append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)
	out := ethernet(broadcast, macB, append([]byte{0x88, 0xb6}, make([]byte, 50)...)...)
	eventually(t, "a frame from the bridge to the port", func() bool {
		rejoin(w)
		inject(w, in)
		return receive(frames, in, 50*time.Millisecond)
	})
	eventually(t, "a frame from the port to the bridge", func() bool {
		rejoin(w)
		p.Write([]frame.Frame{{Data: out}})
		return readFrame(w, out, 50*time.Millisecond)
	})
}

// rejoin puts the wire on the bridge that is called weave now, if there is one.
func rejoin(w *device) {
	bridge, err := netlink.LinkByName("weave")
	if err != nil {
		return
	}
	l, err := netlink.LinkByIndex(w.index)
	if err == nil && l.Attrs().MasterIndex != bridge.Attrs().Index {
		netlink.LinkSetMaster(l, bridge)
	}
}

func TestFramesOfEveryKind(t *testing.T) {
	body := func(n int, head ...byte) []byte { return append(head, bytes.Repeat([]byte{0x5a}, n)...) }
	const mtu = 9000
	// Bridges with netfilter drop IP packets whose headers are not right.
	v4 := func(size int, dst byte) []byte { return append([]byte{0x08, 0x00}, ipv4(size, dst)...) }
	v6 := func(size int, dst ...byte) []byte { return append([]byte{0x86, 0xdd}, ipv6(size, dst...)...) }
	tag := func(id byte, rest []byte) []byte { return append([]byte{0x81, 0x00, 0x20, id}, rest...) }
	kinds := map[string][]byte{
		"ARP request":          ethernet(broadcast, macA, body(28, 0x08, 0x06)...),
		"ARP answer":           ethernet(macB, macA, body(28, 0x08, 0x06)...),
		"IPv4":                 ethernet(macB, macA, v4(100, 10)...),
		"IPv4 multicast":       ethernet(frame.MAC{0x01, 0, 0x5e, 0, 0, 0xfb}, macA, v4(100, 224)...),
		"IPv6 ND":              ethernet(frame.MAC{0x33, 0x33, 0xff, 0, 0, 1}, macA, v6(72, 0xff, 2, 1)...),
		"IPv6 all routers":     ethernet(frame.MAC{0x33, 0x33, 0, 0, 0, 2}, macA, v6(72, 0xff, 2, 2)...),
		"IPv6":                 ethernet(macB, macA, v6(200, 0xfd, 0, 9)...),
		"802.1Q":               ethernet(macB, macA, tag(42, v4(100, 10))...),
		"802.1Q broadcast":     ethernet(broadcast, macA, tag(42, body(28, 0x08, 0x06))...),
		"802.1ad":              ethernet(macB, macA, append([]byte{0x88, 0xa8, 0x00, 7}, tag(42, v4(100, 10))...)...),
		"jumbo":                ethernet(macB, macA, v4(mtu, 10)...),
		"jumbo with 802.1Q":    ethernet(macB, macA, tag(42, v4(mtu, 10))...),
		"unknown EtherType":    ethernet(macB, macA, body(60, 0x88, 0xb5)...),
		"shorter than a LAN's": ethernet(macB, macA, 0x88, 0xb5, 1),
	}
	for name, data := range kinds {
		t.Run(name, func(t *testing.T) {
			backends(t, func(t *testing.T, mode string) {
				p := open(t, Config{CreateBridge: true, MTU: mtu, Offload: mode})
				w := wire(t, "weave", mtu)
				frames, _ := run(t, p)
				must(t, inject(w, data))
				if !receive(frames, data, patience) {
					t.Error("did not pass from the bridge to the port")
				}
				n, err := p.Write([]frame.Frame{{Data: data}})
				if n != 1 || err != nil {
					t.Errorf("Write() = %d, %v; want 1, nil", n, err)
				}
				if !readFrame(w, data, patience) {
					t.Error("did not pass from the port to the bridge")
				}
				s := p.Stats()
				if s.Read.Frames < 1 || s.Written.Frames != 1 || s.Written.Bytes != uint64(len(data)) || s.Drops != nil {
					t.Errorf("Stats() = %+v", s)
				}
			})
		})
	}
}

// ipv4 is an IPv4 packet of size bytes with a right header (RFC 791, section 3.1).
func ipv4(size int, dst byte) []byte {
	p := make([]byte, size)
	copy(p, []byte{0x45, 0, byte(size >> 8), byte(size), 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, dst, 0, 0, 251})
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	sum = sum>>16 + sum&0xffff
	sum = ^(sum>>16 + sum)
	p[10], p[11] = byte(sum>>8), byte(sum)
	return p
}

// ipv6 is an IPv6 packet of size bytes (RFC 8200, section 3). dst is the first
// two bytes of the destination and the last.
func ipv6(size int, dst ...byte) []byte {
	p := make([]byte, size)
	copy(p, []byte{0x60, 0, 0, 0, byte((size - 40) >> 8), byte(size - 40), 59, 255, 0xfd, 0})
	p[23], p[24], p[25], p[39] = 1, dst[0], dst[1], dst[2]
	return p
}

func TestBatches(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		w := wire(t, "weave", p.MTU())
		const count = 3*maxBatch + 5
		sizes := make([]int, count)
		for i := range sizes {
			sizes[i] = 60 + i*6 // up to more than 1200
			must(t, inject(w, ethernet(broadcast, macA, append([]byte{0x88, 0xb5, byte(i)}, make([]byte, sizes[i]-15)...)...)))
		}
		r, d := newReader(p.MTU(), mode == OffloadOn), p.dev.Load()
		defer time.AfterFunc(patience, d.interrupt).Stop()
		got := 0
		for got < count {
			batch, err := r.batch(d)
			must(t, err)
			if len(batch) == 0 || len(batch) > maxBatch {
				t.Fatalf("batch of %d frames", len(batch))
			}
			for _, f := range batch {
				if len(f.Data) != sizes[got] || f.Data[14] != byte(got) || cap(f.Data) != len(f.Data) {
					t.Fatalf("frame %d: %d bytes (room for %d), number %d; want %d bytes", got, len(f.Data), cap(f.Data), f.Data[14], sizes[got])
				}
				got++
			}
		}
	})
}

func TestReadDropsWhatIsTooBig(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		w := wire(t, "weave", 4000)
		must(t, netlink.LinkSetMTU(link(t, "weave"), 4000)) // by somebody else, behind our back
		must(t, netlink.LinkSetMTU(link(t, "meshd0"), 4000))
		big := ethernet(broadcast, macA, append([]byte{0x88, 0xb5}, make([]byte, 3000)...)...)
		small := ethernet(broadcast, macA, append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)
		for _, f := range [][]byte{big, small} {
			must(t, inject(w, f))
		}
		r := newReader(p.MTU(), mode == OffloadOn)
		batch, err := r.batch(p.dev.Load())
		must(t, err)
		if len(batch) != 1 || !bytes.Equal(batch[0].Data, small) || r.tooBig != 1 {
			t.Errorf("batch = %d frames, %d too big; want the small one, 1", len(batch), r.tooBig)
		}
	})
}

func TestWriteFaults(t *testing.T) {
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		good := frame.Frame{Data: ethernet(broadcast, macA, append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)}
		short := frame.Frame{Data: good.Data[:5]}
		super := frame.Frame{Data: good.Data, Offload: frame.Offload{GSOType: 1, GSOSize: 10}}
		if n, err := p.Write([]frame.Frame{good, short, super, {}, good}); n != 2 || err == nil {
			t.Errorf("Write(good, short, super-frame, empty, good) = %d, %v; want 2 and an error", n, err)
		}
		if d := p.Stats().Drops; d["refused"] != 2 || d["malformed"] != 1 || len(d) != 2 {
			t.Errorf("drops = %v, want 2 refused and 1 malformed", d)
		}
		if n, err := p.Write(nil); n != 0 || err != nil {
			t.Errorf("Write(nothing) = %d, %v", n, err)
		}
		must(t, netlink.LinkSetDown(link(t, "meshd0")))
		if n, err := p.Write([]frame.Frame{good, good}); n != 0 || !errors.Is(err, unix.EIO) {
			t.Errorf("Write() while down = %d, %v; want 0, %v", n, err, unix.EIO)
		}
		must(t, netlink.LinkDel(link(t, "meshd0")))
		if n, err := p.Write([]frame.Frame{good}); n != 0 || !errors.Is(err, unix.EBADFD) {
			t.Errorf("Write() while deleted = %d, %v; want 0, %v", n, err, unix.EBADFD)
		}
		if d := p.Stats().Drops; d["down"] != 3 {
			t.Errorf("drops = %v, want 3 down", d)
		}
		r := newReader(p.MTU(), mode == OffloadOn)
		if _, err := r.batch(p.dev.Load()); err == nil {
			t.Error("batch() of a deleted TAP = nil error")
		}
	})
}

// TestConcurrentWrites has several writers while the TAP is deleted and made
// anew again and again.
func TestConcurrentWrites(t *testing.T) { backends(t, concurrentWrites) }

func concurrentWrites(t *testing.T, mode string) {
	p := open(t, Config{CreateBridge: true, Offload: mode})
	w := wire(t, "weave", p.MTU())
	frames, _ := run(t, p)
	f := frame.Frame{Data: ethernet(broadcast, macA, append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)}
	stop := make(chan struct{}) // closed by the test
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					p.Write([]frame.Frame{f, f})
				}
			}
		})
	}
	for range 3 {
		before := p.State().Repairs
		must(t, netlink.LinkDel(link(t, "meshd0")))
		eventually(t, "the port is back", func() bool { return p.State().Repairs > before && p.State().Joined })
	}
	close(stop)
	wg.Wait()
	flows(t, p, w, frames)
}

func TestNoAllocationPerBatch(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	tcp := stream{src: farContainer(1), dst: farContainer(2)}
	super := tcp.super(pattern(60000), 1300)
	batches := map[string][]frame.Frame{
		"frames":            fullBatch(),
		"segments":          plain(cut(t, super)),
		"super-frames":      {super, super},
		"partial checksums": {tcp.partial(pattern(1000), 0), tcp.partial(pattern(900), 1000)},
	}
	backends(t, func(t *testing.T, mode string) {
		p := open(t, Config{CreateBridge: true, Offload: mode})
		super0 := superWire(t, "weave", p.MTU())
		for name, batch := range batches {
			got := testing.AllocsPerRun(50, func() {
				if n, err := p.Write(batch); n != len(batch) {
					t.Fatalf("Write() = %d, %v", n, err)
				}
			})
			if got != 0 {
				t.Errorf("Write allocates %v times per batch of %s, want 0", got, name)
			}
		}
		r := newReader(p.MTU(), mode == OffloadOn)
		d := p.dev.Load()
		var buf []byte
		got := testing.AllocsPerRun(50, func() {
			var h [vnetLen]byte
			putVnet(&h, super.Offload)
			buf = append(append(buf[:0], h[:]...), super.Data...)
			unix.Write(super0.fd, buf)
			if b, err := r.batch(d); len(b) == 0 || err != nil {
				t.Fatalf("batch() = %d frames, %v", len(b), err)
			}
		})
		if got != 0 {
			t.Errorf("reading allocates %v times per batch, want 0", got)
		}
	})
}

// fullBatch is a batch of the largest frames at the default MTU.
func fullBatch() []frame.Frame {
	data := ethernet(broadcast, macA, append([]byte{0x88, 0xb5}, make([]byte, DefaultMTU)...)...)
	batch := make([]frame.Frame, maxBatch)
	for i := range batch {
		batch[i].Data = data
	}
	return batch
}

// BenchmarkWrite writes 60 KB in one batch, of one TCP stream.
func BenchmarkWrite(b *testing.B) {
	super := stream{src: farContainer(1), dst: farContainer(2)}.super(pattern(60000), 1300)
	batches := map[string][]frame.Frame{"segments": plain(cut(b, super)), "super-frame": {super}}
	for name, batch := range batches {
		for _, mode := range []string{OffloadOn, OffloadOff} {
			b.Run(name+"/offload="+mode, func(b *testing.B) {
				namespace(b)
				p := open(b, Config{CreateBridge: true, Offload: mode})
				superWire(b, "weave", p.MTU())
				b.SetBytes(int64(len(super.Data)))
				b.ReportAllocs()
				for b.Loop() {
					if n, err := p.Write(batch); n != len(batch) {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkRead reads 60 KB of one TCP stream. It includes what it takes to put
// them on the bridge.
func BenchmarkRead(b *testing.B) {
	super := stream{src: farContainer(1), dst: farContainer(2)}.super(pattern(60000), 1300)
	segments := len(cut(b, super))
	for _, mode := range []string{OffloadOn, OffloadOff} {
		b.Run("offload="+mode, func(b *testing.B) {
			namespace(b)
			p := open(b, Config{CreateBridge: true, Offload: mode})
			w := superWire(b, "weave", p.MTU())
			r, d := newReader(p.MTU(), mode == OffloadOn), p.dev.Load()
			b.SetBytes(int64(len(super.Data)))
			b.ReportAllocs()
			var h [vnetLen]byte
			putVnet(&h, super.Offload)
			sent := append(h[:], super.Data...)
			for b.Loop() {
				unix.Write(w.fd, sent)
				for got := 0; got < segments; got += r.segments {
					if _, err := r.batch(d); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
