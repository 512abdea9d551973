package tap

import (
	"os"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// writer writes batches to the device. Writers are pooled, so that several
// goroutines write at once and a batch does not allocate.
type writer struct {
	d      *device
	header [vnetLen]byte
	vector vector
	cutter frame.Cutter
	joiner *frame.Joiner
	can    frame.JoinWhat // of joiner
	whole  []byte         // what was refused in pieces, on its way to be cut
	seg    []byte         // a segment cut

	// What the batch came to: each of its frames is one of n, refused and malformed,
	// or was left when the TAP turned out to be down. segments and bytes are of what
	// was written.
	n, refused, malformed int
	segments, bytes       int
	err                   error // the first
	gaveUp                error // why the kernel gets no more super-frames
}

// Write puts frames on the bridge and returns how many it did, with the first
// error. It never waits; what the kernel does not take is dropped and counted, as
// is a frame whose Offload cannot be true (frame.ErrOffload). With offloads on,
// segments of one TCP or UDP flow are joined to super-frames first; off,
// super-frames are cut. frames is borrowed. Write may be called concurrently.
func (p *Port) Write(frames []frame.Frame) (int, error) {
	w := p.writers.Get().(*writer)
	w.write(p.dev.Load(), frames)
	n, err := w.n, w.err
	p.count.written.add(w.segments, w.bytes)
	p.count.refused.add(w.refused)
	p.count.malformed.add(w.malformed)
	p.count.down.add(len(frames) - w.n - w.refused - w.malformed)
	if w.gaveUp != nil {
		p.log.Warn("the kernel refuses super-frames: they are cut before they are written", "device", p.device, "err", w.gaveUp)
	}
	p.writers.Put(w)
	return n, err
}

func (w *writer) write(d *device, frames []frame.Frame) {
	w.d, w.n, w.refused, w.malformed, w.segments, w.bytes, w.err, w.gaveUp = d, 0, 0, 0, 0, 0, nil, nil
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closing.Load() { // by Close, or for another device
		w.err = os.ErrClosed
		return
	}
	w.setUp()
	for len(frames) > 0 {
		n := w.fit(frames)
		for _, j := range w.joiner.Join(frames[:n]) {
			if up := w.put(j); !up {
				return
			}
		}
		if frames = frames[n:]; len(frames) == 0 {
			return
		}
		if up := w.cut(frames[0], 1); !up {
			return
		}
		frames = frames[1:]
	}
}

// setUp makes the joiner for what the device takes now.
func (w *writer) setUp() {
	if can := w.d.joins(); w.joiner == nil || w.can != can {
		w.joiner, w.can = frame.NewJoiner(can), can
	}
}

// fit returns how many frames from the first on the kernel may have as they are.
// The one after them is to be cut, or turns out to be malformed then.
func (w *writer) fit(frames []frame.Frame) int {
	for i := range frames {
		f := &frames[i]
		if f.Offload != (frame.Offload{}) && (!w.d.takes(f.Offload) || f.Wild() || frame.CheckOffload(*f) != nil) {
			return i
		}
	}
	return len(frames)
}

// put writes what stands for one frame or several. It returns false when the TAP
// is down or gone, as it is for what follows then.
func (w *writer) put(j frame.Joined) (up bool) {
	if j.Offload.GSOType != frame.GSONone { // a peer's HdrLen may be anything
		j.Offload.HdrLen = headersLen(j.Offload, j.Head)
	}
	switch err := w.pieces(&j); {
	case err == nil:
		count := j.Frames
		if count == 1 {
			count = segments(j.Offload, j.Bytes)
		} else {
			w.d.judge(true)
		}
		w.n += j.Frames
		w.segments += count
		w.bytes += j.Bytes
	case isDown(err):
		w.fail(err)
		return false
	case j.Offload.GSOType != frame.GSONone:
		if j.Frames > 1 && w.d.judge(false) {
			w.gaveUp = err
		}
		return w.cut(frame.Frame{Data: w.gather(&j), Offload: j.Offload}, j.Frames)
	default:
		w.refused += j.Frames
		w.fail(err)
	}
	return true
}

// pieces writes the pieces of j as one frame.
func (w *writer) pieces(j *frame.Joined) error {
	defer w.vector.clear()
	if w.d.vnet {
		putVnet(&w.header, j.Offload)
		w.vector.add(w.header[:])
	}
	if len(j.Head) == 0 {
		return unix.EINVAL
	}
	w.vector.add(j.Head)
	for _, b := range j.Pieces {
		w.vector.add(b)
	}
	return w.vector.write(w.d.fd)
}

// gather returns the bytes of j in one piece, valid until the next call.
func (w *writer) gather(j *frame.Joined) []byte {
	if len(j.Pieces) == 0 {
		return j.Head
	}
	w.whole = append(w.whole[:0], j.Head...)
	for _, b := range j.Pieces {
		w.whole = append(w.whole, b...)
	}
	return w.whole
}

// cut writes a frame, which stands for count frames of the batch, as segments with
// complete checksums. It returns false when the TAP is down or gone.
func (w *writer) cut(f frame.Frame, count int) (up bool) {
	err := w.cutter.Begin(f)
	if err == nil && f.Wild() {
		err = frame.ErrOffload
	}
	if err != nil {
		w.malformed += count
		w.fail(err)
		return true
	}
	for {
		seg, ok := w.cutter.Next(w.seg[:0])
		if !ok {
			break
		}
		w.seg = seg
		err := w.pieces(&frame.Joined{Head: seg})
		if err == nil {
			w.segments++
			continue
		}
		w.fail(err)
		if isDown(err) {
			return false
		}
		w.refused += count // what was written of it is half a frame
		return true
	}
	w.n += count
	w.bytes += len(f.Data)
	return true
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// isDown tells whether the TAP is down or gone.
func isDown(err error) bool { return err == unix.EIO || err == unix.EBADFD }
