package tcp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"meshd/transport"
	"meshd/transport/transporttest"
)

// testMTU is what the ports on the bridge carry, in bytes.
const testMTU = 1400

// port is a control port on a simulated host. It does with what it accepts what the
// control plane does.
type port struct {
	host      *transporttest.Host
	listeners []*transporttest.StreamListener
	header    [headerLen]byte
	take      func(context.Context, net.Conn)
	wrap      func(net.Conn) net.Conn // of what is dialled; nil: as it is
	dials     atomic.Int64            // since a test last looked
}

func newPort(n transporttest.Node) (*port, error) {
	p := &port{host: n.Host}
	for _, a := range n.Addrs {
		l, err := n.Host.ListenStream(a)
		if err != nil {
			return nil, err
		}
		p.listeners = append(p.listeners, l)
	}
	return p, nil
}

func (p *port) Handle(header [headerLen]byte, take func(context.Context, net.Conn)) {
	p.header, p.take = header, take
}

func (p *port) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	p.dials.Add(1)
	s, err := p.host.DialStream(ctx, to)
	if err != nil {
		return nil, err
	}
	if p.wrap != nil {
		return p.wrap(s), nil
	}
	return s, nil
}

// Run accepts until ctx is done.
func (p *port) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, l := range p.listeners {
		defer l.Close()
		wg.Go(func() {
			for {
				s, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { p.greet(ctx, s) })
			}
		})
	}
	<-ctx.Done()
	return nil
}

// greet reads the header.
func (p *port) greet(ctx context.Context, s net.Conn) {
	defer context.AfterFunc(ctx, func() { s.SetDeadline(time.Unix(1, 0)) })()
	s.SetDeadline(time.Now().Add(10 * time.Second))
	s.Write([]byte("weave\x01\x02"))
	var theirs [headerLen]byte
	if _, err := io.ReadFull(s, theirs[:]); err != nil || theirs != p.header {
		s.Close()
		return
	}
	p.take(ctx, s)
}

// node is a transport that runs its port, as the control plane does in a daemon.
type node struct {
	*Transport
	port *port
}

func (n *node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.port.Run(ctx) })
	g.Go(func() error { return n.Transport.Run(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// factory makes transports on simulated hosts, changed by change.
func factory(change func(*Config)) transporttest.Factory {
	return func(n transporttest.Node) (transport.Transport, error) {
		p, err := newPort(n)
		if err != nil {
			return nil, err
		}
		c := Config{Port: p, Local: n.Local.Name, MTU: testMTU, Deliver: n.Deliver, Log: n.Log}
		if change != nil {
			change(&c)
		}
		t, err := New(c)
		if err != nil {
			return nil, err
		}
		return &node{t, p}, nil
	}
}

func TestConformance(t *testing.T) {
	traits := transporttest.Traits{
		Aggregates: true, IPv6: true, Hops: true, Stream: true,
		Overhead: func(bool) int { return 1500 - testMTU },
		Delay:    time.Second, // what is lost is sent again
		Burst:    64,          // the queue takes no number of frames
	}
	t.Run("AES", func(t *testing.T) { transporttest.Run(t, factory(nil), traits) })
	t.Run("ChaCha", func(t *testing.T) {
		transporttest.Run(t, factory(func(c *Config) { c.NoAES = true }), traits)
	})
}
