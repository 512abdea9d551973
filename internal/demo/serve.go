package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Serve answers HTTP on addr with a text until ctx is done. It is what runs in
// the demo's containers.
func Serve(ctx context.Context, addr, text string) error {
	s := &http.Server{
		Addr: addr, ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, text) }),
	}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}
