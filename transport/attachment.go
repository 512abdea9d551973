package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Attachment is what one session adds to a link: a path over each transport that
// both ends have. Its methods may be called concurrently.
type Attachment struct {
	link  *Link
	slots []*slot // in the order of the common overlays

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
	a.slots[index].path.HandleControl(tag, msg)
	return nil
}

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
		a.link.chooseLocked() // the ends of their Runs settle it
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
