package encap

import (
	"time"

	"meshd/internal/frame"
)

// Bounds of reassembly, for each path.
const (
	// NativePartsMax is how many frames are put together at a time.
	NativePartsMax = 8
	// NativePartsLive is how long a frame waits for what is missing.
	NativePartsLive = 2 * time.Second
	// NativePartUnit is what offsets and lengths are a multiple of, in bytes, but for
	// the last length.
	NativePartUnit = 8
	// NativeFrameMax is the length in bytes of the longest frame that fragments can
	// tell the length of.
	NativeFrameMax = 65535

	maxPartBytes = 256 << 10 // of memory
)

// NativeAssembly puts fragments together. All fragments of a frame must say the same of
// it, and none may overlap another: such a frame is given up. The zero value is
// ready. It must not be used concurrently.
type NativeAssembly struct {
	slots [NativePartsMax]partSlot
	bytes int    // of the slots' data
	spare []byte // memory of a frame that is done
}

// partSlot is a frame of which fragments are missing.
type partSlot struct {
	data    []byte     // of the frame's length; nil: the slot is free
	of      NativePart // of the first fragment that came, without its bytes
	since   time.Time
	missing int // bytes
	// A bit for each unit of the frame that is there.
	seen [(NativeFrameMax + NativePartUnit*64) / (NativePartUnit * 64)]uint64
}

// Add takes a fragment. whole is the frame that it completes, borrowed until the
// next call; nil: none. lost is how many frames were given up for lack of time or
// room; ok is false where the fragment makes no sense, or one before it did not.
func (a *NativeAssembly) Add(now time.Time, f *NativePart) (whole []byte, lost int, ok bool) {
	lost = a.Expire(now)
	n := len(f.Packet.Frame.Data)
	if f.Offset%NativePartUnit != 0 || n%NativePartUnit != 0 && f.Offset+n != f.Total {
		return nil, lost, false
	}
	s := a.find(f.ID)
	if s == nil {
		var more int
		s, more = a.begin(now, f)
		lost += more
	}
	if !s.fits(f) || !s.mark(f.Offset, n) {
		a.free(s)
		return nil, lost, false
	}
	copy(s.data[f.Offset:], f.Packet.Frame.Data)
	if s.missing -= n; s.missing > 0 {
		return nil, lost, true
	}
	whole = s.data
	a.free(s)
	return whole, lost, true
}

// find finds the slot of a frame; nil: it has none.
func (a *NativeAssembly) find(id uint32) *partSlot {
	for i := range a.slots {
		if s := &a.slots[i]; s.data != nil && s.of.ID == id {
			return s
		}
	}
	return nil
}

// begin takes a slot for the frame of f, in place of the oldest ones where there
// is no room, and says how many those were.
func (a *NativeAssembly) begin(now time.Time, f *NativePart) (s *partSlot, lost int) {
	for {
		var oldest *partSlot
		s = nil
		for i := range a.slots {
			switch x := &a.slots[i]; {
			case x.data == nil:
				s = x
			case oldest == nil || x.since.Before(oldest.since):
				oldest = x
			}
		}
		if s != nil && a.bytes+f.Total <= maxPartBytes {
			break
		}
		a.free(oldest)
		lost++
	}
	s.data = a.spare
	if a.spare = nil; cap(s.data) < f.Total {
		s.data = make([]byte, f.Total)
	}
	s.data = s.data[:f.Total]
	s.of, s.since, s.missing = *f, now, f.Total
	s.of.Packet.Frame = frame.Frame{}
	clear(s.seen[:])
	a.bytes += f.Total
	return s, lost
}

// free makes a slot free and keeps its memory for the next frame.
func (a *NativeAssembly) free(s *partSlot) {
	a.bytes -= len(s.data)
	if cap(s.data) > cap(a.spare) {
		a.spare = s.data
	}
	s.data = nil
}

// Empty reports whether no frame waits for fragments.
func (a *NativeAssembly) Empty() bool { return a.bytes == 0 }

// Expire gives up frames that have waited for too long and says how many.
func (a *NativeAssembly) Expire(now time.Time) (lost int) {
	if a.bytes == 0 {
		return 0
	}
	for i := range a.slots {
		if s := &a.slots[i]; s.data != nil && now.Sub(s.since) >= NativePartsLive {
			a.free(s)
			lost++
		}
	}
	return lost
}

// fits reports whether a fragment says the same of the frame as the first one.
func (s *partSlot) fits(f *NativePart) bool {
	p, q := &s.of.Packet, &f.Packet
	return p.Src == q.Src && p.Dst == q.Dst && p.Hops == q.Hops && s.of.Total == f.Total
}

// mark notes that bytes of the frame are there; false: some were already.
func (s *partSlot) mark(offset, n int) bool {
	for u := offset / NativePartUnit; u < (offset+n+NativePartUnit-1)/NativePartUnit; u++ {
		bit := uint64(1) << (u % 64)
		if s.seen[u/64]&bit != 0 {
			return false
		}
		s.seen[u/64] |= bit
	}
	return true
}
