package publish

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// udpService answers each datagram of ip with prefix and what it heard.
func udpService(t testing.TB, ip, prefix string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Fatal(err)
	}
	answerOn(t, c, prefix)
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func answerOn(t testing.TB, c *net.UDPConn, prefix string) {
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, datagramMax)
		n := copy(buf, prefix)
		for {
			got, from, err := c.ReadFromUDPAddrPort(buf[n:])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = c.WriteToUDPAddrPort(buf[:n+got], from)
		}
	})
	t.Cleanup(func() {
		c.Close()
		wg.Wait()
	})
}

// udpClient is a socket that is not connected: it sees where answers come from.
func udpClient(t testing.TB, ip string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends words to addr until an answer comes, and returns that and its source.
func ask(t testing.TB, c *net.UDPConn, addr netip.AddrPort, words string) (string, netip.AddrPort) {
	t.Helper()
	buf := make([]byte, datagramMax)
	for range 20 {
		if _, err := c.WriteToUDPAddrPort([]byte(words), addr); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err == nil {
			return string(buf[:n]), unmap(from)
		}
	}
	t.Fatalf("%s does not answer", addr)
	return "", addr
}

// The answer comes from where the client sent to, from either family to either.
func TestDatagramAddresses(t *testing.T) {
	needIPv6(t)
	for _, ip := range []string{"127.0.0.1", "::1"} {
		service := udpService(t, ip, "re: ")
		all := start(t, spec("", true), at(service), Options{})
		v4, v6 := udpClient(t, "127.0.0.1"), udpClient(t, "::1")
		for _, tt := range []struct {
			c  *net.UDPConn
			to string
		}{{v4, "127.0.0.1"}, {v4, "127.0.0.2"}, {v4, "127.0.0.1"}, {v6, "::1"}} {
			got, from := ask(t, tt.c, to(all, tt.to), "hello")
			if got != "re: hello" || from != to(all, tt.to) {
				t.Errorf("asked %s: %q from %s", to(all, tt.to), got, from)
			}
		}
		soon(t, "the last answer is counted", func() bool { return all.Stats().BytesToClient == 36 })
		if s := all.Stats(); s.Connections != 3 || s.Active != 3 || s.BytesToTarget != 20 {
			t.Errorf("stats are %+v, want 3 clients", s)
		}
		for _, host := range []string{"127.0.0.2", "::1"} {
			one := start(t, spec(host, true), at(service), Options{})
			c := v4
			if host == "::1" {
				c = v6
			}
			if got, from := ask(t, c, one.Addrs()[0], "hello"); got != "re: hello" || from != one.Addrs()[0] {
				t.Errorf("asked %s: %q from %s", one.Addrs()[0], got, from)
			}
		}
	}
}

// Who sends to a broadcast address gets an answer from one of ours.
func TestDatagramBroadcast(t *testing.T) {
	p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{})
	got, from := ask(t, udpClient(t, "127.0.0.1"), to(p, "127.255.255.255"), "who is there?")
	if got != "who is there?" || !from.Addr().IsLoopback() || from.Port() != p.spec.Port {
		t.Errorf("%q from %s", got, from)
	}
}

// The empty and the longest datagram pass.
func TestDatagramSizes(t *testing.T) {
	p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{})
	c := udpClient(t, "127.0.0.1")
	for _, n := range []int{1, 0, 1400, 9000, 65507} {
		if got, _ := ask(t, c, to(p, "127.0.0.1"), strings.Repeat("x", n)); len(got) != n {
			t.Errorf("of %d bytes came %d back", n, len(got))
		}
	}
}

// Each of several clients gets its own answers.
func TestDatagramClients(t *testing.T) {
	p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{})
	var wg sync.WaitGroup
	for i := range 50 {
		c := udpClient(t, "127.0.0.1")
		wg.Go(func() {
			words := strings.Repeat("x", i+1)
			for range 20 {
				if got, _ := ask(t, c, to(p, "127.0.0.1"), words); got != words {
					t.Errorf("client %d heard %q", i, got)
				}
			}
		})
	}
	wg.Wait()
	if s := p.Stats(); s.Connections != 50 || s.Active != 50 || s.DialErrors != 0 {
		t.Errorf("stats are %+v, want 50 clients", s)
	}
}

// Beyond the limit the client goes that was silent for the longest time; it is taken
// again when it speaks.
func TestDatagramLimit(t *testing.T) {
	p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{Limit: 2})
	a, b, c := udpClient(t, "127.0.0.1"), udpClient(t, "127.0.0.1"), udpClient(t, "127.0.0.1")
	for _, who := range []*net.UDPConn{a, b, a, c} {
		ask(t, who, to(p, "127.0.0.1"), "hello")
	}
	soon(t, "b is out", func() bool { return p.Stats().Active == 2 })
	ask(t, a, to(p, "127.0.0.1"), "still here")
	if s := p.Stats(); s.Connections != 3 || s.Refused != 1 {
		t.Errorf("stats are %+v, want 3 clients of which one is out", s)
	}
	ask(t, b, to(p, "127.0.0.1"), "hello again")
	if s := p.Stats(); s.Connections != 4 || s.Refused != 2 {
		t.Errorf("stats are %+v, want 4 clients of which two are out", s)
	}
}

func TestDatagramIdle(t *testing.T) {
	p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{Idle: 40 * time.Millisecond})
	c := udpClient(t, "127.0.0.1")
	for range 2 { // the table empties, and is looked after again
		ask(t, c, to(p, "127.0.0.1"), "hello")
		soon(t, "it is forgotten", func() bool { return p.Stats().Active == 0 })
	}
	if s := p.Stats(); s.Connections != 2 || s.Refused != 0 {
		t.Errorf("stats are %+v, want 2 clients", s)
	}
}

// What comes before the socket to the target is made waits, in order, up to a limit.
func TestDatagramWaits(t *testing.T) {
	service := udpService(t, "127.0.0.1", "")
	ready := make(chan struct{})
	p := start(t, spec("", true), func(ctx context.Context) (netip.AddrPort, error) {
		select {
		case <-ready:
		case <-ctx.Done():
		}
		return service, ctx.Err()
	}, Options{})
	c := udpClient(t, "127.0.0.1")
	for i := range waitingMax + 4 {
		_, _ = c.WriteToUDPAddrPort([]byte{byte(i)}, to(p, "127.0.0.1"))
	}
	soon(t, "4 are dropped", func() bool { return p.Stats().Dropped == 4 })
	close(ready)
	buf := make([]byte, 10)
	for i := range waitingMax {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(buf); err != nil || n != 1 || buf[0] != byte(i) {
			t.Fatalf("datagram %d is %v, %v", i, buf[:n], err)
		}
	}
}

// The target goes away, which its host says, and comes back elsewhere: the client
// that keeps asking reaches it, from the same socket.
func TestDatagramTargetRestarts(t *testing.T) {
	first, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	answerOn(t, first, "first ")
	var where atomic.Value
	where.Store(first.LocalAddr().(*net.UDPAddr).AddrPort())
	p := start(t, spec("", true), func(context.Context) (netip.AddrPort, error) { return where.Load().(netip.AddrPort), nil }, Options{})
	c := udpClient(t, "127.0.0.1")
	if got, _ := ask(t, c, to(p, "127.0.0.1"), "hello"); got != "first hello" {
		t.Fatalf("heard %q", got)
	}
	first.Close()
	_, _ = c.WriteToUDPAddrPort([]byte("hello"), to(p, "127.0.0.1"))
	soon(t, "the refusal is counted", func() bool { return p.Stats().DialErrors == 1 })
	if s := p.Stats(); !strings.HasSuffix(s.LastError, "nothing listens there: connection refused") {
		t.Errorf("the last error is %q", s.LastError)
	}
	where.Store(udpService(t, "127.0.0.3", "second "))
	if got, _ := ask(t, c, to(p, "127.0.0.1"), "hello"); got != "second hello" {
		t.Errorf("heard %q", got)
	}
}

func TestDatagramTargetIsDown(t *testing.T) {
	p := start(t, spec("", true), func(context.Context) (netip.AddrPort, error) {
		return netip.AddrPort{}, errors.New("no container dns")
	}, Options{Retry: -1})
	c := udpClient(t, "127.0.0.1")
	_, _ = c.WriteToUDPAddrPort([]byte("hello"), to(p, "127.0.0.1"))
	soon(t, "it is given up", func() bool { s := p.Stats(); return s.DialErrors == 1 && s.Active == 0 && s.Dropped == 1 })
	if s := p.Stats(); s.LastError != "look up the target: no container dns" {
		t.Errorf("stats are %+v", s)
	}
}

func TestDatagramLoop(t *testing.T) {
	var self atomic.Value
	p := start(t, spec("", true), func(context.Context) (netip.AddrPort, error) { return self.Load().(netip.AddrPort), nil }, Options{})
	self.Store(to(p, "127.0.0.2"))
	c := udpClient(t, "127.0.0.1")
	_, _ = c.WriteToUDPAddrPort([]byte("hello"), to(p, "127.0.0.1"))
	soon(t, "it is refused", func() bool { return p.Stats().DialErrors == 1 })
	if s := p.Stats(); s.Connections != 1 || !strings.Contains(s.LastError, ErrLoop.Error()) {
		t.Errorf("stats are %+v, want one client", s)
	}
}

func TestDatagramLocal(t *testing.T) {
	from := make(chan netip.AddrPort, 1)
	c := udpClient(t, "127.0.0.1")
	go func() {
		_, addr, _ := c.ReadFromUDPAddrPort(make([]byte, 10))
		from <- addr
	}()
	p := start(t, spec("", true), at(c.LocalAddr().(*net.UDPAddr).AddrPort()), Options{
		Local: func(netip.Addr) netip.Addr { return netip.MustParseAddr("127.0.0.7") },
	})
	_, _ = udpClient(t, "127.0.0.1").WriteToUDPAddrPort([]byte("hello"), to(p, "127.0.0.1"))
	if got := <-from; got.Addr().Unmap().String() != "127.0.0.7" {
		t.Errorf("the target is asked from %s", got)
	}
}

// 200 clients; Close ends them and the port is free at once.
func TestDatagramClose(t *testing.T) {
	p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{})
	for range 200 {
		ask(t, udpClient(t, "127.0.0.1"), to(p, "127.0.0.1"), "hello")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if s := p.Stats(); s.Active != 0 || s.Connections != 200 {
		t.Errorf("stats are %+v", s)
	}
	again, err := Open(p.spec, at(netip.AddrPort{}), Options{})
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	again.Close()
}

// A datagram to the target and its answer allocate nothing.
func TestDatagramAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector lets sync.Pool forget at random")
	}
	for _, ip := range []string{"127.0.0.1", "::1"} {
		p := start(t, spec("", true), at(udpService(t, "127.0.0.1", "")), Options{})
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to(p, ip)))
		if err != nil {
			t.Skip("no IPv6 here: ", err)
		}
		defer c.Close()
		buf := make([]byte, 1400)
		round := func() {
			_, _ = c.Write(buf)
			if _, err := c.Read(buf); err != nil {
				t.Fatal(err)
			}
		}
		round()
		if n := testing.AllocsPerRun(500, round); n >= 1 {
			t.Errorf("%s: %v allocations for a datagram and its answer, want 0", ip, n)
		}
	}
}

// Clients are forgotten after 90 s of silence, and within 10 s after the target has
// moved, or within one where there was an error.
func TestDatagramTend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("192.0.2.2:53")
		where := here
		target, _ := fakeTarget()
		target.resolve = func(context.Context) (netip.AddrPort, error) { return where, nil }
		d := &datagrams{target: target, counts: &counts{}, clients: newClients(10), idle: 90 * time.Second}
		var wg sync.WaitGroup
		wg.Go(func() { d.tend(t.Context()) })

		begun := time.Now()
		ended := map[string]time.Duration{}
		add := func(name string, port uint16, target netip.AddrPort) *client {
			c := newClient(clientKey{addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}, nil, d.counts)
			c.target = target
			c.cancel = func() { ended[name] = time.Since(begun) }
			d.clients.add(c)
			return c
		}
		add("silent", 1, here)
		add("not yet connected", 2, netip.AddrPort{})
		add("speaks later", 3, here).used.Store(begun.Add(30 * time.Second).UnixNano())
		time.Sleep(95 * time.Second)
		synctest.Wait()
		where = there
		add("new", 4, there)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		where = here
		d.suspect.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want := map[string]time.Duration{"silent": 90 * time.Second, "not yet connected": 90 * time.Second, "speaks later": 100 * time.Second, "new": 108 * time.Second}
		for name, at := range want {
			if got := ended[name]; got < at || got > at+time.Second {
				t.Errorf("%q was ended after %v, want %v", name, got, at)
			}
		}
		if d.clients.len() != 0 {
			t.Errorf("%d clients are left", d.clients.len())
		}
	})
}

func TestClientsTable(t *testing.T) {
	now := time.Unix(1000, 0)
	cs := newClients(3)
	add := func(port uint16, silent time.Duration) (c, out *client) {
		c = &client{key: clientKey{addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port)}}
		c.used.Store(now.Add(-silent).UnixNano())
		return c, cs.add(c)
	}
	one, _ := add(1, 10*time.Second)
	two, _ := add(2, 30*time.Second)
	three, out := add(3, 20*time.Second)
	if out != nil || cs.len() != 3 || cs.find(two.key) != two {
		t.Fatalf("%d clients, out is %v", cs.len(), out)
	}
	four, out := add(4, 0)
	if out != two || cs.len() != 3 || cs.find(two.key) != nil {
		t.Errorf("out is %v, want the second", out)
	}
	cs.remove(two) // it has gone
	if got := cs.expire(now, 20*time.Second); len(got) != 1 || got[0] != three || len(cs.all()) != 2 {
		t.Errorf("expired are %v, want the third", got)
	}
	again := &client{key: one.key}
	cs.remove(again) // another of its key is there
	if cs.find(one.key) != one {
		t.Error("the wrong one was removed")
	}
	cs.remove(one)
	cs.remove(four)
	if cs.len() != 0 {
		t.Errorf("%d clients are left", cs.len())
	}
}

func FuzzDestination(f *testing.F) {
	f.Add((&ipv4.ControlMessage{Src: net.IPv4(127, 0, 0, 2), IfIndex: 1}).Marshal())
	f.Add((&ipv6.ControlMessage{Src: net.ParseIP("fe80::1"), IfIndex: 7}).Marshal())
	f.Fuzz(func(t *testing.T, oob []byte) {
		if addr, iface := destination(oob); iface != 0 && !addr.IsLinkLocalUnicast() {
			t.Errorf("%v has the interface %d", addr, iface)
		}
	})
}

func TestDestination(t *testing.T) {
	tests := []struct {
		oob   []byte
		addr  string // "" for none
		iface int
	}{
		{nil, "", 0},
		{(&ipv4.ControlMessage{Src: net.IPv4(127, 0, 0, 2), IfIndex: 1}).Marshal(), "127.0.0.2", 0},
		{(&ipv6.ControlMessage{Src: net.ParseIP("fd00::1"), IfIndex: 7}).Marshal(), "fd00::1", 0},
		{(&ipv6.ControlMessage{Src: net.ParseIP("fe80::1"), IfIndex: 7}).Marshal(), "fe80::1", 7},
		{(&ipv4.ControlMessage{Src: net.IPv4(127, 0, 0, 2), IfIndex: 1}).Marshal()[:20], "", 0},
		{[]byte{1, 2, 3}, "", 0},
	}
	for _, tt := range tests {
		want, _ := netip.ParseAddr(tt.addr)
		if addr, iface := destination(tt.oob); addr != want || iface != tt.iface {
			t.Errorf("destination(%x) = %v, %d, want %v, %d", tt.oob, addr, iface, want, tt.iface)
		}
	}
}
