package pathstate

import (
	"math/rand/v2"
	"sync"
	"time"
)

// paces are the intervals between the probes of a path that rests, shortest first:
// a probe goes at a random time from least to most after the one before. The mappings
// of most NATs live for 30 s and longer (RFC 4787, REQ-5, wants 2 minutes); those of
// some do not, so longer ones are tried one after the other.
var paces = [...]struct{ least, most time.Duration }{
	{4 * time.Second, 5 * time.Second},
	{6500 * time.Millisecond, 8 * time.Second},
	{10 * time.Second, 12 * time.Second},
	{15 * time.Second, 25 * time.Second},
}

const (
	paceProofs = 2         // silences in a row that a path has to outlive for the next interval
	paceDoubts = 2         // in a row that it seems not to have outlived, for going back
	paceMemory = time.Hour // how long a silence that was too long is remembered
)

// Pace remembers how long a way to a neighbour may be silent. It is that of several
// paths, one after the other or at once, over one transport: unlike the machines it
// may be used concurrently. The zero value is ready.
type Pace struct {
	mu      sync.Mutex    // guards below
	tooLong time.Duration // the shortest silence that the way did not outlive; 0: none known
	at      time.Time     // when that was found
}

// note notes a silence that was too long.
func (p *Pace) note(now time.Time, silent time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tooLong == 0 || silent <= p.tooLong || now.Sub(p.at) >= paceMemory {
		p.tooLong, p.at = silent, now
	}
}

// allows reports whether nothing is known against silences up to most.
func (p *Pace) allows(now time.Time, most time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tooLong == 0 || most < p.tooLong || now.Sub(p.at) >= paceMemory
}

// between is a random time from least to most.
func between(least, most time.Duration) time.Duration {
	return least + rand.N(most-least+1)
}
