package sleeve

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
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

// stockPeer plays a stock router at host2's address by hand, and notes what comes
// from us.
type stockPeer struct {
	t      *testing.T
	net    *transporttest.Network
	socket *transporttest.Socket
	path   transport.Path
	key    *[32]byte
	seal   *encap.SleeveSeal
	open   *encap.SleeveOpen
	start  time.Time
	ended  chan error
	done   chan struct{}
	cancel context.CancelFunc

	mu       sync.Mutex
	frames   []arrival
	controls []string
	states   []transport.State
}

// arrival is a frame of ours and when it came.
type arrival struct {
	at    time.Duration
	frame []byte
	df    bool
}

// newStockPeer runs a path of host1 that has dialled host2, in a bubble.
func newStockPeer(t *testing.T, key *[32]byte, native bool) *stockPeer {
	return newPeer(t, key, native, true)
}

func newPeer(t *testing.T, key *[32]byte, native, dialled bool) *stockPeer {
	s := &stockPeer{t: t, key: key, start: time.Now(), ended: make(chan error, 1), done: make(chan struct{})}
	s.net = transporttest.NewNetwork(1, transporttest.Link{Latency: time.Millisecond})
	us := netip.MustParseAddrPort("10.9.9.1:6783")
	h1, h2 := s.net.Host(us.Addr()), s.net.Host(farAddr.Addr())
	mine, err := h1.Listen(us)
	if err != nil {
		t.Fatal(err)
	}
	if s.socket, err = h2.Listen(farAddr); err != nil {
		t.Fatal(err)
	}
	if key != nil {
		s.seal, s.open = encap.NewSleeveSeal(key, !dialled), encap.NewSleeveOpen(key, dialled)
	}
	s.net.Watch(s.note)
	tr, err := New(Config{Local: host1, Sockets: []PacketConn{mine}, Deliver: ignore})
	if err != nil {
		t.Fatal(err)
	}
	sess := session(host1, key, dialled)
	sess.RemoteAddr, sess.Native, sess.Done = netip.AddrPortFrom(farAddr.Addr(), 40000), native, s.done
	if dialled {
		sess.RemoteAddr = farAddr
	}
	sess.SendControl = func(tag byte, msg []byte) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.controls = append(s.controls, hex.EncodeToString(append([]byte{tag}, msg...)))
		return nil
	}
	if s.path, err = tr.Open(sess); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	var wg sync.WaitGroup
	wg.Go(func() { _ = tr.Run(ctx) })
	wg.Go(func() { s.ended <- s.path.Run(ctx, s.report) })
	t.Cleanup(func() { cancel(); s.socket.Close(); wg.Wait() })
	return s
}

func (s *stockPeer) report(st transport.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, st)
}

func (s *stockPeer) state() transport.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[len(s.states)-1]
}

// note reads a datagram of ours as the peer does.
func (s *stockPeer) note(d transporttest.Datagram) {
	if d.To != farAddr {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := d.Payload[encap.SleeveNameLen:]
	if s.open != nil {
		var err error
		if b, err = s.open.Open(nil, d.Payload); err != nil {
			s.t.Errorf("our datagram does not open: %v", err)
			return
		}
	}
	r := encap.NewSleeveReader(bytes.Clone(b))
	for p, ok := r.Next(); ok; p, ok = r.Next() {
		s.frames = append(s.frames, arrival{time.Since(s.start), p.Frame.Data, d.DF})
	}
}

// take returns the frames of one kind that came since the last call, and forgets
// all.
func (s *stockPeer) take(kind special) (got []arrival) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.frames {
		if classify(f.frame, true) == kind {
			got = append(got, f)
		}
	}
	s.frames = nil
	return got
}

// say sends a frame as the peer.
func (s *stockPeer) say(b []byte) {
	d := plain(b)
	if s.seal != nil {
		d = sealed(s.seal, b)
	}
	if _, err := s.socket.WriteBatch([]udp.Message{{Buf: d, N: len(d), Addr: netip.MustParseAddrPort("10.9.9.1:6783")}}, false); err != nil {
		s.t.Error(err)
	}
}

func (s *stockPeer) heartbeat() { s.say(appendHeartbeat(nil, 0x1122334455667788)) }

// wait lets time pass until d after the start.
func (s *stockPeer) wait(d time.Duration) { <-time.After(time.Until(s.start.Add(d))) }

// What a stock router sees of us: heartbeats, tests, control messages, at their
// times, and never a probe.
func TestStockLife(t *testing.T) {
	for _, key := range []*[32]byte{nil, {7}} {
		synctest.Test(t, func(t *testing.T) {
			s := newStockPeer(t, key, false)
			s.wait(1900 * time.Millisecond)
			for i, a := range s.take(specialHeartbeat) {
				if want := time.Duration(i) * heartbeatFast; a.at != want || !a.df {
					t.Errorf("heartbeat %d at %v, DF %v, want %v with DF", i, a.at, a.df, want)
				}
			}
			s.heartbeat()
			s.wait(2 * time.Second)
			if s.state().Up || s.state().Why == "" || len(s.controls) != 1 || s.controls[0] != "01" {
				t.Errorf("after the first heartbeat: %+v, control messages %v", s.state(), s.controls)
			}
			s.wait(2200 * time.Millisecond)
			s.take(specialHeartbeat)
			s.path.HandleControl(tagEstablished, nil)
			synctest.Wait()
			if !s.state().Up {
				t.Errorf("state = %+v after connection established, want up", s.state())
			}
			s.wait(2300 * time.Millisecond)
			s.mu.Lock()
			var frag, mtu, others int
			for _, f := range s.frames {
				switch classify(f.frame, true) {
				case specialFragTest:
					frag++
					if f.df || !allZero(f.frame) {
						t.Error("fragmentation test with DF or with content")
					}
				case specialMTUTest:
					mtu++
					if !f.df || !allZero(f.frame) {
						t.Error("MTU test without DF or with content")
					}
				default:
					others++
				}
			}
			s.mu.Unlock()
			if frag != 1 || mtu == 0 || others != 0 {
				t.Errorf("%d fragmentation tests, %d MTU tests, %d others, want 1, some, 0", frag, mtu, others)
			}
			s.take(specialHeartbeat)
			var beats []arrival
			for now := 3 * time.Second; now < 70*time.Second; now += time.Second {
				s.wait(now)
				if now%(10*time.Second) == 0 {
					s.heartbeat()
				}
				beats = append(beats, s.take(specialHeartbeat)...)
			}
			if len(beats) != 6 {
				t.Errorf("%d heartbeats in 67 s, want 6", len(beats))
			}
			for i, b := range beats {
				if want := 2200*time.Millisecond + time.Duration(i+1)*heartbeatSlow; b.at != want {
					t.Errorf("heartbeat at %v, want %v", b.at, want)
				}
			}
			if got := s.take(specialProbe); len(got) != 0 {
				t.Errorf("%d probes to a stock router", len(got))
			}
			select {
			case err := <-s.ended:
				if !errors.Is(err, pathstate.ErrSilent) {
					t.Errorf("Run = %v, want %v", err, pathstate.ErrSilent)
				}
			case <-time.After(52 * time.Second):
				t.Error("Run goes on 60 s after the last heartbeat")
			}
			if time.Since(s.start) < 120*time.Second {
				t.Errorf("Run ended after %v, the last heartbeat was at 60 s", time.Since(s.start))
			}
			if s.state().Up || s.state().Why != pathstate.ErrSilent.Error() {
				t.Errorf("last state = %+v, want down and why", s.state())
			}
		})
	}
}

// Who accepted the control connection says nothing before it was addressed, and
// then at once.
func TestAcceptor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPeer(t, &[32]byte{5}, false, false)
		s.wait(10*time.Second + 123*time.Millisecond)
		if got := s.take(specialHeartbeat); len(got) != 0 || s.state().Addr.IsValid() {
			t.Errorf("%d heartbeats to %v before the neighbour's address is known", len(got), s.state().Addr)
		}
		s.heartbeat()
		s.wait(10*time.Second + 500*time.Millisecond)
		if got := s.take(specialHeartbeat); len(got) != 1 || got[0].at != 10*time.Second+124*time.Millisecond {
			t.Errorf("heartbeats after the first one came: %v, want one at once", got)
		}
		if got := s.state().Addr; got != farAddr {
			t.Errorf("neighbour's address = %v, want %v", got, farAddr)
		}
	})
}

// Without a control connection there are no answers, so no tests are sent.
func TestNoTestsWithoutControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStockPeer(t, nil, true)
		s.heartbeat()
		s.path.HandleControl(tagEstablished, nil)
		s.wait(100 * time.Millisecond)
		close(s.done)
		synctest.Wait()
		s.take(specialMTUTest)
		for range 300 {
			<-time.After(100 * time.Millisecond)
			s.heartbeat()
			s.mu.Lock()
			for _, f := range s.frames {
				if k := classify(f.frame, true); k == specialMTUTest || k == specialFragTest {
					t.Errorf("a test of %d bytes at %v", len(f.frame), f.at)
				}
			}
			s.mu.Unlock()
			for _, f := range s.take(specialProbe) {
				s.say(probe{uid: 0x1122334455667788, sequence: readProbe(f.frame).sequence}.append(nil, specialReply))
			}
		}
		if !s.state().Up {
			t.Errorf("state = %+v, want up", s.state())
		}
	})
}

// When the kernel refuses a frame, the MTU goes down at once, and it is looked
// for again where the kernel does not say to what.
func TestRefused(t *testing.T) {
	for _, told := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { testRefused(t, told) })
	}
}

func testRefused(t *testing.T, told bool) {
	link := transporttest.Link{Latency: 5 * time.Millisecond}
	p := transporttest.NewPair(t, factory, transporttest.Options{Link: link})
	c := p.Connect(t)
	c.Up(t, 3*time.Second)
	<-time.After(11 * time.Second)
	path := c.A.Path.(*path)
	link.MTU = 1300
	p.Net.SetLink(p.A.Host, p.B.Host, link)
	if !told {
		path.mu.Lock()
		path.conn = forgetful{path.conn}
		path.tx.route(path.addr, path.conn, 1438)
		path.mu.Unlock()
	}
	pk := frame.Packet{Src: p.A.Peer.Name, Dst: p.B.Peer.Name}
	pk.Frame.Data = transporttest.IPv4Frame(1, 1400, true)
	if err := path.Send(pk); err != nil {
		t.Fatal(err)
	}
	_ = path.Flush()
	within := 20 * time.Millisecond
	if !told {
		within = 4 * time.Second
	}
	transporttest.Eventually(t, within, "the MTU is 1238", func() bool { return c.A.State().MTU == 1238 })
}

// An ICMP error makes the path look at its route at once, though nothing was sent
// that was too big; one that is forged changes nothing.
func TestToldTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		link := transporttest.Link{Latency: 5 * time.Millisecond}
		p := transporttest.NewPair(t, factory, transporttest.Options{Link: link})
		c := p.Connect(t)
		c.Up(t, 3*time.Second)
		<-time.After(11 * time.Second)
		socket := c.A.Path.(*path).conn.(*transporttest.Socket)
		mtu := c.A.State().MTU
		for range 100 {
			socket.TooBig(p.B.Addr, 600)
			socket.TooBig(netip.MustParseAddrPort("203.0.113.9:6783"), 600)
			<-time.After(10 * time.Millisecond)
			if got := c.A.State().MTU; got != mtu {
				t.Fatalf("MTU after a forged error = %d, want %d", got, mtu)
			}
		}
		link.MTU = 1300
		p.Net.SetLink(p.A.Host, p.B.Host, link)
		socket.TooBig(p.B.Addr, 1300)
		transporttest.Eventually(t, 40*time.Millisecond, "the MTU is 1238", func() bool { return c.A.State().MTU == 1238 })
	})
}

// Errors that anybody can cause do not make us ask the kernel all the time.
func TestRouteIsNotAskedTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newStockPeer(t, nil, true).path.(*path)
		asked := &asked{PacketConn: p.conn}
		p.mu.Lock()
		p.conn = asked
		p.mu.Unlock()
		<-time.After(time.Second)
		before := asked.times.Load()
		for range 10_000 {
			p.onRefused()
			<-time.After(100 * time.Microsecond)
		}
		if n := asked.times.Load() - before; n < 10 || n > int64(time.Second/routeGap)+1 {
			t.Errorf("the kernel was asked %d times in a second, want at most every %v", n, routeGap)
		}
	})
}

// asked is a socket that counts how often it is asked for a path MTU.
type asked struct {
	PacketConn
	times atomic.Int64
}

func (a *asked) PathMTU(dst netip.AddrPort) (int, error) {
	a.times.Add(1)
	return a.PacketConn.PathMTU(dst)
}

// Who is at the other end is known only under a key that was agreed on with the
// password.
func TestAuthenticated(t *testing.T) {
	for _, tt := range []struct {
		key           *[32]byte
		authenticated bool
		want          bool
	}{{nil, false, false}, {nil, true, false}, {&[32]byte{1}, false, false}, {&[32]byte{1}, true, true}} {
		w, far := newWire(t, transporttest.Link{})
		s := session(host1, tt.key, true)
		s.Authenticated = tt.authenticated
		p := openPath(t, w, far, s, ignore)
		if got := p.stateLocked(time.Now(), nil); got.Authenticated != tt.want || got.Encrypted != (tt.key != nil) {
			t.Errorf("key %v, password %v: authenticated %v, encrypted %v", tt.key != nil, tt.authenticated, got.Authenticated, got.Encrypted)
		}
	}
}

// forgetful is a socket whose kernel does not know path MTUs.
type forgetful struct{ PacketConn }

func (forgetful) PathMTU(netip.AddrPort) (int, error) { return 1500, nil }

func TestStockControlLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStockPeer(t, nil, false)
		s.heartbeat()
		s.path.HandleControl(tagEstablished, nil)
		s.wait(time.Second)
		close(s.done)
		synctest.Wait()
		select {
		case err := <-s.ended:
			if !errors.Is(err, pathstate.ErrControlLost) {
				t.Errorf("Run = %v, want %v", err, pathstate.ErrControlLost)
			}
		default:
			t.Error("Run goes on after the control connection of a stock router is lost")
		}
	})
}

// A stock router answers only what it knows; MTU discovery converges on that.
func TestStockMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStockPeer(t, nil, false)
		s.heartbeat()
		s.path.HandleControl(tagEstablished, nil)
		for now := 10 * time.Millisecond; now < 20*time.Second; now += 10 * time.Millisecond {
			s.wait(now)
			for _, f := range s.take(specialMTUTest) {
				if n := len(f.frame) - frame.HeaderLen; n <= 1399 { // a black hole
					s.path.HandleControl(tagMTU, []byte{byte(n >> 8), byte(n)})
				}
			}
			if now%heartbeatSlow == 0 {
				s.heartbeat()
			}
		}
		if got := s.state().MTU; got != 1399 {
			t.Errorf("MTU = %d, want 1399", got)
		}
	})
}

// A meshd neighbour that never becomes reachable by UDP is waited for.
func TestNativeWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStockPeer(t, nil, true)
		s.wait(time.Hour)
		select {
		case err := <-s.ended:
			t.Fatalf("Run = %v although the session goes on", err)
		default:
		}
		close(s.done)
		synctest.Wait()
		if err := <-s.ended; !errors.Is(err, pathstate.ErrControlLost) {
			t.Errorf("Run = %v, want %v", err, pathstate.ErrControlLost)
		}
	})
}

// How often a neighbour is probed that has fallen silent.
func TestNativeProbeRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStockPeer(t, nil, true)
		s.heartbeat()
		s.path.HandleControl(tagEstablished, nil)
		for _, phase := range []struct {
			until    time.Duration
			min, max int
		}{
			{950 * time.Millisecond, 1, 3},          // as always
			{2150 * time.Millisecond, 11, 13},       // anxious
			{12150 * time.Millisecond, 19, 22},      // down
			{72150 * time.Millisecond, 59, 62},      // down for long
			{10 * time.Minute, 9*60 - 20, 9*60 - 5}, // and so on
		} {
			s.wait(phase.until)
			if n := len(s.take(specialProbe)); n < phase.min || n > phase.max {
				t.Errorf("%d probes until %v of silence, want %d to %d", n, phase.until, phase.min, phase.max)
			}
		}
	})
}

// pausable is a socket whose calls can be held up, as those of a process that is
// stopped.
type pausable struct {
	PacketConn
	mu      sync.Mutex
	stopped chan struct{} // closed to go on; nil: not stopped
}

func (p *pausable) ReadBatch(ms []udp.Message) (int, error) {
	n, err := p.PacketConn.ReadBatch(ms)
	p.hold()
	return n, err
}

func (p *pausable) WriteBatch(ms []udp.Message, df bool) (int, error) {
	p.hold()
	return p.PacketConn.WriteBatch(ms, df)
}

func (p *pausable) hold() {
	p.mu.Lock()
	stopped := p.stopped
	p.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
}

func (p *pausable) pause() (resume func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := make(chan struct{})
	p.stopped = c
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stopped = nil
		close(c)
	}
}

// A process that was stopped for a while (SIGSTOP, a busy machine) does not take
// that for its neighbour's silence.
func TestStall(t *testing.T) {
	for _, stall := range []time.Duration{400 * time.Millisecond, 3 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) { testStall(t, stall) })
	}
}

func testStall(t *testing.T, stall time.Duration) {
	var sockets []*pausable
	f := func(n transporttest.Node) (transport.Transport, error) {
		s, err := n.Host.Listen(n.Addrs[0])
		if err != nil {
			return nil, err
		}
		p := &pausable{PacketConn: s}
		sockets = append(sockets, p)
		return New(Config{Local: n.Local.Name, Deliver: n.Deliver, Sockets: []PacketConn{p}})
	}
	p := transporttest.NewPair(t, f, transporttest.Options{Sealed: true, Link: transporttest.Link{Latency: 5 * time.Millisecond}})
	c := p.Connect(t)
	c.Up(t, 3*time.Second)
	<-time.After(20 * time.Second)
	c.A.States()

	resume := sockets[0].pause() // Run stops at its next probe
	<-time.After(stall)
	resume()

	<-time.After(30 * time.Second)
	for _, st := range c.A.States() {
		if !st.Up {
			t.Errorf("after a stall of %v the path went down: %s", stall, st.Why)
		}
	}
	if !c.B.State().Up {
		t.Error("the neighbour has not come back after the stall")
	}
}

func TestNewErrors(t *testing.T) {
	for _, c := range []Config{
		{Listen: "127.0.0.1:0", Local: host1},
		{Listen: "127.0.0.1:0", Deliver: ignore},
		{Listen: "127.0.0.1", Local: host1, Deliver: ignore},
		{Listen: "127.0.0.1:70000", Local: host1, Deliver: ignore},
		{Listen: "127.0.0.1:http", Local: host1, Deliver: ignore},
		{Listen: "nowhere.example:6783", Local: host1, Deliver: ignore},
		{Listen: "192.0.2.77:6783", Local: host1, Deliver: ignore}, // not our address
	} {
		if tr, err := New(c); err == nil {
			t.Errorf("New(%+v) = %v, want an error", c, tr)
			tr.Close()
		}
	}
}

func TestOpenErrors(t *testing.T) {
	tr, err := New(Config{Local: host1, Deliver: ignore, Sockets: []PacketConn{&null{}}})
	if err != nil {
		t.Fatal(err)
	}
	good := session(host1, nil, true)
	for name, change := range map[string]func(*transport.Session){
		"no name":       func(s *transport.Session) { s.Remote.Name = 0 },
		"no control":    func(s *transport.Session) { s.SendControl = nil },
		"no counters":   func(s *transport.Session) { s.Counters = nil },
		"no done":       func(s *transport.Session) { s.Done = nil },
		"name too long": func(s *transport.Session) { s.Remote.Name = 1 << 48 },
	} {
		s := good
		change(&s)
		if _, err := tr.Open(s); err == nil {
			t.Errorf("%s: Open = nil, want an error", name)
		}
	}
}

// failing is a socket whose reads fail for a while.
type failing struct {
	null
	left int // failures before err
	err  error
}

func (f *failing) ReadBatch(ms []udp.Message) (int, error) {
	if f.left--; f.left < 0 {
		return 0, f.err
	}
	return 0, errors.New("passing")
}

func TestReadErrors(t *testing.T) {
	for _, tt := range []struct {
		left int
		err  error
		took time.Duration
	}{
		{10, net.ErrClosed, 10 * readErrPause},
		{1 << 30, nil, readErrors * readErrPause},
	} {
		synctest.Test(t, func(t *testing.T) {
			tr, err := New(Config{Local: host1, Deliver: ignore, Sockets: []PacketConn{&failing{left: tt.left, err: tt.err}}})
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err = tr.Run(t.Context())
			if err == nil || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("Run = %v, want %v", err, tt.err)
			}
			if took := time.Since(start); took != tt.took {
				t.Errorf("Run took %v, want %v", took, tt.took)
			}
		})
	}
}

// Two ends that moved and moved back while they did not hear each other find
// together where they were first.
func TestBothEndsStrayAndReturn(t *testing.T) {
	b := newBench(t)
	p := b.path(77, nil, true)
	p.session.Native = true
	b.feed(farAddr, heartbeat(77))
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.established, p.Life.Up = true, false
	if p.home != farAddr {
		t.Fatalf("home = %v, want %v", p.home, farAddr)
	}
	p.addr = thirdAddr
	var o orders
	p.Prober.Hurry()
	p.probeLocked(now, &o)
	if o.probe == nil || o.home != farAddr {
		t.Errorf("a probe to the wrong address alone: %+v", o)
	}
	p.Life.Up = true
	o = orders{}
	p.Prober.Hurry()
	p.probeLocked(now, &o)
	if o.home.IsValid() {
		t.Error("a path that is up probes elsewhere too")
	}
}
