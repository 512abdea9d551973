package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// firstAcceptPause is the first pause after an error of a listening socket.
const firstAcceptPause = 5 * time.Millisecond

// streams serves TCP.
type streams struct {
	listeners []*net.TCPListener
	target    *target
	counts    *counts
	limit     int
}

var _ server = (*streams)(nil)

func openStreams(h HostPort, t *target, c *counts, o Options) (server, []netip.AddrPort, error) {
	listeners, addrs, err := listenAll(h, listenTCP)
	return &streams{listeners: listeners, target: t, counts: c, limit: cmp.Or(o.Limit, 4096)}, addrs, err
}

func (s *streams) close() error { return closeAll(s.listeners) }

// closeAll closes sockets that may be closed already.
func closeAll[S io.Closer](sockets []S) error {
	var errs []error
	for _, socket := range sockets {
		if err := socket.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *streams) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range s.listeners {
		wg.Go(func() { s.accept(ctx, l) })
	}
	wg.Wait()
}

// accept serves the connections of a listener until ctx ends, and returns after
// the last.
func (s *streams) accept(ctx context.Context, l *net.TCPListener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	pause := firstAcceptPause
	for {
		client, err := l.AcceptTCP()
		switch {
		case ctx.Err() != nil, errors.Is(err, net.ErrClosed):
			if err == nil {
				client.Close()
			}
			return
		case err != nil:
			// The client left, or there are no descriptors: until there are, a pause
			// keeps us from using up a processor.
			if !errors.Is(err, syscall.ECONNABORTED) {
				s.counts.failed(acceptError(err))
				sleep(ctx, pause)
				pause = min(2*pause, lastPause)
			}
		case s.counts.active.Add(1) > int64(s.limit):
			s.counts.active.Add(-1)
			s.counts.full(s.limit)
			reset(client)
		default:
			pause = firstAcceptPause
			s.counts.connections.Add(1)
			wg.Go(func() {
				defer s.counts.active.Add(-1)
				s.serve(ctx, client)
			})
		}
	}
}

func acceptError(err error) error {
	why := ""
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		why = "raise the limit of open files (LimitNOFILE, fs.file-max): "
	}
	return fmt.Errorf("take a connection: %s%w", why, cause(err))
}

// serve connects a client with the target until both have ended.
func (s *streams) serve(ctx context.Context, client *net.TCPConn) {
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	c, _, err := s.target.dial(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.counts.failed(err)
			reset(client)
		}
		return
	}
	s.counts.reached()
	server := c.(*net.TCPConn)
	defer server.Close()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	join(client, server, &s.counts.toClient, &s.counts.toTarget)
}
