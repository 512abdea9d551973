package tap

import (
	"context"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

const (
	maxBatch  = 64
	arenaSize = 256 << 10 // bytes after which a batch ends: it shall stay in the CPU's cache
	frameStep = 64        // reads start on a cache line

	// maxSpins is how often the reader yields and tries again before it sleeps. To
	// be woken costs more than that, most of all in a virtual machine; 5 is not told
	// apart from 20, and 100 costs throughput.
	maxSpins = 20
)

// maxFrame is the longest frame in bytes for an MTU: an Ethernet header, two VLAN
// tags on it (IEEE 802.1Q, 802.1ad).
func maxFrame(mtu int) int { return mtu + frame.HeaderLen + 2*4 }

// maxSuperFrame is the longest super-frame in bytes: IP has no longer packets.
var maxSuperFrame = maxFrame(65535)

// reader reads batches of frames into memory of its own.
type reader struct {
	arena  []byte
	max    int // bytes of the longest frame, or of a super-frame's longest segment
	slot   int // bytes that one read needs
	frames [maxBatch]frame.Frame
	polls  [2]unix.PollFd

	// What the last call of batch found and did.
	n, bytes, segments  int
	tooBig, malformed   int
	reads, spins, waits int
}

// newReader makes a reader of devices with that MTU. It reads those of the offload
// backend if super.
func newReader(mtu int, super bool) *reader {
	r := &reader{max: maxFrame(mtu)}
	// One byte more than a frame may have shows that it was cut.
	longest := r.max + 1
	if super {
		longest = vnetLen + maxSuperFrame + 1
	}
	r.slot = (longest + frameStep - 1) &^ (frameStep - 1)
	r.arena = make([]byte, min(maxBatch*r.slot, arenaSize+r.slot))
	return r
}

// batch waits for frames and reads what there is, at most maxBatch of them, none
// when it was interrupted. The frames are valid until the next call.
func (r *reader) batch(d *device) ([]frame.Frame, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r.n, r.bytes, r.segments, r.tooBig, r.malformed = 0, 0, 0, 0, 0
	r.reads, r.spins, r.waits = 0, 0, 0
	for {
		if d.closing.Load() {
			return nil, os.ErrClosed
		}
		if err := r.fill(d); err != nil || r.n > 0 || r.tooBig > 0 || r.malformed > 0 {
			return r.frames[:r.n], err
		}
		if r.spins < maxSpins {
			r.spins++
			unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) // never fails
			continue
		}
		if goOn, err := r.wait(d); !goOn || err != nil {
			return nil, err
		}
	}
}

// wait sleeps until there is something to read. goOn is false when the reader was
// interrupted.
func (r *reader) wait(d *device) (goOn bool, err error) {
	// Errors of the TAP are reported unasked. Ready without being readable means
	// that it does not work, and reading may not say so.
	if r.waits > 0 && r.polls[0].Revents&^unix.POLLIN != 0 {
		return false, unix.EIO
	}
	r.waits++
	r.polls = [2]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}, {Fd: int32(d.wake), Events: unix.POLLIN}}
	if _, err := unix.Poll(r.polls[:], -1); err != nil && err != unix.EINTR {
		return false, os.NewSyscallError("poll", err)
	}
	if r.polls[1].Revents == 0 {
		return true, nil
	}
	var counter [8]byte
	unix.Read(d.wake, counter[:])
	return false, nil
}

// fill reads until there is nothing more, or the batch is full.
func (r *reader) fill(d *device) error {
	off := 0
	for range maxBatch {
		if off+r.slot > len(r.arena) {
			return nil
		}
		r.reads++
		n, err := readNow(d.fd, r.arena[off:off+r.slot])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil
		case err != 0:
			return err
		}
		if r.take(r.arena[off:off+n:off+n], d.vnet) {
			off += (n + frameStep - 1) &^ (frameStep - 1)
		}
	}
	return nil
}

// readNow reads from a descriptor that does not block. Go's scheduler is not told
// of the call (RawSyscall): it would take the processor away from the longer ones,
// and they would have to get it back.
func readNow(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// take adds what was read to the batch, or counts why not.
func (r *reader) take(data []byte, vnet bool) bool {
	f := frame.Frame{Data: data}
	if vnet {
		if len(data) < vnetLen {
			r.malformed++
			return false
		}
		f.Data = data[vnetLen:]
		var ok bool
		if f.Offload, ok = parseVnet((*[vnetLen]byte)(data), f.Data); !ok {
			r.malformed++
			return false
		}
	}
	longest, count := len(f.Data), 1
	if f.Offload.GSOType != frame.GSONone {
		longest, count = int(f.Offload.HdrLen)+int(f.Offload.GSOSize), segments(f.Offload, len(f.Data))
	}
	if longest > r.max {
		r.tooBig += count
		return false
	}
	r.frames[r.n] = f
	r.n++
	r.bytes += len(f.Data)
	r.segments += count
	return true
}

// How long the reader waits for a TAP that does not work.
const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = time.Second
)

// read hands frames to handle until ctx is done.
func (p *Port) read(ctx context.Context, handle func([]frame.Frame)) {
	// A goroutine that always has its thread is woken by the kernel directly, not
	// through Go's poller and scheduler: half the latency.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := newReader(p.mtu, p.mode != OffloadOff)
	defer context.AfterFunc(ctx, p.interrupt)() // that comes late interrupts the next Run once, for nothing
	backoff := minBackoff
	for {
		// The order matters: a device that is loaded before ctx is done is
		// interrupted, or closed by the watcher that swapped it.
		d := p.dev.Load()
		if ctx.Err() != nil {
			return
		}
		frames, err := r.batch(d)
		p.count.read.add(r.segments, r.bytes)
		p.count.tooBig.add(r.tooBig)
		p.count.malformed.add(r.malformed)
		if len(frames) > 0 {
			handle(frames)
		}
		if err == nil {
			backoff = minBackoff
			continue
		}
		if p.dev.Load() == d {
			p.await(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
		}
	}
}

// interrupt wakes the reader.
func (p *Port) interrupt() { p.dev.Load().interrupt() }

// await tells the watcher to look and waits for another device, or for d.
func (p *Port) await(ctx context.Context, d time.Duration) {
	select {
	case p.kick <- struct{}{}:
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-p.swapped:
	case <-t.C:
	}
}
