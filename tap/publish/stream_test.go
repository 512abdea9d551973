package publish

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// service listens on ip and lets handle serve each connection.
func service(t testing.TB, ip string, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, handle)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func serveOn(t testing.TB, l *net.TCPListener, handle func(*net.TCPConn)) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// echo says what it hears, and ends after its client has.
func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// says writes a line and ends.
func says(line string) func(*net.TCPConn) {
	return func(c *net.TCPConn) { _, _ = io.WriteString(c, line) }
}

func dial(t testing.TB, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a busy machine
	return c
}

// refusal returns the error that a client of addr meets, which may be soon enough to
// be one of connect.
func refusal(t testing.TB, addr netip.AddrPort) error {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute)) // a busy machine
	_, err = c.Read(make([]byte, 1))
	return err
}

// hear reads all that a server says.
func hear(t testing.TB, addr netip.AddrPort) string {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("read from %s: %v", addr, err)
	}
	return string(got)
}

// Every address of the host reaches the service, from either family to either.
func TestStreamAddresses(t *testing.T) {
	needIPv6(t)
	for _, ip := range []string{"127.0.0.1", "::1"} {
		service := service(t, ip, says("hello"))
		all := start(t, spec("", false), at(service), Options{})
		for _, from := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
			if got := hear(t, to(all, from)); got != "hello" {
				t.Errorf("%s through %s = %q", ip, from, got)
			}
		}
		if got := len(all.Addrs()); got != 2 {
			t.Errorf("it listens on %v", all.Addrs())
		}
		for _, host := range []string{"127.0.0.2", "::1", "0.0.0.0", "::"} {
			one := start(t, spec(host, false), at(service), Options{})
			if got := hear(t, one.Addrs()[0]); got != "hello" {
				t.Errorf("%s through %s = %q", ip, host, got)
			}
			other := "127.0.0.1"
			if host == "0.0.0.0" {
				other = "::1"
			}
			if c, err := net.Dial("tcp", to(one, other).String()); err == nil {
				c.Close()
				t.Errorf("published on %s, reached at %s", host, other)
			}
		}
	}
}

// What goes in comes out, in both directions at once, and ends are passed on one by
// one. The sizes are below and above those that are spliced.
func TestStreamHalfClose(t *testing.T) {
	p := start(t, spec("", false), at(service(t, "127.0.0.1", echo)), Options{})
	total := uint64(0)
	for _, size := range []int{0, 1, 1000, spliceMin - 1, spliceMin, spliceMin + 1, 3 << 20} {
		sent := make([]byte, size)
		for i := range sent {
			sent[i] = byte(rand.Uint32())
		}
		c := dial(t, to(p, "127.0.0.1"))
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("of %d bytes came %d back: %v", size, len(got), err)
		}
		total += uint64(size)
	}
	soon(t, "all have ended", func() bool { return p.Stats().Active == 0 })
	if s := p.Stats(); s.BytesToTarget != total || s.BytesToClient != total || s.Connections != 7 {
		t.Errorf("stats are %+v, want %d bytes each way", s, total)
	}
}

// The target ends first; the client may go on sending.
func TestStreamTargetEndsFirst(t *testing.T) {
	heard := make(chan string, 1)
	p := start(t, spec("", false), at(service(t, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "go on")
		_ = c.CloseWrite()
		got, _ := io.ReadAll(c)
		heard <- string(got)
	})), Options{})
	c := dial(t, to(p, "127.0.0.1"))
	if got, err := io.ReadAll(c); string(got) != "go on" || err != nil {
		t.Fatalf("heard %q, %v", got, err)
	}
	_, _ = io.WriteString(c, "still here")
	_ = c.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("the target heard %q", got)
	}
}

// Bytes are counted while the connection lives.
func TestStreamCountsLive(t *testing.T) {
	p := start(t, spec("", false), at(service(t, "127.0.0.1", echo)), Options{})
	c := dial(t, to(p, "127.0.0.1"))
	_, _ = io.WriteString(c, "hello")
	_, _ = io.ReadFull(c, make([]byte, 5))
	soon(t, "5 bytes each way", func() bool {
		s := p.Stats()
		return s.BytesToTarget == 5 && s.BytesToClient == 5 && s.Active == 1
	})
}

// A target that has ended and is then gone takes the connection with it, though the
// client never says anything.
func TestStreamTargetIsGone(t *testing.T) {
	leave := make(chan struct{})
	p := start(t, spec("", false), at(service(t, "127.0.0.1", func(c *net.TCPConn) {
		_ = c.CloseWrite()
		<-leave
		reset(c)
	})), Options{})
	c := dial(t, to(p, "127.0.0.1"))
	if got, err := io.ReadAll(c); len(got) != 0 || err != nil {
		t.Fatalf("heard %q, %v", got, err)
	}
	if s := p.Stats(); s.Active != 1 {
		t.Errorf("stats are %+v, want one connection", s)
	}
	close(leave)
	soon(t, "the connection is ended", func() bool { return p.Stats().Active == 0 })
}

// A reset of one side reaches the other, whichever it is.
func TestStreamReset(t *testing.T) {
	p := start(t, spec("", false), at(service(t, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		reset(c)
	})), Options{})
	c := dial(t, to(p, "127.0.0.1"))
	_, _ = io.WriteString(c, "x")
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset of the target the client reads %v", err)
	}

	ended := make(chan error, 1)
	p = start(t, spec("", false), at(service(t, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = c.Write([]byte("x"))
		_, err := io.ReadAll(c)
		ended <- err
	})), Options{})
	c = dial(t, to(p, "127.0.0.1"))
	_, _ = io.ReadFull(c, make([]byte, 1))
	reset(c)
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset of the client the target reads %v", err)
	}
}

// Urgent data, at which a splice would stop for ever, is left out; the rest goes on.
func TestStreamUrgent(t *testing.T) {
	p := start(t, spec("", false), at(service(t, "127.0.0.1", echo)), Options{})
	big := bytes.Repeat([]byte("a"), 4*spliceMin)
	c := dial(t, to(p, "127.0.0.1"))
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	urgent := func() {
		_ = raw.Write(func(fd uintptr) bool {
			err = unix.Send(int(fd), []byte("!"), unix.MSG_OOB)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_, _ = c.Write(big)
		urgent()
		_, _ = c.Write(big)
		urgent()
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if want := append(big, big...); err != nil || !bytes.Equal(bytes.ReplaceAll(got, []byte("!"), nil), want) {
		t.Errorf("%d bytes came back, %v, want %d", len(got), err, len(want))
	}
}

// The target goes away and comes back at another address: connections that come in
// between wait for it.
func TestStreamTargetRestarts(t *testing.T) {
	var where atomic.Value
	where.Store(netip.AddrPort{})
	resolve := func(context.Context) (netip.AddrPort, error) {
		a := where.Load().(netip.AddrPort)
		if !a.IsValid() {
			return a, errors.New("the container is not running")
		}
		return a, nil
	}
	p := start(t, spec("", false), resolve, Options{})
	where.Store(service(t, "127.0.0.1", says("first")))
	if got := hear(t, to(p, "127.0.0.1")); got != "first" {
		t.Errorf("heard %q", got)
	}
	where.Store(netip.AddrPort{})
	c := dial(t, to(p, "127.0.0.1"))
	soon(t, "it is connected", func() bool { return p.Stats().Active == 1 })

	// The port is known before the service listens there.
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3)})
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	where.Store(addr.AddrPort())
	time.AfterFunc(250*time.Millisecond, func() {
		if l, err := net.ListenTCP("tcp", addr); err == nil {
			serveOn(t, l, says("second"))
		}
	})
	if got, err := io.ReadAll(c); string(got) != "second" || err != nil {
		t.Errorf("heard %q, %v", got, err)
	}
	if s := p.Stats(); s.DialErrors != 0 {
		t.Errorf("stats are %+v, want no error", s)
	}
}

func TestStreamTargetIsDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p := start(t, spec("", false), at(l.Addr().(*net.TCPAddr).AddrPort()), Options{Retry: -1})
	if err := refusal(t, to(p, "127.0.0.1")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
	want := "dial " + l.Addr().String() + ": nothing listens there: connection refused"
	if s := p.Stats(); s.DialErrors != 1 || s.LastError != want {
		t.Errorf("stats are %+v, want %q", s, want)
	}
}

// A target that resolves to the published port is found out when it is dialled.
func TestStreamLoop(t *testing.T) {
	var self atomic.Value
	p := start(t, spec("", false), func(context.Context) (netip.AddrPort, error) { return self.Load().(netip.AddrPort), nil }, Options{})
	self.Store(to(p, "127.0.0.1"))
	if err := refusal(t, to(p, "127.0.0.1")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
	if s := p.Stats(); s.Connections != 1 || s.DialErrors != 1 {
		t.Errorf("stats are %+v, want one connection", s)
	}
}

func TestStreamLocal(t *testing.T) {
	from := make(chan string, 1)
	serve := func(c *net.TCPConn) { from <- c.RemoteAddr().(*net.TCPAddr).IP.String() }
	tests := []struct{ local, want string }{
		{"127.0.0.7", "127.0.0.7"},
		{"", "127.0.0.1"},
		{"::1", "127.0.0.1"}, // of no use for this target
	}
	for _, tt := range tests {
		local := func(netip.Addr) netip.Addr { a, _ := netip.ParseAddr(tt.local); return a }
		p := start(t, spec("", false), at(service(t, "127.0.0.1", serve)), Options{Local: local})
		hear(t, to(p, "127.0.0.1"))
		if got := <-from; got != tt.want {
			t.Errorf("with the local address %q it is dialled from %s, want %s", tt.local, got, tt.want)
		}
	}
	local := func(netip.Addr) netip.Addr { return netip.MustParseAddr("192.0.2.1") }
	p := start(t, spec("", false), at(service(t, "127.0.0.1", serve)), Options{Local: local, Retry: -1})
	_ = refusal(t, to(p, "127.0.0.1"))
	if s := p.Stats(); s.DialErrors != 1 || !bytes.Contains([]byte(s.LastError), []byte("192.0.2.1 is not an address of this host")) {
		t.Errorf("stats are %+v", s)
	}
}

func TestStreamLimit(t *testing.T) {
	p := start(t, spec("", false), at(service(t, "127.0.0.1", echo)), Options{Limit: 2})
	say := func(c *net.TCPConn) error {
		_, _ = io.WriteString(c, "x")
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	first, second := dial(t, to(p, "127.0.0.1")), dial(t, to(p, "127.0.0.1"))
	if err := errors.Join(say(first), say(second)); err != nil {
		t.Errorf("within the limit: %v", err)
	}
	if err := refusal(t, to(p, "127.0.0.1")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("beyond the limit: %v, want a reset", err)
	}
	if s := p.Stats(); s.Connections != 2 || s.Active != 2 || s.Refused != 1 {
		t.Errorf("stats are %+v", s)
	}
	first.Close()
	soon(t, "there is room again", func() bool { return p.Stats().Active == 1 })
	if err := say(dial(t, to(p, "127.0.0.1"))); err != nil {
		t.Errorf("within the limit again: %v", err)
	}
}

// 1000 connections at a time; Close ends them and the port is free at once.
func TestStreamMany(t *testing.T) {
	p := start(t, spec("", false), at(service(t, "127.0.0.1", echo)), Options{})
	const n = 1000
	conns := make([]*net.TCPConn, n)
	for i := range conns {
		conns[i] = dial(t, to(p, "127.0.0.1"))
		_, _ = conns[i].Write([]byte{byte(i)})
	}
	for i, c := range conns {
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != byte(i) {
			t.Fatalf("connection %d: %d, %v", i, b[0], err)
		}
	}
	soon(t, "each byte is counted", func() bool { s := p.Stats(); return s.Active == n && s.BytesToClient == n })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for i, c := range conns {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.ETIMEDOUT) {
			t.Fatalf("connection %d lives on", i)
		}
	}
	again, err := Open(p.spec, at(netip.AddrPort{}), Options{})
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	again.Close()
}

// Close while the target is sought.
func TestStreamCloseWhileDialling(t *testing.T) {
	asked := make(chan struct{})
	p := start(t, spec("", false), func(ctx context.Context) (netip.AddrPort, error) {
		close(asked)
		<-ctx.Done()
		return netip.AddrPort{}, ctx.Err()
	}, Options{DialTimeout: time.Hour, Retry: time.Hour})
	c := dial(t, to(p, "127.0.0.1"))
	<-asked
	p.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives on")
	}
	if s := p.Stats(); s.DialErrors != 0 {
		t.Errorf("stats are %+v, want no error", s)
	}
}
