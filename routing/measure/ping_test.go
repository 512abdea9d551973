package measure

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
)

const carol = frame.PeerName(0x02_00_00_00_00_03)

// pinged is what a series of pings reported, and when.
type pinged struct {
	tries []Try
	at    []time.Duration
}

func (p *pinged) outcomes() (out []Outcome) {
	for _, t := range p.tries {
		out = append(out, t.Outcome)
	}
	return out
}

func (p *pinged) count(o Outcome) (n int) {
	for _, t := range p.tries {
		if t.Outcome == o {
			n++
		}
	}
	return n
}

var everySecond = PingOptions{Count: 3, Interval: time.Second, Timeout: 2 * time.Second, Size: 56}

// ping pings bob from alice.
func (n *net) ping(t *testing.T, o PingOptions) *pinged {
	t.Helper()
	p, begun := new(pinged), time.Now()
	err := n.a.Ping(t.Context(), bob, o, func(try Try) {
		p.tries = append(p.tries, try)
		p.at = append(p.at, time.Since(begun))
	})
	if err != nil {
		t.Fatal(err)
	}
	n.settle()
	if len(n.a.pings) != 0 {
		t.Error("the meter still knows of the pings")
	}
	return p
}

// wantOutcomes checks the outcomes of all tries; the sequence numbers are 1, 2, 3, …
func wantOutcomes(t *testing.T, p *pinged, want ...Outcome) {
	t.Helper()
	if got := p.outcomes(); !slices.Equal(got, want) {
		t.Errorf("outcomes = %q, want %q", got, want)
	}
	for i, try := range p.tries {
		if try.Sequence != i+1 {
			t.Errorf("try %d has sequence number %d", i+1, try.Sequence)
		}
	}
}

func TestPing(t *testing.T) {
	straight, relayed := Hop{Via: bob, Transport: "line"}, Hop{Via: carol, Transport: "punch"}
	for _, tt := range []struct {
		name      string
		out, back *Hop
		wantOut   Hop
		wantBack  Hop
	}{
		{"direct", nil, nil, straight, Hop{Via: alice, Transport: "line"}},
		{"relayed", &relayed, &relayed, relayed, relayed},
		{"relayed back only", nil, &relayed, straight, relayed},
		{"relayed out only", &relayed, nil, relayed, Hop{Via: alice, Transport: "line"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNet(t, &way{delay: 5 * time.Millisecond, hop: tt.out}, &way{delay: 7 * time.Millisecond, hop: tt.back})
				p := n.ping(t, everySecond)
				wantOutcomes(t, p, Answered, Answered, Answered)
				for i, try := range p.tries {
					if try.RTT != 12*time.Millisecond || try.Out != tt.wantOut || try.Back != tt.wantBack {
						t.Errorf("try = %+v, want 12ms, out %+v, back %+v", try, tt.wantOut, tt.wantBack)
					}
					// The first one has to open the session, which takes 2 ms.
					if first := time.Duration(i) * time.Second; p.at[i]-first < 12*time.Millisecond || p.at[i]-first > 14*time.Millisecond {
						t.Errorf("answer %d came after %v", i+1, p.at[i])
					}
				}
				if last := n.told[len(n.told)-1]; last.verb != verbClose || len(n.b.answerer.sessions) != 0 {
					t.Errorf("the last that bob was told is %+v, and %d sessions are left", last, len(n.b.answerer.sessions))
				}
			})
		})
	}
}

// Echoes have the size that was asked for, there and back.
func TestPingSize(t *testing.T) {
	for size, want := range map[int]int{0: MinFrame, 54: MinFrame, 56: 70, 1376: 1390} {
		synctest.Test(t, func(t *testing.T) {
			n := newNet(t, &way{}, &way{})
			var sizes []int
			for _, w := range []*way{n.ab, n.ba} {
				real := w.take
				w.take = func(p frame.Packet) bool { sizes = append(sizes, len(p.Frame.Data)); return real(p) }
			}
			n.ping(t, PingOptions{Count: 1, Timeout: time.Second, Size: size})
			if !slices.Equal(sizes, []int{want, want}) {
				t.Errorf("with size %d frames have %d bytes, want %d both ways", size, sizes, want)
			}
		})
	}
}

func TestPingOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{lose: func(n int) bool { return n == 2 }}, &way{})
		p := n.ping(t, PingOptions{Count: 3, Interval: 3 * time.Second, Timeout: 2 * time.Second})
		wantOutcomes(t, p, Answered, Lost, Answered)
		if lost := p.tries[1]; lost.Out.Via != bob || lost.RTT != 0 || p.at[1] != 5*time.Second {
			t.Errorf("lost try = %+v after %v, want it given up after 2s", lost, p.at[1])
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{mtu: 1000}, &way{})
		p := n.ping(t, PingOptions{Count: 1, Timeout: time.Second, Size: 1001})
		wantOutcomes(t, p, TooBig)
		if p.tries[0].MTU != 1000 {
			t.Errorf("try = %+v, want the path's MTU", p.tries[0])
		}
	})
	synctest.Test(t, func(t *testing.T) { // the route is gone for a while, or between two looks
		n := newNet(t, &way{hop: &Hop{}}, &way{})
		time.AfterFunc(1500*time.Millisecond, func() { n.ab.set(nil) })
		p := n.ping(t, everySecond)
		wantOutcomes(t, p, NoRoute, NoRoute, Answered)
		if p.at[0] != 0 || n.ab.n != 1 {
			t.Errorf("no route was told after %v, %d frames were sent", p.at[0], n.ab.n)
		}
		n.a.cfg.Way = func(dst frame.PeerName) (Hop, func([]frame.Packet) (int, error)) {
			return Hop{Via: dst}, func([]frame.Packet) (int, error) { return 0, routing.ErrNoRoute }
		}
		wantOutcomes(t, n.ping(t, everySecond), NoRoute, NoRoute, NoRoute)
	})
}

// No frame goes to a peer that has not agreed: it may be a stock router.
func TestPingOfAPeerThatDoesNotAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{}, &way{})
		n.b.cfg.Tell = func(frame.PeerName, []byte) error { return nil }
		wantOutcomes(t, n.ping(t, everySecond), Silent, Silent, Silent)
		n.tell = func(frame.PeerName, []byte) error { return errors.New("cut off") }
		wantOutcomes(t, n.ping(t, everySecond), Silent, Silent, Silent)
		if n.ab.n > 0 {
			t.Errorf("%d frames were sent", n.ab.n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{}, &way{})
		for i := range uint64(maxPings) {
			n.b.answerer.sessions[i] = newSession(frame.PeerName(100+i), toPing, time.Now().Add(2500*time.Millisecond))
		}
		p := n.ping(t, PingOptions{Count: 3, Interval: time.Second, Timeout: time.Second})
		if p.outcomes()[0] != Refused || p.outcomes()[2] != Answered {
			t.Errorf("outcomes = %q, want refused until the others' sessions are over", p.outcomes())
		}
	})
}

// A peer that was restarted knows nothing of our session.
func TestPingOfAPeerThatIsRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{delay: time.Millisecond}, &way{delay: time.Millisecond})
		time.AfterFunc(1500*time.Millisecond, func() {
			n.b.answerer.mu.Lock()
			defer n.b.answerer.mu.Unlock()
			clear(n.b.answerer.sessions)
		})
		p := n.ping(t, PingOptions{Count: 5, Interval: time.Second, Timeout: 900 * time.Millisecond})
		wantOutcomes(t, p, Answered, Answered, Lost, Answered, Answered)
	})
}

// While control connections stall, echoes go on in a session that was agreed on.
func TestPingWhileTheControlPlaneStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{lose: func(n int) bool { return n == 4 }}, &way{})
		tell := n.tell
		n.tell = func(dst frame.PeerName, msg []byte) error {
			if d := time.Since(synctestStart); d > 2*time.Second && d < 12*time.Second {
				return routing.ErrNoRoute
			}
			return tell(dst, msg)
		}
		p := n.ping(t, PingOptions{Count: 20, Interval: time.Second, Timeout: 900 * time.Millisecond})
		if got := p.count(Answered); got != 19 {
			t.Errorf("%d answers, want 19: %q", got, p.outcomes())
		}
	})
}

// synctestStart is when time begins in a bubble.
var synctestStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Pings go on beyond what a session lives, at any interval, whatever the round-trip
// time, also with peers of old, which prolong no session and tell no way.
func TestPingForLong(t *testing.T) {
	for _, tt := range []struct {
		name     string
		old      bool
		interval time.Duration
		delay    time.Duration
		count    int
	}{
		{"", false, time.Second, 20 * time.Millisecond, 300},
		{"far", false, 200 * time.Millisecond, 300 * time.Millisecond, 1000},
		{"seldom", false, 90 * time.Second, 20 * time.Millisecond, 10},
		{"about as often as sessions end", false, 61 * time.Second, 20 * time.Millisecond, 10},
		{"old", true, time.Second, 20 * time.Millisecond, 300},
		{"old, seldom", true, 31 * time.Second, 20 * time.Millisecond, 20},
		{"old, very seldom", true, 90 * time.Second, 20 * time.Millisecond, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNet(t, &way{delay: tt.delay}, &way{delay: tt.delay})
				if tt.old {
					n.age()
				}
				p := n.ping(t, PingOptions{Count: tt.count, Interval: tt.interval, Timeout: 2 * time.Second})
				if got := p.count(Answered); got != tt.count {
					t.Errorf("%d of %d were answered", got, tt.count)
				}
				for _, try := range p.tries {
					if (try.Back != Hop{}) == tt.old {
						t.Fatalf("try = %+v", try)
					}
				}
				if most := 2 + tt.count*int(tt.interval/time.Second+1)/40*2; tt.interval < time.Minute && len(n.told) > most {
					t.Errorf("bob was told %d things, want at most %d", len(n.told), most)
				}
			})
		})
	}
}

// age makes bob a peer that knows nothing of pings.
func (n *net) age() {
	tell := n.tell
	n.tell = func(dst frame.PeerName, msg []byte) error { return tell(dst, msg[:min(len(msg), offerLen)]) }
	take := n.ba.take
	n.ba.take = func(p frame.Packet) bool {
		p.Frame.Data = p.Frame.Data[:MinFrame]
		clear(p.Frame.Data[offBody:])
		return take(p)
	}
}

func TestPingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{}, &way{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- n.a.Ping(ctx, bob, PingOptions{Interval: time.Second, Timeout: time.Second}, func(Try) {})
		}()
		time.Sleep(10500 * time.Millisecond)
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Ping = %v, want it cancelled", err)
		}
		n.settle()
		if sent := n.ab.n; sent != 11 || len(n.a.pings) != 0 || len(n.b.answerer.sessions) != 0 {
			t.Errorf("%d echoes, %d pings and %d sessions are left", sent, len(n.a.pings), len(n.b.answerer.sessions))
		}
	})
}

func TestPingsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{rate: 3000, queue: 5 * time.Millisecond}, &way{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, maxRunningPings)
		answered := make([]int, maxRunningPings)
		for i := range maxRunningPings {
			time.Sleep(200 * time.Millisecond) // offers are limited
			go func() {
				ended <- n.a.Ping(ctx, bob, PingOptions{Timeout: time.Second}, func(try Try) {
					if try.Outcome == Answered {
						answered[i]++
					}
				})
			}()
		}
		time.Sleep(10 * time.Second)
		if err := n.a.Ping(ctx, bob, everySecond, func(Try) {}); !errors.Is(err, ErrTooManyPings) {
			t.Errorf("one more Ping = %v, want ErrTooManyPings", err)
		}
		// A measurement beside them has a session all the same.
		if _, err := n.a.Measure(ctx, bob, Options{Time: time.Second, MTU: 1376}); err != nil {
			t.Error(err)
		}
		cancel()
		for range maxRunningPings {
			<-ended
		}
		if least := slices.Min(answered); least < 45 {
			t.Errorf("answers = %d, want 45 each at least", answered)
		}
	})
}

// Answers that are late, doubled, made up or of another session do not count.
func TestPongsThatDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t, &way{delay: time.Millisecond}, &way{delay: time.Millisecond})
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
			forge(carol, func(f *message) {})
			forge(bob, func(f *message) { f.sequence++ })
			forge(bob, func(f *message) { f.sequence = 0 })
			forge(bob, func(f *message) { f.kind = kindReport })
			time.AfterFunc(1500*time.Millisecond, func() { real(p) })
			return m.sequence == 2 || real(p)
		}
		p := n.ping(t, PingOptions{Count: 3, Interval: time.Second, Timeout: 800 * time.Millisecond})
		wantOutcomes(t, p, Answered, Lost, Answered)
	})
}
