package signal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/internal/identity"
)

// net is a gossip channel that connects all its nodes, after a delay, and loses what
// lose says.
type net struct {
	delay time.Duration
	lose  func(from, to frame.PeerName, payload []byte) bool

	mu    sync.Mutex
	nodes map[frame.PeerName]*node
	seen  [][]byte // all that was sent
}

// node is a peer on a net.
type node struct {
	*Channel
	name    frame.PeerName
	answer  func(from Peer, payload []byte) []byte
	mu      sync.Mutex
	known   []Peer
	notices []string
}

func (n *net) send(from, to frame.PeerName, payload []byte) {
	n.mu.Lock()
	n.seen = append(n.seen, payload)
	dst := n.nodes[to]
	n.mu.Unlock()
	if dst == nil || n.lose != nil && n.lose(from, to, payload) {
		return
	}
	time.AfterFunc(n.delay, func() { dst.Told(from, slices.Clone(payload)) })
}

// join adds a node that knows the passwords. check may be nil.
func (n *net) join(t *testing.T, name frame.PeerName, check func(frame.PeerName, *identity.Key) error, keys ...*[32]byte) *node {
	t.Helper()
	id, err := identity.New()
	if err != nil {
		t.Fatal(err)
	}
	x := &node{name: name}
	if check == nil {
		check = func(frame.PeerName, *identity.Key) error { return nil }
	}
	x.Channel, err = New(Config{
		Self: name, UID: uint64(name) + 1000, Identity: id, Check: check,
		Unicast: func(dst frame.PeerName, p []byte) error { n.send(name, dst, p); return nil },
		Broadcast: func(p []byte) error {
			n.mu.Lock()
			var all []frame.PeerName
			for to := range n.nodes {
				all = append(all, to)
			}
			n.mu.Unlock()
			for _, to := range all {
				if to != name {
					n.send(name, to, p)
				}
			}
			return nil
		},
		Answer: func(_ context.Context, from Peer, p []byte, reply func([]byte)) {
			if x.answer == nil {
				reply(append([]byte("re: "), p...))
			} else if b := x.answer(from, p); b != nil {
				reply(b)
			}
		},
		Notice: func(_ Peer, p []byte) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.notices = append(x.notices, string(p))
		},
		Known: func(p Peer) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.known = append(x.known, p)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Set(Ports{6785, 6786}, keys)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes == nil {
		n.nodes = map[frame.PeerName]*node{}
	}
	n.nodes[name] = x
	return x
}

// heard are the notices that came.
func (x *node) heard() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.notices)
}

// run tells all nodes of each other and runs them for the test.
func (n *net) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for name, x := range n.nodes {
		uids := map[frame.PeerName]uint64{}
		for other := range n.nodes {
			if other != name {
				uids[other] = uint64(other) + 1000
			}
		}
		x.Members(time.Now(), uids)
		wg.Go(func() { _ = x.Run(ctx) })
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func TestRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &net{delay: 30 * time.Millisecond}
		a, b := n.join(t, 1, nil), n.join(t, 2, nil)
		n.run(t)
		time.Sleep(time.Second)
		p, ok := a.Find(2)
		q, there := b.Find(1)
		if !ok || !there || p.Secret != q.Secret || p.Ports != (Ports{6785, 6786}) || p.UID != 1002 {
			t.Fatalf("a knows %+v, b knows %+v", p, q)
		}
		reply, rtt, err := a.Request(t.Context(), 2, []byte("hello"))
		if err != nil || string(reply) != "re: hello" || rtt != 60*time.Millisecond {
			t.Errorf("Request = %q after %v, %v", reply, rtt, err)
		}
		if err := b.Notify(1, []byte("news")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if !slices.Equal(a.heard(), []string{"news"}) {
			t.Errorf("notices: %q", a.heard())
		}
		for _, sent := range n.seen {
			if bytes.Contains(sent, []byte("hello")) || bytes.Contains(sent, []byte("news")) {
				t.Errorf("in the clear: %q", sent)
			}
		}
	})
}

// TestLoss loses half of all messages: each request is answered, and handled once.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		dice := rand.New(rand.NewPCG(1, 2))
		n := &net{delay: 10 * time.Millisecond, lose: func(_, _ frame.PeerName, _ []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return dice.IntN(2) == 0
		}}
		a, b := n.join(t, 1, nil), n.join(t, 2, nil)
		handled := 0
		b.answer = func(Peer, []byte) []byte { handled++; return []byte{1} }
		n.run(t)
		time.Sleep(10 * time.Second)
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, _, err := a.Request(ctx, 2, []byte("x")); err != nil {
				t.Error(err)
			}
			cancel()
		}
		if handled != 5 {
			t.Errorf("%d requests handled, want 5", handled)
		}
	})
}

func TestUnknownAndSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &net{}
		a, b := n.join(t, 1, nil), n.join(t, 2, nil)
		b.answer = func(Peer, []byte) []byte { return nil }
		n.run(t)
		if _, _, err := a.Request(t.Context(), 7, nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("to nobody: %v", err)
		}
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := a.Request(ctx, 2, nil); !errors.Is(err, ErrSilent) {
			t.Errorf("to one that says nothing: %v", err)
		}
		if err := a.Notify(2, make([]byte, MaxPayload+1)); err == nil {
			t.Error("a message that is too long was sent")
		}
	})
}

// TestPasswords: peers find each other if they have a password in common, in
// whatever order they have it, and else not.
func TestPasswords(t *testing.T) {
	x, y, z := &[32]byte{1}, &[32]byte{2}, &[32]byte{3}
	tests := []struct {
		a, b []*[32]byte
		meet bool
	}{
		{nil, nil, true},
		{[]*[32]byte{x}, []*[32]byte{x}, true},
		{[]*[32]byte{x, y}, []*[32]byte{y}, true},
		{[]*[32]byte{x, y}, []*[32]byte{y, x}, true},
		{[]*[32]byte{x, y}, []*[32]byte{z, y}, true},
		{[]*[32]byte{x}, []*[32]byte{y}, false},
		{[]*[32]byte{x}, nil, false},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &net{}
				a, b := n.join(t, 1, nil, tt.a...), n.join(t, 2, nil, tt.b...)
				n.run(t)
				time.Sleep(3 * time.Second)
				_, ab := a.Find(2)
				_, ba := b.Find(1)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				_, _, err := a.Request(ctx, 2, []byte("x"))
				if (ab && ba) != tt.meet || (err == nil) != tt.meet {
					t.Errorf("found %v and %v, request: %v; want %v", ab, ba, err, tt.meet)
				}
			})
		})
	}
}

// TestRotation changes the password of a running mesh in three steps.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := &[32]byte{1}, &[32]byte{2}
		n := &net{}
		a, b := n.join(t, 1, nil, x), n.join(t, 2, nil, x)
		n.run(t)
		ports := Ports{6785, 6786}
		for step, set := range []func(){
			func() {}, func() { a.Set(ports, []*[32]byte{x, y}) }, func() { b.Set(ports, []*[32]byte{y}) }, func() { a.Set(ports, []*[32]byte{y}) },
		} {
			set()
			time.Sleep(3 * time.Second)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			if _, _, err := a.Request(ctx, 2, []byte("x")); err != nil {
				t.Errorf("step %d: %v", step, err)
			}
			cancel()
		}
	})
}

// TestRefused: what is not trusted, of another incarnation, changed or sent again
// changes nothing and is counted.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &net{}
		a := n.join(t, 1, func(name frame.PeerName, _ *identity.Key) error {
			if name == 3 {
				return errors.New("pinned to another key")
			}
			return nil
		})
		b, c := n.join(t, 2, nil), n.join(t, 3, nil)
		n.run(t)
		time.Sleep(time.Second)
		if _, ok := a.Find(3); ok {
			t.Error("a peer that is not trusted was taken")
		}
		if got := a.Counts(); got.Refused == 0 {
			t.Errorf("%+v: no refusal counted", got)
		}

		// c says that it is b: with its own key, and with b's announcement changed.
		before, _ := a.Find(2)
		forged := appendAnnouncement(kindAnnounce, 3, announcement{uid: 1002, identity: c.cfg.Identity.Public(), ports: Ports{1, 1}}, nil, c.cfg.Identity)
		a.Told(2, forged)
		changed := slices.Clone(b.ours[0])
		changed[offPort] ^= 1
		a.Told(2, changed)
		other := appendAnnouncement(kindAnnounce, 2, announcement{uid: 7, key: before.Secret, identity: b.cfg.Identity.Public()}, nil, b.cfg.Identity)
		a.Told(2, other) // an earlier run's
		if after, _ := a.Find(2); after != before {
			t.Errorf("b is %+v now, was %+v", after, before)
		}
		if got := a.Counts(); got.Forged != 2 || got.Refused < 2 {
			t.Errorf("%+v: want 2 forged", got)
		}

		// A message that comes again, and one that was changed.
		_ = b.Notify(1, []byte("once"))
		last := n.seen[len(n.seen)-1]
		time.Sleep(time.Second)
		a.Told(2, last)
		changed = slices.Clone(last)
		changed[len(changed)-1] ^= 1
		a.Told(2, changed)
		a.Told(3, last)
		time.Sleep(time.Second)
		if got := a.Counts(); got.Replayed != 1 || got.Forged != 3 || len(a.heard()) != 1 {
			t.Errorf("%+v, notices %q", got, a.heard())
		}
	})
}

// TestFlood: one member's 10,000 messages a second neither fill a table nor keep
// another's from being heard.
func TestFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &net{}
		a, b, c := n.join(t, 1, nil), n.join(t, 2, nil), n.join(t, 3, nil)
		n.run(t)
		time.Sleep(time.Second)
		for range 10 {
			for range 1000 {
				_ = c.Notify(1, []byte("spam"))
				a.Told(4, c.ours[0])
				a.Told(2, c.ours[0])
			}
			time.Sleep(100 * time.Millisecond)
		}
		if _, _, err := b.Request(t.Context(), 1, []byte("x")); err != nil {
			t.Error(err)
		}
		if got := a.Counts(); got.Forged+got.Excess+got.Replayed < 19000 || got.Refused < 10000 {
			t.Errorf("%+v", got)
		}
		if len(a.heard()) > 200 || len(a.members) != 2 {
			t.Errorf("%d notices taken, %d members", len(a.heard()), len(a.members))
		}
	})
}

func TestWindow(t *testing.T) {
	var w window
	for i, tt := range []struct {
		counter uint64
		fresh   bool
	}{{1, true}, {1, false}, {3, true}, {2, true}, {2, false}, {100, true}, {37, true}, {36, false}, {99, true}, {3, false}, {1 << 40, true}, {100, false}} {
		if got := w.take(tt.counter); got != tt.fresh {
			t.Errorf("step %d: take(%d) = %v", i, tt.counter, got)
		}
	}
}

func FuzzTold(f *testing.F) {
	id, err := identity.New()
	if err != nil {
		f.Fatal(err)
	}
	a := announcement{uid: 5, identity: id.Public()}
	f.Add(appendAnnouncement(kindAnnounce, 2, a, []*[32]byte{{1}}, id))
	f.Add([]byte{version, byte(kindSealed), 0, 0, 0, 0, 0, 0, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := parseAnnouncement(2, b, []*[32]byte{{1}})
		if err == nil && got.uid != 5 {
			t.Fatalf("a forged announcement was taken: %+v", got)
		}
		c, err := New(Config{Self: 1, Identity: id, Check: func(frame.PeerName, *identity.Key) error { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		c.Members(time.Now(), map[frame.PeerName]uint64{2: 0})
		c.Told(2, b)
	})
}
