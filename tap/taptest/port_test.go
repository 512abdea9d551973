package taptest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"meshd/internal/frame"
)

func TestPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		p := New()
		var kept, copied []byte
		ended := make(chan error, 1)
		go func() {
			ended <- p.Run(ctx, func(frames []frame.Frame) {
				kept, copied = frames[1].Data, slices.Clone(frames[1].Data)
				p.Write(frames)
			})
		}()
		in := [][]byte{{1, 2, 3}, {4, 5}}
		if err := p.Inject(ctx, in...); err != nil {
			t.Fatal(err)
		}
		for _, want := range in {
			got, err := p.Next(ctx)
			if err != nil || !slices.Equal(got.Data, want) {
				t.Errorf("Next() = %v, %v; want %v", got.Data, err, want)
			}
		}
		synctest.Wait()
		if !slices.Equal(copied, in[1]) || !slices.Equal(kept, []byte{0, 0}) {
			t.Errorf("handle had %v, now %v; want %v, overwritten", copied, kept, in[1])
		}
		if got := p.Written(); len(got) != 0 {
			t.Errorf("Written() after all was taken = %v", got)
		}
		p.Write([]frame.Frame{{Data: []byte{6}}, {Data: []byte{7}}})
		if got := p.Written(); len(got) != 2 {
			t.Errorf("Written() = %d frames, want 2", len(got))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
		if err := p.Inject(ctx, []byte{8}); !errors.Is(err, context.Canceled) {
			t.Errorf("Inject() after the end = %v", err)
		}
		if _, err := p.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Next() after the end = %v", err)
		}
	})
}
