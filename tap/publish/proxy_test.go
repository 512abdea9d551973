package publish

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spec publishes a free port of an address, "" for all.
func spec(ip string, udp bool) Spec {
	s := Spec{HostPort: HostPort{UDP: udp}, Target: "service", TargetPort: 1}
	if ip != "" {
		s.IP = netip.MustParseAddr(ip)
	}
	return s
}

func at(addr netip.AddrPort) func(context.Context) (netip.AddrPort, error) {
	return func(context.Context) (netip.AddrPort, error) { return addr, nil }
}

// running counts the proxies that start made and that still run; tests do not run in
// parallel.
var running int

// start opens and runs a proxy, and sees in the end that it leaves nothing behind.
func start(t testing.TB, s Spec, resolve func(context.Context) (netip.AddrPort, error), o Options) *Proxy {
	t.Helper()
	p, err := Open(s, resolve, o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	running++
	go func() { ended <- p.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if running--; running == 0 {
			noGoroutines(t)
		}
		if n := p.Stats().Active; n != 0 {
			t.Errorf("%d connections are active after Close", n)
		}
	})
	return p
}

// noGoroutines fails if one of this package's runs, other than tests.
func noGoroutines(t testing.TB) {
	t.Helper()
	var left []string
	for range 100 {
		left = nil
		stacks := make([]byte, 4<<20)
		for _, s := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			for _, of := range []string{"publish.(*Proxy)", "publish.(*streams)", "publish.(*datagrams)", "publish.(*client)", "publish.join", "publish.(*target)"} {
				if strings.Contains(s, of) && !strings.Contains(s, "noGoroutines") {
					left = append(left, s)
					break
				}
			}
		}
		if left == nil {
			return
		}
		time.Sleep(10 * time.Millisecond) // cancelled callbacks are about to end
	}
	t.Errorf("%d goroutines are left, one is\n%s", len(left), left[0])
}

// soon waits until f is true.
func soon(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// to is the address of a proxy on an address of this host.
func to(p *Proxy, ip string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), p.spec.Port)
}

func needIPv6(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	l.Close()
}

func TestListenErrors(t *testing.T) {
	for _, udp := range []bool{false, true} {
		first := start(t, spec("", udp), at(netip.AddrPort{}), Options{})
		for _, ip := range []string{"", "127.0.0.1", "::1", "0.0.0.0", "::"} {
			if strings.Contains(ip, ":") && len(first.Addrs()) == 1 {
				continue // no IPv6
			}
			s := spec(ip, udp)
			s.Port = first.spec.Port
			_, err := Open(s, at(netip.AddrPort{}), Options{})
			taken, ok := errors.AsType[*InUseError](err)
			if !ok || taken.HostPort != s.HostPort || taken.Addr.Port() != s.Port || !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("Open(%s) twice = %v, want an InUseError", s, err)
			}
		}
		for _, ip := range []string{"192.0.2.1", "2001:db8::1"} {
			if _, err := Open(spec(ip, udp), nil, Options{}); !errors.Is(err, syscall.EADDRNOTAVAIL) || !strings.Contains(err.Error(), ip+" is not an address of this host") {
				t.Errorf("Open on %s = %v, want: is not an address of this host", ip, err)
			}
		}
	}
	h := HostPort{Port: 80}
	if err := listenError(h, netip.MustParseAddrPort("0.0.0.0:80"), syscall.EACCES); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "NET_BIND_SERVICE") {
		t.Errorf("a port without permission is %q", err)
	}
}

// A busy IPv6 port frees the IPv4 one again; a host without IPv6 does without.
func TestListenFamilies(t *testing.T) {
	tests := []struct {
		second error
		n      int
		want   error
	}{
		{nil, 2, nil},
		{syscall.EAFNOSUPPORT, 1, nil},
		{syscall.EADDRNOTAVAIL, 1, nil},
		{syscall.EADDRINUSE, 0, syscall.EADDRINUSE},
		{syscall.EACCES, 0, syscall.EACCES},
	}
	for _, tt := range tests {
		opened, closed := 0, 0
		got, addrs, err := listenAll(HostPort{Port: 80}, func(a netip.AddrPort) (*fakeSocket, netip.AddrPort, error) {
			if a.Addr().Is6() && tt.second != nil {
				return nil, a, tt.second
			}
			opened++
			return &fakeSocket{&closed}, a, nil
		})
		if len(got) != tt.n || len(addrs) != tt.n || !errors.Is(err, tt.want) || tt.n == 0 && closed != opened {
			t.Errorf("IPv6 is %v: %d sockets, %d closed, %v, want %d, %v", tt.second, len(got), closed, err, tt.n, tt.want)
		}
	}
}

type fakeSocket struct{ closed *int }

func (s *fakeSocket) Close() error { *s.closed++; return nil }

// Close before Run, during it and after it; Run twice.
func TestClose(t *testing.T) {
	for _, udp := range []bool{false, true} {
		p, err := Open(spec("", udp), at(netip.AddrPort{}), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
		if err := p.Run(t.Context()); err != nil {
			t.Errorf("Run after Close = %v", err)
		}
		if err := p.Run(t.Context()); err == nil {
			t.Error("it ran twice")
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close again = %v", err)
		}

		s := spec("", udp)
		s.Port = p.spec.Port
		p, err = Open(s, at(netip.AddrPort{}), Options{}) // the port is free
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run without a context = %v", err)
		}
		if _, err := Open(s, at(netip.AddrPort{}), Options{}); err != nil {
			t.Errorf("the port is not free after Run: %v", err)
		}
	}
	noGoroutines(t)
}

func TestLoopIsRefused(t *testing.T) {
	p := start(t, spec("", false), at(netip.AddrPort{}), Options{})
	free := p.spec.Port
	p.Close()
	tests := []struct {
		ip, target string
		loop       bool
	}{
		{"", "127.0.0.1", true},
		{"", "127.8.8.8", true},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.2", false},
		{"0.0.0.0", "127.0.0.2", true},
		{"", "::1", true},
		{"::1", "::1", true},
		{"0.0.0.0", "::1", false},
		{"", "192.0.2.1", false},
	}
	for _, tt := range tests {
		s := spec(tt.ip, false)
		s.Port, s.Target, s.TargetPort = free, tt.target, free
		p, err := Open(s, nil, Options{})
		if errors.Is(err, ErrLoop) != tt.loop || err != nil && !tt.loop {
			t.Errorf("Open(%s) = %v, want a loop: %v", s, err, tt.loop)
		}
		if err == nil {
			p.Close()
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip := netip.MustParsePrefix(a.String()).Addr(); !ip.IsLinkLocalUnicast() && !isLocal(ip) {
			t.Errorf("%s is taken for an address elsewhere", ip)
		}
	}
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		if isLocal(netip.MustParseAddr(a)) {
			t.Errorf("%s is taken for an address of this host", a)
		}
	}
}

// The log is told once that the target is lost, and once that it is back.
func TestLog(t *testing.T) {
	var out bytes.Buffer
	c := &counts{log: slog.New(slog.NewTextHandler(&out, nil))}
	c.reached()
	for range 3 {
		c.failed(errors.New("gone"))
		c.full(7)
	}
	c.reached()
	c.reached()
	got := out.String()
	for word, want := range map[string]int{"level=WARN": 2, "level=INFO": 1, "err=gone": 1, "limit=7": 1, "\n": 3} {
		if n := strings.Count(got, word); n != want {
			t.Errorf("%q is %d times in the log, want %d:\n%s", word, n, want, got)
		}
	}
	if s := c.stats(); s.DialErrors != 3 || s.Refused != 3 || s.LastError != "gone" || s.LastErrorAt.IsZero() {
		t.Errorf("stats are %+v", s)
	}
}
