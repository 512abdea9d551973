package punch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/pathstate"
	"meshd/internal/udp"
	"meshd/transport"
	"meshd/transport/transporttest"
)

var lan = transporttest.Link{Latency: 10 * time.Millisecond}

// pair makes two nodes in a bubble whose paths are up and whose MTU is found.
func pair(t *testing.T, f transporttest.Factory, l transporttest.Link) (*transporttest.Pair, *transporttest.Conn) {
	t.Helper()
	p := transporttest.NewPair(t, f, transporttest.Options{Sealed: true, Link: l, Seed: 1})
	c := p.Connect(t)
	c.Up(t, 3*time.Second)
	<-time.After(3 * time.Second)
	return p, c
}

// packetTo makes a packet from one end to the other.
func packetTo(from, to *transporttest.End, data []byte) frame.Packet {
	return frame.Packet{Src: from.Peer.Name, Dst: to.Peer.Name, Frame: plain(data)}
}

// works fails unless a frame gets from each end to the other.
func works(t *testing.T, p *transporttest.Pair, c *transporttest.Conn) {
	t.Helper()
	p.A.Take()
	p.B.Take()
	_ = c.A.Path.Send(packetTo(p.A, p.B, transporttest.Frame(1, 100)))
	_ = c.A.Path.Flush()
	_ = c.B.Path.Send(packetTo(p.B, p.A, transporttest.Frame(2, 100)))
	_ = c.B.Path.Flush()
	<-time.After(time.Second)
	if a, b := len(p.A.Take()), len(p.B.Take()); a != 1 || b != 1 {
		t.Errorf("%d and %d frames came out, want one each", a, b)
	}
}

// epochs are the numbers of the sealing keys of both sides.
func epochs(c *transporttest.Conn) (a, b uint64) {
	epoch := func(s *transporttest.Side) uint64 {
		tx := &s.Path.(*path).tx
		tx.mu.Lock()
		defer tx.mu.Unlock()
		return tx.seal.Epoch()
	}
	return epoch(c.A), epoch(c.B)
}

// Keys change many times while frames flow both ways over a link that reorders,
// and none is lost.
func TestRekeyUnderLoad(t *testing.T) {
	for _, noAES := range []bool{false, true} {
		t.Run(fmt.Sprintf("no AES %v", noAES), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				soon := func(t *Transport) { t.rekey = rekeying{after: 3 * time.Second, used: 300} }
				f := factory(func(c *Config) { c.NoAES = noAES }, soon)
				p, c := pair(t, f, transporttest.Link{Latency: 20 * time.Millisecond, Jitter: 40 * time.Millisecond})
				const n = 10000
				for i := range uint64(n) {
					_ = c.A.Path.Send(packetTo(p.A, p.B, transporttest.Frame(i, 1000)))
					_ = c.A.Path.Flush()
					if i%50 == 0 { // B's key grows old instead
						_ = c.B.Path.Send(packetTo(p.B, p.A, transporttest.Frame(i, 1000)))
						_ = c.B.Path.Flush()
					}
					if i%5 == 0 {
						<-time.After(15 * time.Millisecond)
					}
				}
				<-time.After(time.Second)
				if a, b := len(p.A.Take()), len(p.B.Take()); b != n || a != n/50 {
					t.Errorf("%d and %d frames came out, want %d and %d", b, a, n, n/50)
				}
				if a, b := epochs(c); a < 20 || b < 8 {
					t.Errorf("keys changed %d and %d times, want at least 20 and 8", a, b)
				}
				a, b := epochs(c)
				for _, s := range c.Sides() {
					if got := s.State().Rekeys; got+2 < a+b || got > a+b {
						t.Errorf("%d changes of keys are told, want the %d + %d of both directions", got, a, b)
					}
					d := drops(&s.Counters.Rx)
					if d["auth"] > 2 || d["replay"] > 0 { // the first probes may come before the keys
						t.Errorf("drops %v", d)
					}
				}
			})
		})
	}
}

// While nothing of ours gets through, the key stays, however old: the neighbour
// could not follow.
func TestNoRekeyIntoTheDark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := pair(t, factory(nil, func(t *Transport) { t.rekey = rekeying{after: 3 * time.Second, used: 50} }), lan)
		p.Net.SetLink(p.A.Host, p.B.Host, transporttest.Link{Cut: true})
		<-time.After(time.Second)
		before, _ := epochs(c)
		<-time.After(10 * time.Minute)
		if after, _ := epochs(c); after > before+1 {
			t.Errorf("the key changed %d times while nothing got through", after-before)
		}
		p.Net.SetLink(p.A.Host, p.B.Host, lan)
		c.Up(t, 3*time.Second)
		works(t, p, c)
	})
}

// The key before the one in use opens nothing any more after some seconds.
func TestOldKeyIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := pair(t, factory(nil), lan)
		var mu sync.Mutex
		var seen [][]byte
		p.Net.Watch(func(d transporttest.Datagram) {
			mu.Lock()
			defer mu.Unlock()
			if d.From == p.A.Addr && len(d.Payload) > 900 {
				seen = append(seen, bytes.Clone(d.Payload))
			}
		})
		p.Net.SetLink(p.A.Host, p.B.Host, transporttest.Link{Cut: true})
		for i := range uint64(2) {
			_ = c.A.Path.Send(packetTo(p.A, p.B, transporttest.Frame(i, 1000)))
			_ = c.A.Path.Flush()
		}
		p.Net.SetLink(p.A.Host, p.B.Host, lan)
		if err := c.A.Path.(*path).tx.advance(); err != nil {
			t.Fatal(err)
		}
		works(t, p, c)
		mu.Lock()
		old := seen
		mu.Unlock()
		p.Net.Inject(p.A.Addr, p.B.Addr, old[0])
		synctest.Wait()
		if got := len(p.B.Take()); got != 1 {
			t.Errorf("%d frames of a datagram that the change of keys overtook, want 1", got)
		}
		<-time.After(forgetAfter + 2*time.Second)
		p.Net.Inject(p.A.Addr, p.B.Addr, old[1])
		synctest.Wait()
		if got := len(p.B.Take()); got != 0 {
			t.Errorf("%d frames under a key that is forgotten", got)
		}
	})
}

// A path that silently stops to carry large datagrams while they flow is noticed
// long before the MTU would be verified, and its return too.
func TestMTUShrinksMidFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := pair(t, factory(nil), lan)
		size := mtu
		flow := func(d time.Duration) {
			for i := range uint64(d / (10 * time.Millisecond)) {
				err := c.A.Path.Send(packetTo(p.A, p.B, transporttest.IPv4Frame(i, size, true)))
				if big, ok := errors.AsType[*transport.TooBigError](err); ok {
					size = big.MTU // as a host does
				}
				_ = c.A.Path.Flush()
				<-time.After(10 * time.Millisecond)
			}
		}
		flow(2 * time.Second)
		if got := len(p.B.Take()); got < 195 {
			t.Fatalf("%d frames of 200 came out", got)
		}
		hole := lan
		hole.MTU, hole.KnownMTU = 1400, 1500
		p.Net.Connect(p.A.Host, p.B.Host, hole)
		flow(2500 * time.Millisecond)
		p.B.Take()
		flow(time.Second)
		if got := len(p.B.Take()); got < 95 {
			t.Errorf("%d frames of 100 came out 2.5 s after the path shrank, size %d", got, size)
		}
		<-time.After(5 * time.Second)
		if got := c.A.State().MTU; got != 1400-87 {
			t.Errorf("MTU = %d, want %d", got, 1400-87)
		}
		if !c.A.State().Up || !c.B.State().Up {
			t.Error("the path went down")
		}
		p.Net.Connect(p.A.Host, p.B.Host, lan)
		<-time.After(2 * time.Minute)
		if got := c.A.State().MTU; got != mtu {
			t.Errorf("MTU = %d two minutes after the path has grown again, want %d", got, mtu)
		}
	})
}

// meddler changes the first hello of either side on its way.
type meddler struct {
	transport.Transport
	change func(dialled bool, msg []byte) []byte
}

func (m *meddler) Open(s transport.Session) (transport.Path, error) {
	send := s.SendControl
	s.SendControl = func(tag byte, msg []byte) error { return send(tag, m.change(s.Dialled, bytes.Clone(msg))) }
	return m.Transport.Open(s)
}

// meddle connects a pair whose hellos are changed.
func meddle(t *testing.T, change func(dialled bool, msg []byte) []byte) (*transporttest.Pair, *transporttest.Conn) {
	t.Helper()
	f := func(n transporttest.Node) (transport.Transport, error) {
		tr, err := factory(nil)(n)
		return &meddler{tr, change}, err
	}
	p := transporttest.NewPair(t, f, transporttest.Options{Sealed: true, Link: lan, Seed: 1})
	return p, p.Connect(t)
}

// Whoever changes a hello prevents the path; nobody can make it weaker.
func TestHelloChangedOnItsWay(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(dialled bool, msg []byte) []byte
	}{
		{"no AES from the dialler", func(d bool, m []byte) []byte {
			if d {
				m[offAbilities+1] &^= byte(canAES)
			}
			return m
		}},
		{"no abilities from either", func(_ bool, m []byte) []byte { m[offAbilities+1] = 0; return m }},
		{"another index", func(d bool, m []byte) []byte { m[offIndex]++; return m }},
		{"more bytes from the acceptor", func(d bool, m []byte) []byte {
			if !d {
				m = append(m, 0)
			}
			return m
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, c := meddle(t, tt.change)
				<-time.After(10 * time.Second)
				for i, s := range c.Sides() {
					if st := s.State(); st.Up || st.Why == "" {
						t.Errorf("state %+v, want down and why", st)
					}
					_ = s.Path.Send(packetTo([]*transporttest.End{p.A, p.B}[i], p.B, transporttest.Frame(1, 100)))
					_ = s.Path.Flush()
				}
				<-time.After(time.Second)
				if len(p.A.Take())+len(p.B.Take()) != 0 {
					t.Error("frames came out")
				}
			})
		})
	}
}

// What the state says of a path that cannot come up.
func TestWhy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(dialled bool, msg []byte) []byte
		want   string
	}{
		{"another version", func(_ bool, m []byte) []byte { m[0] = 7; return m }, "another version"},
		{"nonsense", func(_ bool, m []byte) []byte { return m[:3] }, "hello"},
		{"a port where nobody is", func(_ bool, m []byte) []byte { m[offPort]++; return m }, "no datagram from the neighbour yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, c := meddle(t, tt.change)
				<-time.After(2 * time.Second)
				for _, s := range c.Sides() {
					if st := s.State(); st.Up || !strings.Contains(st.Why, tt.want) || !st.Encrypted {
						t.Errorf("state %+v, want down because of %q", st, tt.want)
					}
				}
			})
		})
	}
}

// A hello that found no room in the connection's queue is sent again.
func TestHelloIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := 0
		var mu sync.Mutex
		f := func(n transporttest.Node) (transport.Transport, error) {
			tr, err := factory(nil)(n)
			return &refuser{tr, func() bool {
				mu.Lock()
				defer mu.Unlock()
				refused++
				return refused <= 4
			}}, err
		}
		p := transporttest.NewPair(t, f, transporttest.Options{Sealed: true, Link: lan, Seed: 1})
		c := p.Connect(t)
		c.Up(t, 2*helloEvery+time.Second)
		works(t, p, c)
	})
}

// refuser is a transport whose sessions' control connections refuse messages.
type refuser struct {
	transport.Transport
	refuse func() bool
}

func (r *refuser) Open(s transport.Session) (transport.Path, error) {
	send := s.SendControl
	s.SendControl = func(tag byte, msg []byte) error {
		if r.refuse() {
			return errors.New("queue is full")
		}
		return send(tag, msg)
	}
	return r.Transport.Open(s)
}

func TestOpenRefuses(t *testing.T) {
	e := newEnd(t, nameA, addrA, Config{})
	good := transport.Session{
		Remote: transport.Peer{Name: nameB}, Secret: &[32]byte{}, Counters: &transport.Counters{},
		SendControl: func(byte, []byte) error { return nil }, Done: make(chan struct{}),
	}
	if _, err := e.tr.Open(good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*transport.Session)
		want   string
	}{
		{"no name", func(s *transport.Session) { s.Remote.Name = 0 }, "name"},
		{"no secret", func(s *transport.Session) { s.Secret = nil }, "no secret"},
		{"no control", func(s *transport.Session) { s.SendControl = nil }, "no control connection"},
		{"no counters", func(s *transport.Session) { s.Counters = nil }, "no counters"},
	} {
		s := good
		tt.change(&s)
		if _, err := e.tr.Open(s); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Open = %v, want an error about %q", tt.name, err, tt.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	e := newEnd(t, nameA, addrA, Config{})
	take := func([]frame.Packet) {}
	for name, c := range map[string]Config{
		"no mux":  {Local: nameA, Deliver: take},
		"no name": {Mux: e.tr.mux, Deliver: take}, "nobody takes": {Mux: e.tr.mux, Local: nameA},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
}

// Of too many paths to one neighbour the oldest ends.
func TestTooManyPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, first := pair(t, factory(nil), lan)
		var last *transporttest.Conn
		for range transport.MaxIncarnations {
			last = p.Connect(t)
			<-time.After(time.Second)
		}
		for _, s := range first.Sides() {
			if err := <-s.Ended; !errors.Is(err, pathstate.ErrReplaced) {
				t.Errorf("Run = %v, want %v", err, pathstate.ErrReplaced)
			}
		}
		last.Up(t, 3*time.Second)
		works(t, p, last)
	})
}

// exchange lets a send a probe, and b its reply.
func exchange(a, b *end, now time.Time) {
	a.path.sendProbe(now, orders{probe: true, seq: a.path.Prober.Send(now, &a.path.Life)})
	b.feed(addrA, a.wire.take()...)
	a.feed(addrB, b.wire.take()...)
}

// An ICMP error about the route makes the path look, if it is its own, and the
// socket's word for a datagram that is too big does as well.
func TestHints(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	now := time.Now()
	exchange(a, b, now)
	if a.path.step(now); a.path.PMTU.MTU() != mtu {
		t.Fatalf("MTU = %d once the path is up, want %d", a.path.PMTU.MTU(), mtu)
	}
	stale := func() bool { return a.path.stale.Swap(false) }
	stale()
	a.path.hint(now, elsewhere)
	if stale() {
		t.Error("somebody else's route was looked at")
	}
	a.path.hint(now, addrB)
	if !stale() {
		t.Error("the route is not looked at")
	}
	a.path.hint(now.Add(hintEvery/2), addrB)
	if stale() {
		t.Error("hints are followed as often as they come")
	}
	a.tr.tooBig(addrB, 1200)
	a.path.hint(now.Add(hintEvery), addrB)
	a.wire.mtu = 1300
	a.path.lookAtRoute(now)
	if got := a.path.PMTU.MTU(); got != 1300-87 {
		t.Errorf("MTU = %d after the kernel learned of 1300, want %d", got, 1300-87)
	}
}

// Runs that arrive mangled are sent no more for a while.
func TestSendsAloneWhereRunsAreMangled(t *testing.T) {
	a, b := newEnds(t, Config{}, Config{})
	now := time.Now()
	exchange(a, b, now)
	for i, m := range a.send(t, b, transporttest.TCP(1, 60000, 1300, false)) {
		if m.Segment != 0 {
			t.Fatal("sent alone before anything was wrong")
		}
		if i > 0 {
			m.Buf[100] ^= 1
		}
		b.feed(addrA, m)
	}
	exchange(a, b, now)
	a.path.step(now)
	for _, m := range a.send(t, b, transporttest.TCP(1, 13000, 1300, false)) {
		if m.Segment != udp.Alone {
			t.Fatal("runs are still sent")
		}
	}
	a.path.step(now.Add(distrust + time.Minute))
	for _, m := range a.send(t, b, transporttest.TCP(1, 13000, 1300, false)) {
		if m.Segment != 0 {
			t.Fatal("runs are not sent again")
		}
	}
}

// Probes to an index that is guessed wrong, and hellos that come again, change
// nothing.
func TestSecondHelloIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := pair(t, factory(nil), lan)
		other := hello{index: 99, port: 1, can: 0}.append(nil)
		c.A.Path.HandleControl(tagHello, other)
		c.B.Path.HandleControl(tagHello, nil)
		works(t, p, c)
		var b [encap.NativeOverhead]byte
		b[0] = encap.NativeKind
		for i := range uint32(1000) {
			binary.BigEndian.PutUint32(b[1:], i)
			p.Net.Inject(p.A.Addr, p.B.Addr, b[:])
		}
		works(t, p, c)
	})
}
