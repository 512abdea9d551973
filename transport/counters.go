package transport

import (
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Drop is a reason why a frame or datagram was not passed on.
type Drop uint8

// The reasons, as `transport stats` names them.
const (
	DropNoPath    Drop = iota // no path, or its address is not known yet
	DropTooBig                // must not be fragmented and exceeds the MTU
	DropSendError             // the kernel refused it
	DropQueueFull             // a bounded queue was full
	DropMalformed             // lengths or fields do not fit
	DropAuth                  // does not open under the session's key
	DropReplay                // was seen before or is too old
	DropSource                // from an address the neighbour has not confirmed
	DropPeer                  // source or destination peer unknown
	DropRate                  // over a rate limit
	dropCount
)

var dropNames = [dropCount]string{
	"no-path", "too-big", "send-error", "queue-full", "malformed",
	"auth", "replay", "source", "unknown-peer", "rate",
}

// String returns the reason as it is printed.
func (d Drop) String() string {
	if d < dropCount {
		return dropNames[d]
	}
	return "unknown"
}

// Flow counts one direction. All methods may be called concurrently.
type Flow struct {
	frames, bytes, datagrams atomic.Uint64
	drops                    [dropCount]atomic.Uint64
}

// Add counts frames and their bytes (Ethernet header included, FCS not).
func (f *Flow) Add(frames, bytes int) {
	f.frames.Add(uint64(frames))
	f.bytes.Add(uint64(bytes))
}

// AddDatagrams counts what the socket sent or received.
func (f *Flow) AddDatagrams(n int) { f.datagrams.Add(uint64(n)) }

// Drop counts n frames or datagrams dropped for one reason.
func (f *Flow) Drop(why Drop, n int) { f.drops[why].Add(uint64(n)) }

// Within reports whether a limiter allows one more of what the neighbour asks for, and
// counts a drop where it does not.
func (f *Flow) Within(now time.Time, l *rate.Limiter) bool {
	ok := l.AllowN(now, 1)
	if !ok {
		f.Drop(DropRate, 1)
	}
	return ok
}

// FlowStats is a reading of a Flow.
type FlowStats struct {
	Frames    uint64            `json:"frames"`
	Bytes     uint64            `json:"bytes"`
	Datagrams uint64            `json:"datagrams"`
	Drops     map[string]uint64 `json:"drops,omitempty"` // by reason, zeros left out
}

// Stats reads the flow.
func (f *Flow) Stats() FlowStats {
	s := FlowStats{Frames: f.frames.Load(), Bytes: f.bytes.Load(), Datagrams: f.datagrams.Load()}
	for d := range dropCount {
		if n := f.drops[d].Load(); n > 0 {
			if s.Drops == nil {
				s.Drops = map[string]uint64{}
			}
			s.Drops[d.String()] = n
		}
	}
	return s
}

// Counters counts both directions of one path. The zero value is ready.
type Counters struct {
	Tx, Rx Flow

	// Below is the link's, guarded by its mutex.
	meter              meter
	handshakes, rekeys uint64
}

// agreed counts what a path reports on top of what it reported before.
func (c *Counters) agreed(before, now State) {
	c.handshakes += now.Handshakes - min(before.Handshakes, now.Handshakes)
	c.rekeys += now.Rekeys - min(before.Rekeys, now.Rekeys)
}
