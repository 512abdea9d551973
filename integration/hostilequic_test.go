package integration

import (
	"context"
	"crypto/ed25519"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// besiegersCertificate is one that anybody can make.
func besiegersCertificate(t *testing.T, until time.Time) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: until}
	der, err := x509.CreateCertificate(crand.Reader, leaf, leaf, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// besiegersTLS is what a besieger shows, changed by change.
func besiegersTLS(t *testing.T, change ...func(*tls.Config)) *tls.Config {
	c := &tls.Config{
		Certificates:       []tls.Certificate{besiegersCertificate(t, time.Now().Add(time.Hour))},
		NextProtos:         []string{"meshd/1"},
		InsecureSkipVerify: true,
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// deaf is a socket that hears nothing: whoever dials over it never gets further
// than its first packets.
type deaf struct {
	net.PacketConn
	closed chan struct{}
	once   sync.Once
}

func (d *deaf) ReadFrom([]byte) (int, net.Addr, error) { <-d.closed; return 0, nil, net.ErrClosed }
func (d *deaf) SetReadDeadline(time.Time) error        { d.once.Do(func() { close(d.closed) }); return nil }

// quicPort is where a host takes QUIC.
func (h *host) quicPort() *net.UDPAddr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.port().Addr(), 6785))
}

// besieger opens a QUIC transport at one of the attacker's addresses.
func (s *siege) besieger(addr string, hears bool) *quic.Transport {
	s.Helper()
	conn, err := s.attacker.ListenPacket("udp4", net.JoinHostPort(addr, "0"))
	s.must(err)
	if !hears {
		conn = &deaf{PacketConn: conn, closed: make(chan struct{})}
	}
	t := &quic.Transport{Conn: conn}
	s.Cleanup(func() { t.Close(); conn.Close() })
	return t
}

// TestHostileQUIC: what strangers do to the QUIC port keeps nobody out, harms no
// path, and costs nothing that lasts.
//
//	weave01 ──┐
//	weave02 ──┼── lan ── attacker, at 50 addresses
//	weave03 ──┘
//
// Nothing but QUIC passes between the hosts.
func TestHostileQUIC(t *testing.T) {
	once(t)
	s := besieged(t, "MESHD_TRANSPORTS=quic", "MESHD_PASSWORD=a long enough password for a test")
	late := s.host("weave03", s.lan.at("10.0.0.3/24"))
	late.Env = s.hosts[0].Env
	late.up("quic://" + s.hosts[0].addr())
	s.joined(s.hosts...)
	first := s.usage()
	late.down()
	s.lost(late, s.hosts[:2]...)
	var addrs []string
	for i := range 50 {
		addrs = append(addrs, fmt.Sprintf("10.0.0.%d", 100+i))
		s.must(s.attacker.AddAddress("eth0", netip.MustParsePrefix(addrs[i]+"/24")))
	}
	comesIn := func() {
		s.Helper()
		late.again()
		s.joined(s.hosts...)
		late.down()
		s.lost(late, s.hosts[:2]...)
	}
	for _, attack := range []struct {
		name string
		run  func(s *siege)
	}{
		{"1,000 half-open handshakes", func(s *siege) { s.halfOpen(addrs, comesIn) }},
		{"connections of strangers", func(s *siege) { s.strangers(addrs, comesIn) }},
		{"handshakes that fail", (*siege).failing},
		{"garbage", (*siege).garbage},
	} {
		s.Run(attack.name, func(t *testing.T) {
			sub := *s
			w := *s.world
			w.T = t
			sub.world = &w
			s.harmless(func() { attack.run(&sub) })
		})
	}
	late.again()
	s.joined(s.hosts...)
	s.calm(first)
}

// halfOpen begins 1,000 handshakes from many addresses that never answer, and goes
// on repeating its first packets while an honest host comes in.
func (s *siege) halfOpen(addrs []string, meanwhile func()) {
	ctx, cancel := context.WithCancel(s.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	conf := besiegersTLS(s.T)
	for _, addr := range addrs {
		t := s.besieger(addr, false)
		for range 1000 / len(addrs) {
			wg.Go(func() {
				if _, err := t.Dial(ctx, s.hosts[0].quicPort(), conf, &quic.Config{HandshakeIdleTimeout: 20 * time.Second}); err == nil {
					s.Error("dialled without hearing an answer")
				}
			})
		}
	}
	meanwhile()
}

// strangers complete handshakes with certificates of their own and then do nothing,
// or open streams and say nothing, or send datagrams for which there is no path.
func (s *siege) strangers(addrs []string, meanwhile func()) {
	conf := besiegersTLS(s.T)
	var conns []*quic.Conn
	for _, addr := range addrs[:10] {
		t := s.besieger(addr, true)
		for range 10 {
			ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
			c, err := t.Dial(ctx, s.hosts[0].quicPort(), conf, &quic.Config{EnableDatagrams: true, KeepAlivePeriod: time.Second})
			cancel()
			if err != nil {
				continue // it was refused, as is right
			}
			conns = append(conns, c)
		}
	}
	if len(conns) == 0 {
		s.Fatal("no stranger got as far as a connection: the attack is none")
	}
	for i, c := range conns {
		if i%3 > 0 {
			if stream, err := c.OpenStream(); err == nil {
				stream.Write([]byte("mq\x01\x01")[:2+i%3]) // a session stream, or the begin of one
			}
		}
		for range 20 {
			c.SendDatagram(randomBytes(rand.New(rand.NewPCG(uint64(i), 1)), 1000))
		}
		if i%10 == 0 {
			time.Sleep(5 * time.Millisecond) // a rate that the kernel's queues take, as in garbage
		}
	}
	meanwhile()
	s.eventually("all strangers are thrown out", func(context.Context) error {
		open := 0
		for _, c := range conns {
			if c.Context().Err() == nil {
				open++
			}
		}
		if open > 0 {
			return fmt.Errorf("%d of %d are connected", open, len(conns))
		}
		return nil
	})
}

// failing handshakes speak another protocol, or show a certificate that expired, of
// another kind, or none.
func (s *siege) failing() {
	t := s.besieger("10.0.0.66", true)
	for name, change := range map[string]func(*tls.Config){
		"ALPN":           func(c *tls.Config) { c.NextProtos = []string{"h3"} },
		"no ALPN":        func(c *tls.Config) { c.NextProtos = nil },
		"no certificate": func(c *tls.Config) { c.Certificates = nil },
		"expired": func(c *tls.Config) {
			c.Certificates = []tls.Certificate{besiegersCertificate(s.T, time.Now().Add(-time.Hour))}
		},
	} {
		for range 20 {
			ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
			c, err := t.Dial(ctx, s.hosts[0].quicPort(), besiegersTLS(s.T, change), nil)
			if err == nil { // the client's certificate is looked at after its part is done
				_, err = c.AcceptStream(ctx)
			}
			cancel()
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				s.Errorf("%s: %v, want the handshake refused", name, err)
			}
		}
	}
}

// garbage has first bytes of all kinds that share the port.
func (s *siege) garbage() {
	r := rand.New(rand.NewPCG(seed(s.T), 5))
	for i := range 20_000 {
		b := randomBytes(r, 1+r.IntN(1400))
		b[0] = byte(r.IntN(256))
		if i%2 == 0 {
			b[0] |= 0xc0 // a long header, with versions that exist and others
			copy(b[min(1, len(b)):], []byte{0, 0, 0, byte(r.IntN(3))})
		}
		for _, h := range s.hosts[:2] {
			s.gun.WriteTo(b, h.quicPort())
		}
		if i%200 == 0 {
			time.Sleep(5 * time.Millisecond) // a rate that the queues take
		}
	}
}
