package punch

import (
	"context"
	"testing"

	"golang.org/x/sync/errgroup"

	"meshd/internal/mux"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// node is a transport that runs its mux, as cmd does in a daemon.
type node struct {
	*Transport
	mux *mux.Mux
}

func (n *node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.mux.Run(ctx) })
	g.Go(func() error { return n.Transport.Run(ctx) })
	return g.Wait()
}

// factory makes transports on simulated hosts, changed by change.
func factory(change func(*Config), after ...func(*Transport)) transporttest.Factory {
	return func(n transporttest.Node) (transport.Transport, error) {
		var sockets []mux.Socket
		for _, a := range n.Addrs {
			s, err := n.Host.Listen(a)
			if err != nil {
				return nil, err
			}
			sockets = append(sockets, s)
		}
		m, err := mux.New(sockets, n.Log)
		if err != nil {
			return nil, err
		}
		c := Config{Mux: m, Local: n.Local.Name, Deliver: n.Deliver, Log: n.Log}
		if change != nil {
			change(&c)
		}
		t, err := New(c)
		if err != nil {
			return nil, err
		}
		for _, f := range after {
			f(t)
		}
		return &node{t, m}, nil
	}
}

var traits = transporttest.Traits{
	Aggregates: true, Follows: true, IPv6: true, Hops: true,
	Overhead: func(bool) int { return 87 },
}

func TestConformance(t *testing.T) {
	t.Run("AES", func(t *testing.T) { transporttest.Run(t, factory(nil), traits) })
	t.Run("ChaCha", func(t *testing.T) {
		transporttest.Run(t, factory(func(c *Config) { c.NoAES = true }), traits)
	})
}
