package tcp

import (
	"context"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport/transporttest"
)

// pair is two hosts on a link of 5 ms.
func pair(t *testing.T) (*transporttest.Pair, *node, *node) {
	t.Helper()
	p := transporttest.NewPair(t, factory(nil), transporttest.Options{Sealed: true, Link: transporttest.Link{Latency: 5 * time.Millisecond}, Seed: 1})
	return p, p.A.Transport.(*node), p.B.Transport.(*node)
}

func connOf(s *transporttest.Side) *bound {
	p := s.Path.(*path)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bound
}

// A connection that breaks is replaced at once: the path stays up, and is doubtful
// while it has none.
func TestConnectionBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := pair(t)
		c := p.Connect(t)
		c.Up(t, 3*time.Second)
		time.Sleep(5 * time.Second)
		for i, breaks := range []*transporttest.Side{c.A, c.B} {
			for _, x := range c.Sides() {
				x.States()
			}
			connOf(breaks).conn.Close()
			time.Sleep(time.Second)
			for _, x := range c.Sides() {
				doubted := false
				for _, st := range x.States() {
					if !st.Up {
						t.Errorf("the path went down with its connection: %+v", st)
					}
					doubted = doubted || st.Doubtful
				}
				if st := x.State(); st.Doubtful || st.Handshakes != uint64(i+2) || !doubted {
					t.Errorf("state = %+v, doubted %v; want %d handshakes, doubtful for a time", st, doubted, i+2)
				}
			}
			time.Sleep(5 * time.Second)
		}
		if err := c.A.Path.Send(frame.Packet{Src: p.A.Peer.Name, Dst: p.B.Peer.Name, Frame: frame.Frame{Data: transporttest.Frame(1, 100)}}); err != nil {
			t.Error(err)
		}
		_ = c.A.Path.Flush()
		time.Sleep(time.Second)
		if got := len(p.B.Take()); got != 1 {
			t.Errorf("%d frames arrived over the third connection, want 1", got)
		}
	})
}

// A path outlives its session, and finds a new connection without it.
func TestPathOutlivesSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := pair(t)
		c := p.Connect(t)
		c.Up(t, 3*time.Second)
		time.Sleep(5 * time.Second)
		c.A.Lose()
		c.B.Lose()
		time.Sleep(time.Minute)
		connOf(c.B).conn.Close()
		time.Sleep(time.Second)
		for _, x := range c.Sides() {
			if st := x.State(); !st.Up || st.Handshakes != 2 {
				t.Errorf("state = %+v, want up over a second connection", st)
			}
		}
	})
}

// A neighbour whose control port does not answer, or refuses, is not tried all the
// time.
func TestBackOff(t *testing.T) {
	for _, tt := range []struct {
		name   string
		listen bool
	}{{"refused", false}, {"silent", true}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSolo(t, true)
				count := func() int64 { return s.node.port.dials.Swap(0) }
				if tt.listen {
					l, err := s.a.ListenStream(addrA)
					if err != nil {
						t.Fatal(err)
					}
					defer l.Close()
				}
				time.Sleep(soonFor)
				if n := count(); n < 40 || n > 300 {
					t.Errorf("%d attempts in the first %v", n, soonFor)
				}
				time.Sleep(10 * time.Minute)
				count()
				time.Sleep(time.Hour)
				if n := count(); n < 100 || n > 120 {
					t.Errorf("%d attempts in an hour, want about 110", n)
				}
				if st := s.last(); st.Up || st.Why == "" {
					t.Errorf("state = %+v", st)
				}
				s.stop()
				time.Sleep(time.Second)
			})
		})
	}
}

// A neighbour that keeps the path up and does not read what it is sent costs frames,
// which are counted, and no memory beyond the queue. One that is silent as well loses
// the connection, and the path its memory.
func TestNeighbourThatDoesNotRead(t *testing.T) {
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSolo(t, false)
			n := s.bind(t)
			n.live(t)
			s.up(t)
			if err := s.path.Send(frame.Packet{Src: nameB, Dst: nameA, Frame: frame.Frame{Data: transporttest.Frame(1, 100)}}); err != nil {
				t.Fatal(err)
			}
			n.Close() // what reads goes

			n = s.bind(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if !silent { // it says that it has heard all, and what the path waits for
				go func() {
					for i := uint32(0); ctx.Err() == nil; i++ {
						n.say(t, encap.AppendNativeProbe(nil, encap.NativeQuestion{Heard: 0}))
						time.Sleep(100 * time.Millisecond)
					}
				}()
			}
			const frames = 20_000
			for i := range uint64(frames) {
				_ = s.path.Send(frame.Packet{Src: nameB, Dst: nameA, Frame: frame.Frame{Data: transporttest.Frame(i, 1400)}})
				_ = s.path.Flush()
				if i%10 == 0 {
					time.Sleep(10 * time.Millisecond)
				}
			}
			st, tx := s.last(), s.count.Tx.Stats()
			lost := tx.Drops["queue-full"] + tx.Drops["no-path"]
			if tx.Frames+lost < frames-queueSize/1400-10 || lost < frames*8/10 {
				t.Errorf("%d frames were sent and %d dropped (%v), of %d", tx.Frames, lost, tx.Drops, frames)
			}
			s.path.tx.mu.Lock()
			held := len(s.path.tx.queue.arena)
			s.path.tx.mu.Unlock()
			switch {
			case silent && (st.Up || held > 0 || connected(s.path)):
				t.Errorf("a silent neighbour has a connection with %d bytes of queue: %+v", held, st)
			case !silent && (!st.Up || held != queueSize):
				t.Errorf("the path with %d bytes of queue is %+v, want up", held, st)
			}
			cancel()
			time.Sleep(time.Second)
		})
	}
}

func connected(p *path) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connectedLocked()
}

// A connection that ends in the middle of a record costs that frame, no more.
func TestCloseMidRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSolo(t, false)
		for _, cut := range []int{1, 3, 4, 20, 600} {
			n := s.bind(t)
			n.live(t)
			s.up(t)
			n.say(t, item(1, 1000))
			n.begin(t, item(2, 1000), cut)
			time.Sleep(50 * time.Millisecond) // a reset would throw away what arrived
			n.Close()
			time.Sleep(time.Second)
			if got := s.take(); len(got) != 1 {
				t.Errorf("cut after %d bytes: %d frames, want the one before", cut, len(got))
			}
			if st := s.last(); !st.Doubtful && st.Up {
				t.Errorf("cut after %d bytes: %+v, want doubtful", cut, st)
			}
		}
		if d := s.count.Rx.Stats().Drops; len(d) != 0 {
			t.Errorf("drops %v, want none", d)
		}
	})
}

// Bytes that were changed, left out or put in on the way end the connection; a new one
// carries on, and nothing that was forged comes out.
func TestTampering(t *testing.T) {
	for name, tamper := range map[string]func(b []byte) []byte{
		"a bit":          func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"a byte less":    func(b []byte) []byte { return b[1:] },
		"a byte more":    func(b []byte) []byte { return append([]byte{0}, b...) },
		"a write twice":  func(b []byte) []byte { return append(b, b...) },
		"a write left":   func([]byte) []byte { return nil },
		"an endless one": func(b []byte) []byte { return append([]byte{0xff, 0xff, 0xff, 0xff}, b...) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, a, _ := pair(t)
				tap := &tampered{}
				a.port.wrap = func(c net.Conn) net.Conn { return &tamperedConn{c, tap} }
				c := p.Connect(t)
				c.Up(t, 3*time.Second)
				time.Sleep(5 * time.Second)
				tap.once(tamper)
				send := func(i uint64) {
					_ = c.A.Path.Send(frame.Packet{Src: p.A.Peer.Name, Dst: p.B.Peer.Name, Frame: frame.Frame{Data: transporttest.Frame(i, 300)}})
					_ = c.A.Path.Flush()
				}
				send(1)
				time.Sleep(4 * time.Second)
				send(2)
				time.Sleep(time.Second)
				for _, pk := range p.B.Take() {
					if want := transporttest.Frame(uint64(pk.Frame.Data[frame.HeaderLen+7]), 300); string(pk.Frame.Data) != string(want) {
						t.Errorf("a frame came out changed: %x", pk.Frame.Data)
					}
				}
				for _, x := range c.Sides() {
					if st := x.State(); !st.Up || st.Handshakes != 2 {
						t.Errorf("state = %+v, want up over a second connection", st)
					}
				}
			})
		})
	}
}

// tampered changes a write of a connection once.
type tampered struct {
	mu     sync.Mutex // guards change
	change func([]byte) []byte
}

func (x *tampered) once(f func([]byte) []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.change = f
}

type tamperedConn struct {
	net.Conn
	by *tampered
}

func (c *tamperedConn) Write(b []byte) (int, error) {
	c.by.mu.Lock()
	f := c.by.change
	c.by.change = nil
	c.by.mu.Unlock()
	if f == nil {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(f(append([]byte(nil), b...))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// A neighbour that connects again and again has one connection in the path.
func TestConnectionsOfOnePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSolo(t, false)
		var all []*neighbour
		for range 50 {
			all = append(all, s.bind(t))
		}
		time.Sleep(time.Second)
		for i, n := range all {
			n.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := io.ReadAll(n)
			if ended := err == nil || !strings.Contains(err.Error(), "timeout"); ended != (i < len(all)-1) {
				t.Errorf("connection %d of %d: ended %v, %v", i+1, len(all), ended, err)
			}
		}
		s.stop()
		<-s.ended
		time.Sleep(time.Second)
		if n := runtime.NumGoroutine(); n > 60 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// Keys change under a running connection.
func TestRekeying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, _ := pair(t)
		c := p.Connect(t)
		c.Up(t, 3*time.Second)
		time.Sleep(10*rekeyAfter + rekeyAfter/2)
		for _, x := range c.Sides() {
			if st := x.State(); !st.Up || st.Handshakes != 1 || st.Rekeys != 20 {
				t.Errorf("state = %+v, want up over one connection with 10 changes of keys each way", st)
			}
		}
	})
}
