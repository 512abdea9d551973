package measure

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

const (
	alice = frame.PeerName(0x02_00_00_00_00_01)
	bob   = frame.PeerName(0x01_00_00_00_00_02) // as a MAC a group address
)

// way is one direction between two meters: a queue in front of a line.
type way struct {
	rate  float64       // frames of 1390 bytes per second; 0: any
	queue time.Duration // what it may take to empty the queue; more is dropped
	delay time.Duration // of the line
	lose  func(n int) bool
	mtu   int  // larger frames are refused; 0: none
	hop   *Hop // the first one; nil: to whom a packet is for
	take  func(frame.Packet) bool

	mu    sync.Mutex
	busy  time.Time // the line is, until then
	n     int
	asked int // calls of send
}

// send is Config.Send.
func (w *way) send(packets []frame.Packet) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	now := time.Now()
	for _, p := range packets {
		if w.mtu > 0 && len(p.Frame.Data) > w.mtu+frame.HeaderLen {
			err = &transport.TooBigError{MTU: w.mtu}
			continue
		}
		n++
		w.n++
		if w.busy.Before(now) {
			w.busy = now
		}
		if w.lose != nil && w.lose(w.n) || w.busy.Sub(now) > w.queue {
			continue
		}
		if w.rate > 0 {
			w.busy = w.busy.Add(time.Duration(float64(time.Second) / w.rate * float64(len(p.Frame.Data)) / 1390))
		}
		p.Frame.Data = slices.Clone(p.Frame.Data)
		// The race detector of Go 1.26 crashes on timers of a bubble that are due at once.
		time.AfterFunc(max(w.busy.Sub(now)+w.delay, 1), func() { w.take(p) })
	}
	return n, err
}

// find is Config.Way: a straight one, unless another hop was set.
func (w *way) find(dst frame.PeerName) (Hop, func([]frame.Packet) (int, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hop != nil {
		return *w.hop, w.send
	}
	return Hop{Via: dst, Transport: "line"}, w.send
}

// set changes the hop.
func (w *way) set(h *Hop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hop = h
}

// net is alice and bob, and the ways between them.
type net struct {
	a, b   *Meter
	ab, ba *way
	tell   func(dst frame.PeerName, msg []byte) error

	mu   sync.Mutex // guards below
	told []offer    // what bob was told
	last time.Time  // when the last that was told arrives
}

func newNet(t *testing.T, ab, ba *way) *net {
	t.Helper()
	n := &net{ab: ab, ba: ba}
	n.tell = func(dst frame.PeerName, msg []byte) error {
		msg = slices.Clone(msg)
		time.AfterFunc(n.inOrder(time.Millisecond), func() {
			if dst == alice {
				n.a.Told(bob, msg)
				return
			}
			o, err := parseOffer(msg)
			if err != nil {
				t.Errorf("bob was told %x", msg)
			}
			n.mu.Lock()
			n.told = append(n.told, o)
			n.mu.Unlock()
			n.b.Told(alice, msg)
		})
		return nil
	}
	tell := func(dst frame.PeerName, msg []byte) error { return n.tell(dst, msg) }
	n.a = New(Config{Self: alice, Send: ab.send, Way: ab.find, Tell: tell})
	n.b = New(Config{Self: bob, Send: ba.send, Way: ba.find, Tell: tell})
	ab.take = func(p frame.Packet) bool { return n.b.Take(p) }
	ba.take = func(p frame.Packet) bool { return n.a.Take(p) }
	return n
}

// inOrder is a delay of d, or a little more: what is told arrives in order.
func (n *net) inOrder(d time.Duration) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := time.Now().Add(d)
	if !at.After(n.last) {
		at = n.last.Add(time.Nanosecond)
	}
	n.last = at
	return time.Until(at)
}

func (n *net) measure(t *testing.T, d time.Duration) Result {
	t.Helper()
	begun := time.Now()
	res, err := n.a.Measure(t.Context(), bob, Options{Time: d, MTU: 1376})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > d+overtime {
		t.Errorf("took %v, want %v at most", took, d+overtime)
	}
	n.settle()
	return res
}

// settle lets what is under way arrive.
func (n *net) settle() {
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
}

// within checks a figure of the bubble's time, which no load of the machine
// changes.
func within(t *testing.T, what string, got, least, most float64) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s = %g, want %g to %g", what, got, least, most)
	}
}

func TestMeasureFindsTheCapacity(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rate  float64
		queue time.Duration
		delay time.Duration
		time  time.Duration
	}{
		{"fast and near", 30_000, 2 * time.Millisecond, 100 * time.Microsecond, 5 * time.Second},
		{"slow and far", 300, 50 * time.Millisecond, 40 * time.Millisecond, 5 * time.Second},
		{"very slow", 30, 200 * time.Millisecond, time.Millisecond, 20 * time.Second},
		{"long queue", 3000, 500 * time.Millisecond, 5 * time.Millisecond, 5 * time.Second},
		{"satellite", 3000, 50 * time.Millisecond, 300 * time.Millisecond, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNet(t, &way{rate: tt.rate, queue: tt.queue, delay: tt.delay}, &way{delay: tt.delay, queue: time.Second})
				res := n.measure(t, tt.time)
				rtt := 2 * tt.delay
				within(t, "highest", res.Highest.Frames, 0.75*tt.rate, 1.06*tt.rate)
				held := res.Held.Rate()
				within(t, "held", held.Frames, 0.6*tt.rate, 1.01*tt.rate)
				within(t, "loss while held", res.Held.Loss(), 0, 0.06)
				within(t, "idle round trip in ms", ms(res.Idle.P50), ms(rtt), ms(rtt)+1000/tt.rate+1)
				within(t, "loaded round trip in ms", ms(res.Loaded.P99), ms(rtt), ms(rtt+tt.queue)+2000/tt.rate+1)
				if res.FrameBytes != 1390 || int(held.Bits) != int(held.Frames*8*1390) || res.Limit != LimitPath {
					t.Errorf("result = %+v", res)
				}
				if last := n.told[len(n.told)-1]; last.verb != verbClose || len(n.b.answerer.sessions) != 0 {
					t.Errorf("the last that bob was told is %+v, and %d sessions are left", last, len(n.b.answerer.sessions))
				}
			})
		})
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func TestMeasureCountsLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// One frame in 20, whatever the rate: there is no good one.
		luck := rand.New(rand.NewPCG(1, 2))
		n := newNet(t, &way{rate: 3000, lose: func(int) bool { return luck.IntN(20) == 0 }}, &way{})
		res := n.measure(t, 5*time.Second)
		if res.Highest.Frames != 0 || res.Held.Sent == 0 {
			t.Errorf("result = %+v, want no rate with less than 1%% lost", res)
		}
		within(t, "loss", res.Held.Loss(), 0.02, 0.08)
	})
}

// With no limit but the sender's own it is the sender that is named.
func TestMeasureNamesASlowSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &way{}
		n := newNet(t, w, &way{})
		n.a.cfg.Send = func(packets []frame.Packet) (int, error) {
			time.Sleep(time.Duration(len(packets)) * 100 * time.Microsecond)
			return w.send(packets)
		}
		res := n.measure(t, 2*time.Second)
		if res.Limit != LimitSender {
			t.Errorf("limit = %q, want the sender", res.Limit)
		}
		within(t, "highest", res.Highest.Frames, 7000, 10_500)
	})
}

func TestMeasureShrinksFramesThatAreTooBig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{mtu: 1000, rate: 1000, queue: 5 * time.Millisecond}, &way{})
		res := n.measure(t, time.Second)
		if res.FrameBytes != 1014 {
			t.Errorf("frames have %d bytes, want 1014", res.FrameBytes)
		}
		within(t, "highest", res.Highest.Frames, 1000, 1060*1.39) // the line counts bytes
	})
}

// A way that dies in the middle ends the measurement in time, with what was lost.
func TestMeasureOnAWayThatDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := time.Now().Add(3 * time.Second)
		n := newNet(t, &way{rate: 1000, queue: 5 * time.Millisecond, lose: func(int) bool { return time.Now().After(dead) }}, &way{})
		res := n.measure(t, 5*time.Second)
		within(t, "loss", res.Held.Loss(), 0.2, 0.9)
	})
}

func TestMeasureErrors(t *testing.T) {
	never := func(int) bool { return true }
	errCut := errors.New("cut off")
	for _, tt := range []struct {
		name    string
		prepare func(n *net)
		want    error
	}{
		{"not meshd", func(n *net) { n.b.cfg.Tell = func(frame.PeerName, []byte) error { return nil } }, ErrSilent},
		{"no route for messages", func(n *net) { n.tell = func(frame.PeerName, []byte) error { return errCut } }, errCut},
		{"no frames there", func(n *net) { n.ab.lose = never }, ErrNoFrames},
		{"no frames back", func(n *net) { n.ba.lose = never }, ErrNoFrames},
		{"measured by too many", func(n *net) {
			for i := range maxSessions {
				n.b.Told(frame.PeerName(100+i), offer{verb: verbOffer, session: uint64(i), argument: 60_000}.append(nil))
			}
		}, ErrPeerBusy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNet(t, &way{}, &way{})
				tt.prepare(n)
				begun := time.Now()
				_, err := n.a.Measure(t.Context(), bob, Options{Time: time.Second, MTU: 1376})
				if !errors.Is(err, tt.want) || time.Since(begun) > 3*time.Second {
					t.Errorf("Measure = %v after %v, want %v", err, time.Since(begun), tt.want)
				}
				n.settle()
				if sent := n.ab.n; tt.want != ErrNoFrames && sent > 0 {
					t.Errorf("%d frames were sent to a peer that did not accept", sent)
				}
			})
		})
	}
}

func TestMeasureOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{rate: 1000, queue: time.Second}, &way{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := n.a.Measure(ctx, bob, Options{Time: time.Minute, MTU: 1376})
			ended <- err
		}()
		time.Sleep(time.Second)
		if _, err := n.a.Measure(t.Context(), bob, Options{Time: time.Second}); !errors.Is(err, ErrBusy) {
			t.Errorf("a second Measure = %v, want ErrBusy", err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Measure = %v, want it cancelled", err)
		}
		n.settle()
		sent := n.ab.n
		time.Sleep(time.Second)
		synctest.Wait()
		if n.ab.n != sent || len(n.b.answerer.sessions) != 0 {
			t.Errorf("%d frames sent after the end, %d sessions left", n.ab.n-sent, len(n.b.answerer.sessions))
		}
		if n.a.run.Load() != nil {
			t.Error("the meter still knows of the measurement")
		}
	})
}

// Replies that are late, doubled, made up or of another session do not count.
func TestRepliesThatDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{rate: 5000, queue: time.Millisecond, delay: time.Millisecond}, &way{delay: time.Millisecond})
		real := n.ba.take
		n.ba.take = func(p frame.Packet) bool {
			m, err := parse(p.Frame.Data)
			if err != nil {
				t.Errorf("alice got %x", p.Frame.Data)
			}
			forge := func(src frame.PeerName, change func(*message)) {
				f := m
				change(&f)
				q := newPacket(src, alice, MinFrame)
				f.put(q.Frame.Data)
				n.a.Take(q)
			}
			forge(bob, func(f *message) { f.session++ })
			forge(alice, func(f *message) {})
			forge(bob, func(f *message) { f.sequence += 5000 })
			forge(bob, func(f *message) { f.round += 1 << 30; f.tally.frames = 1 << 60 })
			real(p)
			return real(p)
		}
		res := n.measure(t, time.Second)
		if res.Idle.Received != res.Idle.Sent || res.Idle.P99.Round(time.Millisecond) != 2*time.Millisecond {
			t.Errorf("idle = %+v, want each echo once", res.Idle)
		}
		if res.Held.Received > res.Held.Sent {
			t.Errorf("held = %+v: more arrived than was sent", res.Held)
		}
	})
}
