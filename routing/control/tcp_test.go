package control

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"meshd/internal/frame"
)

var otherHeader = [HeaderLen]byte{'o', 't', 'h', 'e', 'r', 1, 1}

// tcpNode is a node that listens on loopback and hands what begins with
// otherHeader to take.
func tcpNode(t *testing.T, take TakeConn) (n *node, addr netip.AddrPort) {
	t.Helper()
	c, err := ListenTCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Handle(otherHeader, take)
	n = newWorld(t).start(1, func(cfg *Config) { cfg.Carriers = []Carrier{c} })
	t.Cleanup(n.stop)
	return n, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), c.Port())
}

// dialFrom connects from an address of loopback, sends bytes and reads the header
// that everybody gets; false: the connection was closed instead.
func dialFrom(t *testing.T, from string, to netip.AddrPort, say string) (c net.Conn, open bool) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	c.Write([]byte(say)) // may be refused already
	var header [HeaderLen]byte
	if _, err := io.ReadFull(c, header[:]); err != nil {
		return c, false
	}
	if got := string(header[:]); got != "weave\x01\x02" {
		t.Errorf("the acceptor begins with %q, want weave's header", got)
	}
	return c, true
}

// soon waits for cond outside of a bubble.
func soon(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Second)
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

// A connection with another header is handed over with all that follows it unread.
// One that begins like neither is closed.
func TestOtherConnections(t *testing.T) {
	got := make(chan string, 1)
	_, addr := tcpNode(t, func(_ context.Context, c net.Conn) {
		defer c.Close()
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil {
			b = []byte(err.Error())
		}
		got <- string(b)
		c.Write([]byte("taken"))
	})
	c, _ := dialFrom(t, "127.0.0.1", addr, string(otherHeader[:])+"bytes")
	if s := <-got; s != "bytes" {
		t.Errorf("who takes the connection reads %q, want what follows the header", s)
	}
	if b, err := io.ReadAll(c); string(b) != "taken" || err != nil {
		t.Errorf("the dialler reads %q, %v", b, err)
	}
	for _, say := range []string{"other\x01\x02", "GET / H", "\x00\x00\x00\x00\x00\x00\x00"} {
		c, _ := dialFrom(t, "127.0.0.1", addr, say)
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("a connection that begins with %q is open", say)
		}
	}
}

// Connections that nobody takes yet, and those that say nothing, keep neither the
// listener nor sessions waiting. There are as many from one address as the gate
// lets in, and their places are free again afterwards.
func TestOtherConnectionsAreBounded(t *testing.T) {
	release, taken := make(chan struct{}), make(chan struct{}, 2*maxPerSource)
	n, addr := tcpNode(t, func(ctx context.Context, c net.Conn) {
		defer c.Close()
		taken <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
	})
	for range maxPerSource / 2 {
		dialFrom(t, "127.0.0.1", addr, "")
		if _, open := dialFrom(t, "127.0.0.1", addr, string(otherHeader[:])); !open {
			t.Fatal("a connection was refused that the gate has room for")
		}
	}
	if _, open := dialFrom(t, "127.0.0.1", addr, string(otherHeader[:])); open {
		t.Errorf("more than %d connections are held for one address", maxPerSource)
	}
	c, open := dialFrom(t, "127.0.0.2", addr, "weave\x01\x02")
	if !open {
		t.Fatal("another address is kept out")
	}
	c.Close()
	stream, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.3")}}).DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	f := Features{Name: 0x02000000000a, NickName: "stock", UID: 5, ConnID: 7, Overlays: []string{SleeveOverlay}, HasOverlays: true}
	conn, err := Handshake(t.Context(), stream, HandshakeConfig{Dialled: true, Features: f.FeatureMap})
	if err != nil {
		t.Fatalf("a session beside the others: %v", err)
	}
	defer conn.Close()
	s := &stranger{Conn: conn, name: frame.PeerName(f.Name)}
	go s.listen()
	soon(t, "the session is there", func() bool { return s.connected(t, n) })
	for range maxPerSource / 2 {
		<-taken
	}
	close(release)
	soon(t, "places are free again", func() bool {
		n.mesh.gate.mu.Lock()
		defer n.mesh.gate.mu.Unlock()
		return n.mesh.gate.total == maxPerSource/2 // those that say nothing
	})
}
