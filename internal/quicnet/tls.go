package quicnet

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// ALPN is the application protocol of meshd's connections (RFC 7301).
const ALPN = "meshd/1"

// alertNoApplication is TLS's no_application_protocol (RFC 7301, section 3.2), as
// QUIC reports it (RFC 9001, section 4.8).
const (
	cryptoError        = 0x100
	alertNoApplication = cryptoError + 120
	alertUnknownCA     = cryptoError + 48
	alertCertificate   = cryptoError + 42
	alertExpired       = cryptoError + 45
)

// ErrCertificate says that the other end's certificate is not one that a meshd
// host makes, or is not valid now.
var ErrCertificate = errors.New("certificate refused")

// tlsConfig is what both ends of a connection use. Names and chains mean nothing
// between hosts that make their certificates themselves.
func tlsConfig(own tls.Certificate) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{own},
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // verify does what there is to do
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := verify(s, time.Now())
			return err
		},
	}
}

// verify checks the other end's certificate and returns the key in it, which TLS
// has proved that it has (RFC 8446, section 4.4.3).
func verify(s tls.ConnectionState, now time.Time) (ed25519.PublicKey, error) {
	if len(s.PeerCertificates) != 1 {
		return nil, fmt.Errorf("%w: %d certificates, want a self-signed one", ErrCertificate, len(s.PeerCertificates))
	}
	leaf := s.PeerCertificates[0]
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: its key is %v, not Ed25519", ErrCertificate, leaf.PublicKeyAlgorithm)
	}
	if leaf.SignatureAlgorithm != x509.PureEd25519 || leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) != nil {
		return nil, fmt.Errorf("%w: it is not signed with its own key", ErrCertificate)
	}
	if now.Before(leaf.NotBefore) {
		return nil, fmt.Errorf("%w: valid from %s only: is the clock of a host wrong?", ErrCertificate, leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("%w: expired at %s: is the clock of a host wrong?", ErrCertificate, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return key, nil
}

// explain says in words what a failed connection to a peer means and what to do.
func explain(addr netip.AddrPort, err error) error {
	if errors.Is(err, ErrCertificate) {
		return fmt.Errorf("QUIC to %s: the certificate of the peer: %w", addr, err)
	}
	if v, ok := errors.AsType[*quic.VersionNegotiationError](err); ok {
		return fmt.Errorf("QUIC to %s: it speaks QUIC versions %v only: is that a meshd port? %w", addr, v.Theirs, err)
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok {
		switch e.ErrorCode {
		case alertNoApplication:
			return fmt.Errorf("QUIC to %s: it does not speak %s: another QUIC service listens there, or another version of meshd: %w", addr, ALPN, err)
		case alertCertificate, alertExpired, alertUnknownCA:
			return fmt.Errorf("QUIC to %s: it refuses our certificate: compare the clocks of both hosts: %w", addr, err)
		case quic.ConnectionRefused:
			return fmt.Errorf("QUIC to %s: it has too many connections, or too many of this host: %w", addr, err)
		}
	}
	return fmt.Errorf("QUIC to %s: %w", addr, err)
}
