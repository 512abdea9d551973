package lab

import (
	"context"
	"errors"
	"time"
)

// Poll calls check until it returns nil, pausing for every in between. When ctx
// is done it returns what check returned last.
func Poll(ctx context.Context, every time.Duration, check func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
