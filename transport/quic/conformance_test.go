package quic

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"meshd/internal/mux"
	"meshd/internal/quicnet"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// node is a transport that runs its endpoint and mux, as cmd does in a daemon.
type node struct {
	*Transport
	mux *mux.Mux
}

func (n *node) Run(ctx context.Context) error {
	muxCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return n.mux.Run(muxCtx) })
	g.Go(func() error { return n.Transport.Run(ctx) })
	g.Go(func() error { defer stop(); return n.endpoint.Run(ctx) })
	return g.Wait()
}

// certificate makes what a host shows.
func certificate() (tls.Certificate, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// newNode makes a transport on a simulated host.
func newNode(n transporttest.Node) (*node, error) {
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
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	e, err := quicnet.New(quicnet.Config{Muxes: []*mux.Mux{m}, Certificate: cert, Log: n.Log})
	if err != nil {
		return nil, err
	}
	t, err := New(Config{Endpoint: e, Local: n.Local.Name, Deliver: n.Deliver, Log: n.Log})
	if err != nil {
		return nil, err
	}
	return &node{t, m}, nil
}

func factory(n transporttest.Node) (transport.Transport, error) { return newNode(n) }

func TestConformance(t *testing.T) {
	transporttest.Run(t, factory, transporttest.Traits{
		Aggregates: true, Follows: true, IPv6: true, Hops: true,
		// IPv4 and UDP; QUIC's short header, DATAGRAM header and tag; our item; Ethernet.
		Overhead: func(bool) int { return 28 + 37 + besides },
		Delay:    200 * time.Millisecond, // congestion control
		// quic-go ceases to take what is older than an acknowledgement that arrived.
		Late:  0.02,
		Burst: 64, // quic-go drops what 128 datagrams wait for that it has received
		// quic-go's search ends within 20 bytes, and its largest packet has 1452.
		Slack: 40,
	})
}
