package control

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"

	"meshd/internal/identity"
)

// tlsStream is a secure stream: TLS 1.3 with self-signed certificates of the
// hosts' identities, whatever they are.
type tlsStream struct{ *tls.Conn }

func (s tlsStream) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	state := s.ConnectionState()
	return state.ExportKeyingMaterial(label, context, length)
}

func (s tlsStream) PeerKey() ed25519.PublicKey {
	return s.ConnectionState().PeerCertificates[0].PublicKey.(ed25519.PublicKey)
}

// secured shakes hands in TLS over both ends of a pipe.
func secured(t *testing.T, a, b net.Conn, client, server *identity.Identity) (x, y tlsStream) {
	t.Helper()
	config := func(id *identity.Identity) *tls.Config {
		cert, err := id.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true,
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		}
	}
	x, y = tlsStream{tls.Client(a, config(client))}, tlsStream{tls.Server(b, config(server))}
	done := make(chan error, 1)
	go func() { done <- y.HandshakeContext(t.Context()) }()
	if err := errors.Join(x.HandshakeContext(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	return x, y
}

// plainPipe is a stream between two hosts that is not secure.
func plainPipe() (a, b *memConn) {
	return memPipe(netip.MustParseAddrPort("10.0.0.1:40000"), netip.MustParseAddrPort("10.0.0.2:6783"))
}

func newIdentity(t testing.TB) *identity.Identity {
	t.Helper()
	id, err := identity.New()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// signing are the features of a host with an identity and an ephemeral key.
func signing(t testing.TB, i int) func(version int) map[string]string {
	t.Helper()
	m, _ := signingEphemeral(t, i)
	return m
}

// secureCarrier is a memCarrier whose streams are secure, by a secret that both
// ends of each know: a TLS without the cost.
type secureCarrier struct{ *memCarrier }

func (c secureCarrier) Dial(ctx context.Context, addr netip.AddrPort) (Stream, error) {
	s, err := c.memCarrier.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return secureConn{s.(*memConn)}, nil
}

func (c secureCarrier) Accept(ctx context.Context) (Stream, error) {
	s, err := c.memCarrier.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return secureConn{s.(*memConn)}, nil
}

type secureConn struct{ *memConn }

func (c secureConn) ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error) {
	dialler := c.local
	if c.remote.Port() > dialler.Port() { // ephemeral ports are above 40000
		dialler = c.remote
	}
	return hkdf.Key(sha256.New, []byte(dialler.String()), context, label, length)
}
