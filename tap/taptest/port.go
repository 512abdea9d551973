// Package taptest has a port in memory, for tests that have no kernel device.
package taptest

import (
	"context"
	"sync"

	"meshd/internal/frame"
)

// Port behaves as tap.Port does, with the test in the place of the bridge: what
// the test injects is read, what is written the test receives. All methods may be
// called concurrently. It uses channels only, so it works under testing/synctest.
type Port struct {
	inject  chan []frame.Frame // Inject sends, Run receives; unbuffered: Inject waits
	arrived chan struct{}      // room for 1; Write to Next: there is something new

	mu      sync.Mutex // guards written
	written []frame.Frame
}

// New makes a port.
func New() *Port {
	return &Port{inject: make(chan []frame.Frame), arrived: make(chan struct{}, 1)}
}

// Run hands what is injected to handle until ctx is done, then returns nil.
// frames is borrowed: it is overwritten when handle returns, so that a test
// notices who keeps it.
func (p *Port) Run(ctx context.Context, handle func(frames []frame.Frame)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case batch := <-p.inject:
			handle(batch)
			for i := range batch {
				clear(batch[i].Data)
				batch[i] = frame.Frame{}
			}
		}
	}
}

// Inject gives Run one batch of frames, as if the bridge had sent them. It waits
// until Run takes them or ctx is done.
func (p *Port) Inject(ctx context.Context, frames ...[]byte) error {
	batch := make([]frame.Frame, len(frames))
	for i, f := range frames {
		batch[i].Data = append([]byte(nil), f...)
	}
	select {
	case p.inject <- batch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Write records copies of frames.
func (p *Port) Write(frames []frame.Frame) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range frames {
		p.written = append(p.written, frame.Frame{Data: append([]byte(nil), f.Data...), Offload: f.Offload})
	}
	if len(p.written) > 0 {
		p.signal()
	}
	return len(frames), nil
}

// Next returns the oldest frame written that was not taken yet. It waits until
// there is one or ctx is done.
func (p *Port) Next(ctx context.Context) (frame.Frame, error) {
	for {
		if f, ok := p.take(); ok {
			return f, nil
		}
		select {
		case <-p.arrived:
		case <-ctx.Done():
			return frame.Frame{}, ctx.Err()
		}
	}
}

// Written returns the frames written that were not taken yet, and takes them.
func (p *Port) Written() []frame.Frame {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.written
	p.written = nil
	return out
}

func (p *Port) take() (frame.Frame, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.written) == 0 {
		return frame.Frame{}, false
	}
	f := p.written[0]
	p.written = p.written[1:]
	if len(p.written) > 0 {
		p.signal() // for another caller of Next
	}
	return f, true
}

// signal wakes one caller of Next.
func (p *Port) signal() {
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}
