package mux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"meshd/internal/udp"
)

// Socket is a batched UDP socket of one address family, with the contracts of
// udp.Conn.
type Socket interface {
	ReadBatch(ms []udp.Message) (int, error)
	WriteBatch(ms []udp.Message, df bool) (int, error)
	LocalAddr() netip.AddrPort
	PathMTU(dst netip.AddrPort) (int, error)
	// Judge is told how many of the datagrams that were read were authentic.
	Judge(now time.Time, v udp.Verdict)
	OnTooBig(f func(dst netip.AddrPort, mtu int))
	Close() error
}

var _ Socket = (*udp.Conn)(nil)

// Handler takes datagrams of one kind that were read from one socket at once. Of
// runs (udp.Message.Segment) all datagrams are of that kind. The batch and the
// bytes in it are borrowed: the handler may change them until it returns.
type Handler func(batch []udp.Message)

// Mux owns the sockets of one port. Its methods may be called concurrently.
type Mux struct {
	sockets []Socket
	log     *slog.Logger
	open    [kinds]func(Socket) Handler // written before Run only, as is tooBig
	tooBig  []func(dst netip.AddrPort, mtu int)
	strays  atomic.Uint64
}

// New returns a mux of sockets, at most one per address family, which it owns.
// log takes errors of sockets; nil: nothing is logged.
func New(sockets []Socket, log *slog.Logger) (*Mux, error) {
	if len(sockets) == 0 {
		return nil, errors.New("mux: there is no socket")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Mux{sockets: sockets, log: log}, nil
}

// Handle registers who takes datagrams of a kind. open is called by Run for each
// socket, whose handler is then called by one goroutine. It must not be called
// during Run, nor twice for a kind.
func (m *Mux) Handle(k Kind, open func(Socket) Handler) { m.open[k] = open }

// OnTooBig registers who hears that an IP packet to an address was too big, and
// for which MTU in bytes; anybody can forge that. f is called by several
// goroutines. It must not be called during Run.
func (m *Mux) OnTooBig(f func(dst netip.AddrPort, mtu int)) { m.tooBig = append(m.tooBig, f) }

// Port is the UDP port that the sockets have.
func (m *Mux) Port() uint16 { return m.sockets[0].LocalAddr().Port() }

// Socket finds the socket for an address; nil: there is none of its family.
func (m *Mux) Socket(to netip.AddrPort) Socket {
	for _, s := range m.sockets {
		if s.LocalAddr().Addr().Is4() == to.Addr().Is4() {
			return s
		}
	}
	return nil
}

// Strays is how many datagrams came that nobody takes.
func (m *Mux) Strays() uint64 { return m.strays.Load() }

// Close closes the sockets. Run does it too; a Mux that is not run needs it.
func (m *Mux) Close() error {
	var errs []error
	for _, s := range m.sockets {
		if err := s.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Run reads the sockets until ctx is done, then returns nil. It closes them.
func (m *Mux) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer m.Close()
	defer context.AfterFunc(ctx, func() { m.Close() })()
	for _, s := range m.sockets {
		s.OnTooBig(func(dst netip.AddrPort, mtu int) {
			for _, f := range m.tooBig {
				f(dst, mtu)
			}
		})
	}
	var wg sync.WaitGroup
	errs := make([]error, len(m.sockets))
	for i, s := range m.sockets {
		wg.Go(func() {
			if err := newReader(m, s).run(ctx); err != nil {
				errs[i] = fmt.Errorf("read UDP socket %v: %w", s.LocalAddr(), err)
				cancel(err) // one family less is not what was asked for
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
