package quicnet

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sync/errgroup"

	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/transport/transporttest"
)

const latency = 5 * time.Millisecond

// certificate makes what a host shows, valid from now for an hour, changed by
// change.
func certificate(t testing.TB, change ...func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, f := range change {
		f(leaf)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// ecdsaCertificate is one with a key of another kind.
func ecdsaCertificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// node is an endpoint that runs with its mux.
type node struct {
	*Endpoint
	addr netip.AddrPort
	host *transporttest.Host
	stop func() // ends it and waits
}

// run runs an endpoint over sockets until the test ends.
func run(t testing.TB, cert tls.Certificate, change func(*Endpoint), sockets ...mux.Socket) *node {
	t.Helper()
	m, err := mux.New(sockets, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{Muxes: []*mux.Mux{m}, Certificate: cert, ResetKey: &[32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(e)
	}
	ctx, cancel := context.WithCancel(context.Background())
	muxCtx, stopMux := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return m.Run(muxCtx) })
	g.Go(func() error { defer stopMux(); return e.Run(ctx) })
	n := &node{Endpoint: e, addr: sockets[0].LocalAddr()}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := g.Wait(); err != nil {
			t.Errorf("Run = %v, want nil after cancel", err)
		}
	})
	t.Cleanup(n.stop)
	for { // until it runs
		e.mu.Lock()
		ready := e.ctx != nil
		e.mu.Unlock()
		if ready {
			return n
		}
		<-time.After(time.Millisecond)
	}
}

// world is hosts in memory.
type world struct {
	net  *transporttest.Network
	next byte
}

func newWorld() *world {
	return &world{net: transporttest.NewNetwork(1, transporttest.Link{Latency: latency})}
}

func (w *world) node(t testing.TB, cert tls.Certificate, change ...func(*Endpoint)) *node {
	t.Helper()
	w.next++
	ip := netip.AddrFrom4([4]byte{10, 9, 9, w.next})
	h := w.net.Host(ip)
	s, err := h.Listen(netip.AddrPortFrom(ip, 6785))
	if err != nil {
		t.Fatal(err)
	}
	var f func(*Endpoint)
	if len(change) > 0 {
		f = change[0]
	}
	n := run(t, cert, f, s)
	n.host = h
	return n
}

// connect opens a session stream from a to b.
func connect(t testing.TB, a, b *node) (dialled, accepted *Stream) {
	t.Helper()
	d, err := a.Dial(context.Background(), b.addr)
	if err != nil {
		t.Fatal(err)
	}
	ac, err := b.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return d.(*Stream), ac.(*Stream)
}

// echoes fails unless what is written at one end is read at the other.
func echoes(t testing.TB, from, to net.Conn, size int) {
	t.Helper()
	want := make([]byte, size)
	mrand.NewChaCha8([32]byte{1}).Read(want)
	errs := make(chan error, 1)
	go func() { _, err := from.Write(want); errs <- err }()
	got := make([]byte, size)
	if _, err := io.ReadFull(to, got); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes arrived changed", size)
	}
}

func checkSession(t testing.TB, a, b *node) {
	t.Helper()
	d, ac := connect(t, a, b)
	echoes(t, d, ac, 100)
	echoes(t, ac, d, 3<<20)
	for _, s := range []*Stream{d, ac} {
		if s.RTT() <= 0 {
			t.Errorf("RTT = %v, want more than 0", s.RTT())
		}
		for _, addr := range []net.Addr{s.LocalAddr(), s.RemoteAddr()} {
			if u, ok := addr.(*net.UDPAddr); !ok || u.AddrPort().Addr().Is4In6() || u.Port == 0 {
				t.Errorf("address %v is a %T", addr, addr)
			}
		}
	}
	if !d.Conn().Dialled() || ac.Conn().Dialled() {
		t.Error("both ends must know who dialled")
	}
	one, err1 := d.ExportKeyingMaterial("test", []byte("x"), 32)
	two, err2 := ac.ExportKeyingMaterial("test", []byte("x"), 32)
	other, err3 := d.ExportKeyingMaterial("test", []byte("y"), 32)
	if err := errors.Join(err1, err2, err3); err != nil || !bytes.Equal(one, two) || bytes.Equal(one, other) {
		t.Errorf("exported %x and %x, in another context %x, %v", one, two, other, err)
	}
	if key := a.tls.Certificates[0].PrivateKey.(ed25519.PrivateKey).Public(); !ac.PeerKey().Equal(key) {
		t.Error("the acceptor has another key for the dialler")
	}
	if key := b.tls.Certificates[0].PrivateKey.(ed25519.PrivateKey).Public(); !d.PeerKey().Equal(key) {
		t.Error("the dialler has another key for the acceptor")
	}
	if err := d.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := d.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("Read past the deadline = %v, want a timeout", err)
	}
}

func TestSessionStream(t *testing.T) {
	t.Run("in memory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			checkSession(t, w.node(t, certificate(t)), w.node(t, certificate(t)))
		})
	})
	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run("over "+ip, func(t *testing.T) {
			var nodes []*node
			for range 2 {
				c, err := udp.Listen(netip.AddrPortFrom(netip.MustParseAddr(ip), 0), udp.Offload{GSO: true, GRO: true})
				if err != nil {
					t.Skip(err)
				}
				nodes = append(nodes, run(t, certificate(t), nil, c))
			}
			checkSession(t, nodes[0], nodes[1])
		})
	}
}

// gone fails unless the connection closes in time.
func gone(t *testing.T, c *Conn, within time.Duration) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(within):
		t.Errorf("the connection is still open after %v", within)
	}
}

// A connection lives while a stream or somebody else holds it, at both ends.
func TestHolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		d, ac := connect(t, a, b)
		if !d.Conn().Hold() || !ac.Conn().Hold() {
			t.Fatal("cannot hold an open connection")
		}
		if _, err := d.Write([]byte("bye")); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if got, err := io.ReadAll(ac); string(got) != "bye" || err != nil {
			t.Errorf("read %q, %v before the end", got, err)
		}
		ac.Close()
		time.Sleep(time.Minute)
		if err := errors.Join(d.Conn().Err(), ac.Conn().Err()); err != nil {
			t.Errorf("a connection that is held ended: %v", err)
		}
		ac.Conn().Release()
		gone(t, ac.Conn(), time.Second)
		gone(t, d.Conn(), time.Second)
		if d.Conn().Hold() {
			t.Error("holds a closed connection")
		}
	})
}

// What is written just before the last holder goes arrives.
func TestCloseFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		d, ac := connect(t, w.node(t, certificate(t)), w.node(t, certificate(t)))
		if _, err := d.Write([]byte("bye")); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if got, _ := io.ReadAll(ac); string(got) != "bye" {
			t.Errorf("read %q, want what was written before the end", got)
		}
		gone(t, ac.Conn(), time.Second)
	})
}

// A connection that opens no stream does not stay.
func TestUnheld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		c, err := a.DialConn(t.Context(), b.addr)
		if err != nil {
			t.Fatal(err)
		}
		gone(t, c, unheldFor+time.Second)
	})
}

func TestRefusals(t *testing.T) {
	alpn := func(e *Endpoint) { e.tls.NextProtos = []string{"h3"} }
	old := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	early := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	for _, tt := range []struct {
		name         string
		dials, takes func(t *testing.T) (tls.Certificate, func(*Endpoint))
		want         string
	}{
		{"ALPN", nil, func(t *testing.T) (tls.Certificate, func(*Endpoint)) { return certificate(t), alpn }, "does not speak meshd/1"},
		{"expired acceptor", nil, func(t *testing.T) (tls.Certificate, func(*Endpoint)) { return certificate(t, old), nil }, "expired at"},
		{"acceptor of tomorrow", nil, func(t *testing.T) (tls.Certificate, func(*Endpoint)) { return certificate(t, early), nil }, "valid from"},
		{"acceptor with ECDSA", nil, func(t *testing.T) (tls.Certificate, func(*Endpoint)) { return ecdsaCertificate(t), nil }, "not Ed25519"},
		{"expired dialler", func(t *testing.T) (tls.Certificate, func(*Endpoint)) { return certificate(t, old), nil }, nil, "refuses our certificate"},
		{"dialler with ECDSA", func(t *testing.T) (tls.Certificate, func(*Endpoint)) { return ecdsaCertificate(t), nil }, nil, "refuses our certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				make := func(f func(t *testing.T) (tls.Certificate, func(*Endpoint))) *node {
					if f == nil {
						return w.node(t, certificate(t))
					}
					cert, change := f(t)
					return w.node(t, cert, change)
				}
				a, b := make(tt.dials), make(tt.takes)
				_, err := a.Dial(t.Context(), b.addr)
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), b.addr.String()) {
					t.Errorf("Dial = %v, want %q and the address", err, tt.want)
				}
			})
		})
	}
}

// The key exchange withstands a quantum computer, as Go offers it by default.
func TestKeyExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		dialled, accepted := connect(t, w.node(t, certificate(t)), w.node(t, certificate(t)))
		for _, s := range []*Stream{dialled, accepted} {
			if got := s.conn.q.ConnectionState().TLS; got.CurveID != tls.X25519MLKEM768 || got.Version != tls.VersionTLS13 {
				t.Errorf("key exchange %v in %s, want %v in TLS 1.3", got.CurveID, tls.VersionName(got.Version), tls.X25519MLKEM768)
			}
		}
	})
}

// Both versions of QUIC are spoken.
func TestVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		a, b := w.node(t, certificate(t)), w.node(t, certificate(t))
		for _, v := range []quic.Version{quic.Version1, quic.Version2, 0x1a2a3a4a} {
			c := quicConfig()
			c.Versions = []quic.Version{v}
			q, err := a.transports[0].Dial(t.Context(), net.UDPAddrFromAddrPort(b.addr), a.tls, c)
			if v == 0x1a2a3a4a {
				if err == nil {
					t.Error("a version that nobody knows was spoken")
				}
				continue
			}
			if err != nil {
				t.Fatalf("version %v: %v", v, err)
			}
			if got := q.ConnectionState(); got.Version != v || got.Used0RTT {
				t.Errorf("version %v, 0-RTT %v; want %v, without", got.Version, got.Used0RTT, v)
			}
			_ = q.CloseWithError(0, "")
		}
	})
}
