package tap

import "sync/atomic"

// Stats is a reading of what the port did since Open.
type Stats struct {
	Read    Count             `json:"read"`    // from the bridge
	Written Count             `json:"written"` // to the bridge
	Drops   map[string]uint64 `json:"drops,omitempty"`
}

// Count is frames and their bytes, Ethernet header included, FCS not.
type Count struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
}

// counters are added to once per batch.
type counters struct {
	read, written flow
	tooBig        atomic.Uint64 // read, longer than the MTU allows
	down          atomic.Uint64 // to be written while the TAP was down or gone
	refused       atomic.Uint64 // to be written, not taken by the kernel
	offload       atomic.Uint64 // to be written, with an Offload
}

type flow struct{ frames, bytes atomic.Uint64 }

func (f *flow) add(frames, bytes int) {
	if frames == 0 {
		return
	}
	f.frames.Add(uint64(frames))
	f.bytes.Add(uint64(bytes))
}

func (f *flow) count() Count { return Count{f.frames.Load(), f.bytes.Load()} }

// Stats reads the counters. Drops has reasons only that happened: "too-big" for
// frames read, "down", "refused" and "offload" for frames to be written.
func (p *Port) Stats() Stats {
	s := Stats{Read: p.count.read.count(), Written: p.count.written.count()}
	for reason, n := range map[string]uint64{
		"too-big": p.count.tooBig.Load(),
		"down":    p.count.down.Load(),
		"refused": p.count.refused.Load(),
		"offload": p.count.offload.Load(),
	} {
		if n == 0 {
			continue
		}
		if s.Drops == nil {
			s.Drops = map[string]uint64{}
		}
		s.Drops[reason] = n
	}
	return s
}
