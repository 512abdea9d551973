package transport

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// TagUnused is the overlay control message, without a body, by which a meshd peer
// says that it does not use the transport for the other one. No transport has this
// tag of its own.
const TagUnused = 255

// Attachment is what one session adds to a link: a path over each transport that
// both ends have. Its methods may be called concurrently.
type Attachment struct {
	link  *Link
	slots []*slot // in the order of the common overlays

	native  bool // the neighbour is meshd
	control func(index int, tag byte, msg []byte) error

	done chan struct{} // closed by Run when no path is left
	lost chan struct{} // closed by the first Lose
	once sync.Once
	err  error // why the paths ended; written before done is closed

	retireIn time.Duration // shortest time to live asked for; guarded by link.mu
}

// Link is the link that the session belongs to.
func (a *Attachment) Link() *Link { return a.link }

// Done is closed when none of the session's paths is left.
func (a *Attachment) Done() <-chan struct{} { return a.done }

// Err says why the paths ended; nil if they were asked to. Valid after Done.
func (a *Attachment) Err() error { return a.err }

// Up reports whether one of the session's own paths works.
func (a *Attachment) Up() bool {
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	for _, s := range a.slots {
		if s.usable() {
			return true
		}
	}
	return false
}

// HandleControl hands an overlay control message to the path at the index in the
// list of common overlays. An index beyond it is an error (weave protocol,
// section 2.2). msg is borrowed.
func (a *Attachment) HandleControl(index int, tag byte, msg []byte) error {
	if index < 0 || index >= len(a.slots) {
		return fmt.Errorf("overlay control for overlay %d, only %d are in common", index, len(a.slots))
	}
	s := a.slots[index]
	if tag == TagUnused {
		a.link.mu.Lock()
		s.refused = true
		a.link.mu.Unlock()
		return nil
	}
	if s.path != nil {
		s.path.HandleControl(tag, msg)
	}
	return nil
}

// Stale reports whether the preferences have changed since the session began in
// which transports are used for the neighbour. Only a new session changes that.
func (a *Attachment) Stale() bool {
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	for _, s := range a.slots {
		if a.link.order.used(s.name) != (s.path != nil) {
			return true
		}
	}
	return false
}

// has reports whether a path is one of the session's.
func (a *Attachment) has(s *slot) bool { return slices.Contains(a.slots, s) }

// Lose tells the paths that the control connection is gone. Paths that still
// work go on for at most linger; zero ends them at once.
func (a *Attachment) Lose(linger time.Duration) {
	a.once.Do(func() { close(a.lost) })
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	a.retireLocked(linger)
}

// retireLocked ends the paths after d; a later call can only make it sooner.
// Needs link.mu.
func (a *Attachment) retireLocked(d time.Duration) {
	if d <= 0 {
		for _, s := range a.slots {
			s.cancel()
		}
		a.link.chooseLocked(false) // the ends of their Runs settle it
		return
	}
	if a.retireIn != 0 && a.retireIn <= d {
		return
	}
	a.retireIn = d
	time.AfterFunc(d, func() {
		a.link.mu.Lock()
		defer a.link.mu.Unlock()
		a.retireLocked(0)
	})
}

// Run runs all paths of the session (from now on they send, weave protocol
// section 1.8, step 6) and returns when all have ended: because ctx is done, the
// session was lost, or none works any more.
func (a *Attachment) Run(ctx context.Context) {
	var wg sync.WaitGroup
	errs := make([]error, len(a.slots))
	for i, s := range a.slots {
		if s.path == nil {
			a.tellUnused(i)
			continue
		}
		pathCtx, cancel := context.WithCancel(ctx)
		defer a.onCancel(s, cancel)()
		wg.Go(func() {
			err := s.path.Run(pathCtx, func(st State) { a.link.report(s, st) })
			if err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.name, err)
			}
			a.link.ended(s, err)
		})
	}
	wg.Wait()
	a.err = errors.Join(errs...)
	close(a.done)
	a.link.remove(a)
}

// tellUnused has the neighbour know that no path of ours will answer its one. It
// need not arrive.
func (a *Attachment) tellUnused(index int) {
	if a.native {
		_ = a.control(index, TagUnused, nil)
	}
}

// onCancel makes the slot's cancel end the path's context too, also when the
// slot was cancelled before Run.
func (a *Attachment) onCancel(s *slot, cancel context.CancelFunc) (stop func()) {
	a.link.mu.Lock()
	defer a.link.mu.Unlock()
	if s.ended {
		cancel()
	}
	s.cancel = func() { s.ended = true; cancel() }
	return cancel
}
