package quic

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/internal/quicnet"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// pair is two hosts on a link of 5 ms.
func pair(t *testing.T) (*transporttest.Pair, *node, *node) {
	t.Helper()
	p := transporttest.NewPair(t, factory, transporttest.Options{Sealed: true, Link: transporttest.Link{Latency: 5 * time.Millisecond}, Seed: 1})
	return p, p.A.Transport.(*node), p.B.Transport.(*node)
}

// on makes both sides of a session that rides on a QUIC stream.
func on(t *testing.T, p *transporttest.Pair, a, b *node) (sa, sb *quicnet.Stream) {
	t.Helper()
	x, err := a.endpoint.Dial(context.Background(), p.B.Addr)
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.endpoint.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return x.(*quicnet.Stream), y.(*quicnet.Stream)
}

// The connection of a session over QUIC carries its frames too, and outlives it.
func TestSessionsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, b := pair(t)
		time.Sleep(time.Millisecond)
		sa, sb := on(t, p, a, b)
		c := p.ConnectOver(t, sa, sb)
		c.Up(t, 3*time.Second)
		for _, x := range []struct {
			side *transporttest.Side
			s    *quicnet.Stream
		}{{c.A, sa}, {c.B, sb}} {
			pa := x.side.Path.(*path)
			pa.mu.Lock()
			if pa.bound.conn != x.s.Conn() {
				t.Error("the path has a connection of its own")
			}
			pa.mu.Unlock()
		}
		sa.Close()
		sb.Close()
		c.A.Lose()
		c.B.Lose()
		time.Sleep(time.Minute)
		for _, x := range c.Sides() {
			if st := x.State(); !st.Up {
				t.Errorf("the path ended with its session: %+v", st)
			}
		}
		// Without it, and without a session, the path makes one of its own.
		sa.Conn().Break("test")
		time.Sleep(time.Second)
		for _, x := range c.Sides() {
			if st := x.State(); !st.Up {
				t.Errorf("the path ended with its connection: %+v", st)
			}
		}
		before := len(p.B.Take())
		if err := c.A.Path.Send(frame.Packet{Src: p.A.Peer.Name, Dst: p.B.Peer.Name, Frame: frame.Frame{Data: transporttest.Frame(1, 100)}}); err != nil {
			t.Error(err)
		}
		_ = c.A.Path.Flush()
		time.Sleep(time.Second)
		if got := len(p.B.Take()); before != 0 || got != 1 {
			t.Errorf("%d frames arrived over the new connection, want 1", got)
		}
	})
}

// Who does not know the session's secret gets no connection into a path.
func TestWrongSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := pair(t)
		c := p.Connect(t)
		c.Up(t, 3*time.Second)
		conn, err := a.endpoint.DialConn(t.Context(), p.B.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		victim := c.B.Path.(*path)
		had := victim.bound.conn
		for _, msg := range [][]byte{
			{bindVersion}, {2}, make([]byte, bindLen),
			append(binary.BigEndian.AppendUint64([]byte{bindVersion}, victim.index), make([]byte, 32)...),
			append(binary.BigEndian.AppendUint64([]byte{bindVersion}, victim.index+1), make([]byte, 32)...),
		} {
			s, err := conn.OpenPath(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Write(msg); err != nil {
				t.Fatal(err)
			}
			if n, err := s.Read(make([]byte, 32)); n > 0 || err == nil {
				t.Errorf("a binding %x was answered", msg)
			}
			s.Close()
		}
		if err := conn.SendDatagram([]byte{1, 32, 0, 0}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		victim.mu.Lock()
		defer victim.mu.Unlock()
		if victim.bound.conn != had || !victim.Life.Up {
			t.Error("the path has another connection")
		}
	})
}

// A proof holds for one connection, one end and one session.
func TestProofs(t *testing.T) {
	one, two := hello{1, 2}.append(nil), hello{3, 4}.append(nil)
	key := func(secret byte, d, a []byte) []byte {
		k, err := bindKey(&[32]byte{secret}, d, a)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	seen := map[string]string{}
	for name, k := range map[string][]byte{
		"secret 1": key(1, one, two), "secret 2": key(2, one, two), "other way round": key(1, two, one),
	} {
		for _, who := range []string{byDialler, byAcceptor} {
			for _, exported := range []string{"connection 1", "connection 2"} {
				proof := string(prove(k, who, []byte(exported)))
				if other, ok := seen[proof]; ok {
					t.Errorf("%s %s %s proves what %s does", name, who, exported, other)
				}
				seen[proof] = name + who + exported
			}
		}
	}
}

func TestHello(t *testing.T) {
	h := hello{index: 0x0102030405060708, port: 6785}
	b := h.append(nil)
	if got, err := parseHello(append(b, 1, 2, 3)); got != h || err != nil {
		t.Errorf("parseHello = %+v, %v; want %+v", got, err, h)
	}
	for n := range b {
		if _, err := parseHello(b[:n]); err == nil {
			t.Errorf("a hello of %d bytes was taken", n)
		}
	}
	b[0] = 2
	if _, err := parseHello(b); !errors.Is(err, errHelloVersion) {
		t.Errorf("version 2: %v, want %v", err, errHelloVersion)
	}
	if _, err := parseHello(hello{index: 1}.append(nil)); err == nil {
		t.Error("port 0 was taken")
	}
	if _, err := parseHello(make([]byte, maxHello+1)); err == nil {
		t.Error("too long a hello was taken")
	}
}

func TestOpenRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, _ := pair(t)
		s := transport.Session{
			Remote: p.B.Peer, Secret: &[32]byte{1}, SendControl: func(byte, []byte) error { return nil },
			Done: make(chan struct{}), Counters: &transport.Counters{}, RemoteAddr: netip.MustParseAddrPort("10.9.9.2:1"),
		}
		if _, err := a.Open(s); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*transport.Session){
			"no name":   func(s *transport.Session) { s.Remote.Name = 0 },
			"no secret": func(s *transport.Session) { s.Secret = nil },
			"no done":   func(s *transport.Session) { s.Done = nil },
		} {
			bad := s
			change(&bad)
			if _, err := a.Open(bad); err == nil {
				t.Errorf("%s: opened", name)
			}
		}
	})
}
