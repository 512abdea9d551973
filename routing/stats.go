package routing

import "sync/atomic"

// Drop is a reason why the forwarder did not pass a frame on.
type Drop uint8

// The reasons.
const (
	DropShort       Drop = iota // less than an Ethernet header
	DropSTP                     // spanning tree stays on its bridge
	DropBadSource               // source MAC is a group address or zero
	DropMACConflict             // source MAC is held at another peer, see MACTable
	DropNoRoute                 // no usable connection leads to the peer
	DropUnknownPeer             // source or destination peer is not in the topology
	DropOwnSource               // came back to the peer that sent it
	DropTooBig                  // larger than the path's MTU and not to be fragmented
	DropNoPath                  // the neighbour has no working path
	DropSend                    // the path refused it
	DropPort                    // the port did not take it
	DropHops                    // no more neighbours may pass it on
	dropCount
)

var dropNames = [dropCount]string{
	"short", "stp", "bad-source", "mac-conflict", "no-route", "unknown-peer",
	"own-source", "too-big", "no-path", "send", "port", "hop-limit",
}

// String returns the reason as it is printed.
func (d Drop) String() string {
	if d < dropCount {
		return dropNames[d]
	}
	return "unknown"
}

// flow is a way that frames take through the forwarder.
type flow uint8

const (
	fromPort flow = iota
	fromLinks
	toPort
	sent
	flooded
	relayed
	local
	answered
	flowCount
)

// Count is a number of frames and their bytes, Ethernet headers included. A
// super-frame counts as one frame.
type Count struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
}

// Stats is a reading of a forwarder's counters.
type Stats struct {
	FromPort  Count `json:"from_port"`
	FromLinks Count `json:"from_links"`
	ToPort    Count `json:"to_port"`
	Sent      Count `json:"sent"`     // to one peer: from the port to the one that has the MAC, or of our own
	Flooded   Count `json:"flooded"`  // copies, from the port and from other peers
	Relayed   Count `json:"relayed"`  // between two other peers
	Local     Count `json:"local"`    // from the port, for a MAC on our side
	Answered  Count `json:"answered"` // ICMP answers to frames that were too big
	// Drops counts frames, and copies of flooded ones, by reason.
	Drops map[string]uint64 `json:"drops"`
}

// tally counts within one batch.
type tally struct {
	flows [flowCount]Count
	drops [dropCount]uint64
}

func (t *tally) add(way flow, bytes int) {
	t.flows[way].Frames++
	t.flows[way].Bytes += uint64(bytes)
}

// counters is what the batches add up to.
type counters struct {
	flows [flowCount]struct{ frames, bytes atomic.Uint64 }
	drops [dropCount]atomic.Uint64
}

// take adds a batch's tally and clears it.
func (c *counters) take(t *tally) {
	for i := range t.flows {
		if n := t.flows[i]; n.Frames > 0 {
			c.flows[i].frames.Add(n.Frames)
			c.flows[i].bytes.Add(n.Bytes)
		}
	}
	for i, n := range t.drops {
		if n > 0 {
			c.drops[i].Add(n)
		}
	}
	*t = tally{}
}

func (c *counters) read(way flow) Count {
	return Count{Frames: c.flows[way].frames.Load(), Bytes: c.flows[way].bytes.Load()}
}

// stats reads the counters; all reasons are there, zeros too.
func (c *counters) stats() Stats {
	st := Stats{
		FromPort:  c.read(fromPort),
		FromLinks: c.read(fromLinks),
		ToPort:    c.read(toPort),
		Sent:      c.read(sent),
		Flooded:   c.read(flooded),
		Relayed:   c.read(relayed),
		Local:     c.read(local),
		Answered:  c.read(answered),
		Drops:     make(map[string]uint64, dropCount),
	}
	for d := range dropCount {
		st.Drops[d.String()] = c.drops[d].Load()
	}
	return st
}
