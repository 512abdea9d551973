package lab

import (
	"context"
	"errors"
	"time"
)

// final is an error that no waiting will mend.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// Final marks an error after which Poll does not check again.
func Final(err error) error { return final{err} }

// Poll calls check until it returns nil or a Final error, pausing for every in
// between. When ctx is done it returns what the last check returned that ended
// before.
func Poll(ctx context.Context, every time.Duration, check func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := check()
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[final](err); ok {
			return err
		}
		// A check that ctx has cut short says only that.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
