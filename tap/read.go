package tap

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

const (
	maxBatch  = 64
	arenaSize = 256 << 10 // bytes that a batch fills at most, unless frames are huge
	frameStep = 64        // frames start on a cache line
)

// maxFrame is the longest frame in bytes for an MTU: an Ethernet header, two VLAN
// tags on it (IEEE 802.1Q, 802.1ad).
func maxFrame(mtu int) int { return mtu + frame.HeaderLen + 2*4 }

// reader reads batches of frames into memory of its own.
type reader struct {
	arena  []byte
	max    int // bytes of the longest frame
	frames [maxBatch]frame.Frame

	// What the last call of step found.
	n, bytes, tooBig int
	err              error

	step func(fd uintptr) bool // fill, bound once: no allocation per batch
}

func newReader(mtu int) *reader {
	r := &reader{max: maxFrame(mtu)}
	slot := (r.max + 1 + frameStep - 1) &^ (frameStep - 1)
	r.arena = make([]byte, max(2*slot, min(maxBatch*slot, arenaSize)))
	r.step = r.fill
	return r
}

// batch waits for frames and reads what there is, at most maxBatch of them. The
// frames are valid until the next call.
func (r *reader) batch(d *device) ([]frame.Frame, error) {
	r.n, r.bytes, r.tooBig, r.err = 0, 0, 0, nil
	if err := d.raw.Read(r.step); err != nil {
		return nil, err
	}
	return r.frames[:r.n], r.err
}

// fill reads until there is nothing more; false means to wait for more.
func (r *reader) fill(fd uintptr) bool {
	off := 0
	for r.n < maxBatch && off+r.max+1 <= len(r.arena) {
		// One byte more than a frame may have shows that it was cut.
		n, err := unix.Read(int(fd), r.arena[off:off+r.max+1])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return r.n > 0 || r.tooBig > 0
		case err != nil:
			r.err = err
			return true
		case n > r.max:
			r.tooBig++
			continue
		}
		r.frames[r.n] = frame.Frame{Data: r.arena[off : off+n : off+n]}
		r.n++
		r.bytes += n
		off += (n + frameStep - 1) &^ (frameStep - 1)
	}
	return true
}

// How long the reader waits for a TAP that does not work.
const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = time.Second
)

// read hands frames to handle until ctx is done.
func (p *Port) read(ctx context.Context, handle func([]frame.Frame)) {
	r := newReader(p.mtu)
	p.dev.Load().file.SetReadDeadline(time.Time{}) // of a Run before
	interrupted := make(chan struct{})             // closed by interrupt
	stop := context.AfterFunc(ctx, func() { p.interrupt(); close(interrupted) })
	defer func() {
		if !stop() {
			<-interrupted // or it would hit the next Run
		}
	}()
	backoff := minBackoff
	for {
		// The order matters: a device that is loaded before ctx is done is
		// interrupted, or closed by the watcher that swapped it.
		d := p.dev.Load()
		if ctx.Err() != nil {
			return
		}
		frames, err := r.batch(d)
		p.count.read.add(len(frames), r.bytes)
		p.count.tooBig.Add(uint64(r.tooBig))
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
func (p *Port) interrupt() { p.dev.Load().file.SetReadDeadline(time.Unix(1, 0)) }

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
