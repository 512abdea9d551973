package tap

import "sync/atomic"

// Stats is a reading of what the port did since Open.
type Stats struct {
	Read    Count             `json:"read"`    // from the bridge
	Written Count             `json:"written"` // to the bridge
	Drops   map[string]uint64 `json:"drops,omitempty"`
}

// Count is frames and their bytes, Ethernet header included, FCS not. A
// super-frame counts as the frames that it stands for, its bytes once.
type Count struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
}

// counters are added to once per batch.
type counters struct {
	read, written flow
	tooBig        counter // read, longer than the MTU allows
	down          counter // to be written while the TAP was down or gone
	refused       counter // to be written, not taken by the kernel
	malformed     counter // either way, with an Offload that cannot be true
}

// counter is only touched where there is something to add, as for most batches
// there is not.
type counter struct{ n atomic.Uint64 }

func (c *counter) add(n int) {
	if n != 0 {
		c.n.Add(uint64(n))
	}
}

type flow struct{ frames, bytes counter }

func (f *flow) add(frames, bytes int) {
	f.frames.add(frames)
	f.bytes.add(bytes)
}

func (f *flow) count() Count { return Count{f.frames.n.Load(), f.bytes.n.Load()} }

// Stats reads the counters. Drops has reasons only that happened: "too-big" for
// frames read, "down" and "refused" for frames to be written, "malformed" for
// both: frames with offload metadata that cannot be true.
func (p *Port) Stats() Stats {
	s := Stats{Read: p.count.read.count(), Written: p.count.written.count()}
	for reason, c := range map[string]*counter{
		"too-big":   &p.count.tooBig,
		"down":      &p.count.down,
		"refused":   &p.count.refused,
		"malformed": &p.count.malformed,
	} {
		n := c.n.Load()
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
