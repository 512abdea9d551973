package main

import (
	"context"
	"time"
)

// idleTime is how long daemons are watched at rest.
const idleTime = time.Second

// background is how often daemons allocate memory at rest.
type background struct {
	reading   float64 // for telling how often
	perSecond float64
}

// background watches the daemons at rest; ok is false for daemons that do not
// tell.
func (b *bed) background(ctx context.Context) (idle background, ok bool) {
	first, ok := b.allocations(ctx)
	if !ok {
		return idle, false
	}
	second, _ := b.allocations(ctx)
	select {
	case <-ctx.Done():
		return idle, false
	case <-time.After(idleTime):
	}
	third, ok := b.allocations(ctx)
	idle.reading = second - first
	idle.perSecond = max(0, third-second-idle.reading) / idleTime.Seconds()
	return idle, ok
}

// perFrame is the allocations between two readings for each frame and daemon:
// each frame passes two of them.
func (i background) perFrame(allocations float64, took time.Duration, frames int) float64 {
	return max(0, allocations-i.reading-i.perSecond*took.Seconds()) / float64(2*frames)
}

// allocations is how often all daemons have allocated memory so far.
func (b *bed) allocations(ctx context.Context) (sum float64, ok bool) {
	for _, p := range b.peers {
		n, err := p.Metric(ctx, "go_memstats_mallocs_total")
		if err != nil {
			return 0, false
		}
		sum += n
	}
	return sum, len(b.peers) > 0
}
