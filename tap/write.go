package tap

import (
	"sync"

	"golang.org/x/sys/unix"

	"meshd/internal/frame"
)

// writer writes one batch. Its method value is bound once, so that a batch does
// not allocate; writers are pooled, so that several goroutines write at once.
type writer struct {
	frames                            []frame.Frame
	n, bytes, down, refused, offloads int
	err                               error

	step func(fd uintptr) // drain
}

var writers = sync.Pool{New: func() any {
	w := new(writer)
	w.step = w.drain
	return w
}}

// Write puts frames on the bridge and returns how many it did, with the first
// error. It never waits; what the kernel does not take is dropped and counted.
// frames is borrowed. A frame with an Offload is dropped: this port takes
// ordinary frames only. Write may be called concurrently.
func (p *Port) Write(frames []frame.Frame) (int, error) {
	w := writers.Get().(*writer)
	w.frames = frames
	w.n, w.bytes, w.down, w.refused, w.offloads, w.err = 0, 0, 0, 0, 0, nil
	// Control takes no lock: writes of several goroutines run side by side.
	if err := p.dev.Load().raw.Control(w.step); err != nil {
		w.down, w.err = len(frames), err // closed: by Close or for another device
	}
	n, err := w.n, w.err
	p.count.written.add(n, w.bytes)
	p.count.down.Add(uint64(w.down))
	p.count.refused.Add(uint64(w.refused))
	p.count.offload.Add(uint64(w.offloads))
	w.frames = nil
	writers.Put(w)
	return n, err
}

func (w *writer) drain(fd uintptr) {
	for i := range w.frames {
		f := &w.frames[i]
		if f.Offload != (frame.Offload{}) {
			w.offloads++
			continue
		}
		err := writeFrame(int(fd), f.Data)
		switch err {
		case nil:
			w.n++
			w.bytes += len(f.Data)
			continue
		case unix.EIO, unix.EBADFD: // the TAP is down or gone: so it is for the rest
			w.down += len(w.frames) - i
			w.fail(err)
			return
		}
		w.refused++
		w.fail(err)
	}
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func writeFrame(fd int, data []byte) error {
	for {
		if _, err := unix.Write(fd, data); err != unix.EINTR {
			return err
		}
	}
}
