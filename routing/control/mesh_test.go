package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/transport"
)

// air is a transport in memory: a path is up while the path of the same session
// runs at the other end and the two are not cut off from each other.
type air struct {
	mu    sync.Mutex
	paths map[airKey]*airPath
	cut   map[[2]frame.PeerName]bool
}

type airKey struct {
	local   frame.PeerName
	session uint64
}

func newAir() *air {
	return &air{paths: map[airKey]*airPath{}, cut: map[[2]frame.PeerName]bool{}}
}

func (a *air) setCut(x, y frame.PeerName, cut bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cut[[2]frame.PeerName{x, y}], a.cut[[2]frame.PeerName{y, x}] = cut, cut
}

// airTransport is one host's end of an air.
type airTransport struct {
	air     *air
	deliver frame.Handler
}

func (t *airTransport) Name() string                  { return SleeveOverlay }
func (t *airTransport) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (t *airTransport) Open(s transport.Session) (transport.Path, error) {
	return &airPath{air: t.air, session: s, deliver: t.deliver}, nil
}

type airPath struct {
	air     *air
	session transport.Session
	deliver frame.Handler
}

// other is the path at the other end, if frames get there.
func (p *airPath) other() *airPath {
	p.air.mu.Lock()
	defer p.air.mu.Unlock()
	if p.air.cut[[2]frame.PeerName{p.session.Local.Name, p.session.Remote.Name}] {
		return nil
	}
	return p.air.paths[airKey{p.session.Remote.Name, p.session.UID}]
}

func (p *airPath) Send(f frame.Packet) error {
	if o := p.other(); o != nil {
		o.deliver([]frame.Packet{f})
		return nil
	}
	return transport.ErrNoPath
}

func (p *airPath) Flush() error               { return nil }
func (p *airPath) HandleControl(byte, []byte) {}

func (p *airPath) Run(ctx context.Context, report func(transport.State)) error {
	key := airKey{p.session.Local.Name, p.session.UID}
	p.air.mu.Lock()
	p.air.paths[key] = p
	p.air.mu.Unlock()
	defer func() {
		p.air.mu.Lock()
		defer p.air.mu.Unlock()
		delete(p.air.paths, key)
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	up := false
	for {
		if now := p.other() != nil; now != up {
			up = now
			report(transport.State{Up: up, MTU: 1400})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// node is one control plane with everything around it in memory.
type node struct {
	name frame.PeerName
	host string
	mesh *Mesh
	stop func() // in order
	kill func() // without a word
	done chan struct{}

	mu     sync.Mutex
	fib    *routing.FIB
	forgot []frame.PeerName
}

// world is some nodes on one network.
type world struct {
	t    *testing.T
	net  *memNet // TCP
	quic *memNet // QUIC, for nodes started with it
	air  *air
	fast *air // of nodes with a second transport
	uids uint64
	self map[*Config]*node // while a node is configured
}

func newWorld(t *testing.T) *world {
	return &world{t: t, net: newMemNet(CarrierTCP), quic: newMemNet(CarrierQUIC), air: newAir(), fast: newAir(), self: map[*Config]*node{}}
}

// changed is what wakes the mesh of the node that is being configured.
func (w *world) changed(c *Config) func() {
	n := w.self[c]
	return func() { n.mesh.LinksChanged() }
}

// start runs node i, at 10.0.0.i, with settings changed by each of change.
func (w *world) start(i int, change ...func(*Config)) *node {
	w.t.Helper()
	n := &node{name: frame.PeerName(0x020000000000 + i), host: fmt.Sprintf("10.0.0.%d", i), done: make(chan struct{})}
	w.uids++
	at := &airTransport{air: w.air, deliver: func([]frame.Packet) {}}
	set := transport.NewSet(func() { n.mesh.LinksChanged() }, at)
	cfg := Config{
		Self: transport.Peer{Name: n.name, NickName: fmt.Sprintf("host%d", i), UID: w.uids},
		Port: 6783, Set: set, Carriers: []Carrier{w.net.carrier(w.t, n.host+":6783")},
		Settings: Settings{Discovery: true, ConnLimit: 200, MinProtocol: 1},
		PublishFIB: func(f *routing.FIB) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.fib = f
		},
		ForgetMACs: func(peers []frame.PeerName) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.forgot = append(n.forgot, peers...)
		},
		Log: slog.New(slog.DiscardHandler),
	}
	w.self[&cfg] = n
	for _, c := range change {
		c(&cfg)
	}
	delete(w.self, &cfg)
	var err error
	if n.mesh, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	n.stop = func() { cancel(); <-n.done }
	n.kill = func() { w.net.kill(n.host); w.quic.kill(n.host); n.stop() }
	go func() {
		defer close(n.done)
		if err := n.mesh.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	return n
}

// targets sets the peers of a node.
func to(hosts ...string) func(*Config) {
	return func(c *Config) { c.Settings.Peers = hosts }
}

func (n *node) snapshot(t *testing.T) Snapshot {
	t.Helper()
	s, err := n.mesh.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reached are the peers that frames of n can be sent to, without itself.
func (n *node) reached() []frame.PeerName {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []frame.PeerName
	for dest, via := range n.fib.Unicast() {
		if via != 0 {
			out = append(out, dest)
		}
	}
	return out
}

// via is the neighbour over which n reaches a peer.
func (n *node) via(dest frame.PeerName) frame.PeerName {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Collect(n.fib.Unicast())[dest]
}

// established are the neighbours that n has an established connection to.
func (n *node) established(t *testing.T) (out []frame.PeerName) {
	for _, c := range n.snapshot(t).Connections {
		if c.State == StateEstablished {
			out = append(out, c.Name)
		}
	}
	slices.Sort(out)
	return out
}

func names(nodes ...*node) (out []frame.PeerName) {
	for _, n := range nodes {
		out = append(out, n.name)
	}
	slices.Sort(out)
	return out
}

// eventually waits, in the bubble's time, until cond holds.
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func fullMesh(t *testing.T, within time.Duration, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		others := slices.DeleteFunc(names(nodes...), func(p frame.PeerName) bool { return p == n.name })
		eventually(t, within, fmt.Sprintf("%s is connected to all others", n.host), func() bool {
			return slices.Equal(n.established(t), others) && slices.Equal(n.reached(), others)
		})
	}
}

func inBubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		f(t, w)
		synctest.Wait()
	})
}

// One seed is enough: the rest finds each other.
func TestMeshFormsFromOneSeed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1)
		b, c := w.start(2, to("10.0.0.1")), w.start(3, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		defer c.stop()
		fullMesh(t, 5*time.Second, a, b, c)
		for _, n := range []*node{a, b, c} {
			if got := len(n.snapshot(t).Peers); got != 3 {
				t.Errorf("%s knows %d peers, want 3", n.host, got)
			}
		}
		time.Sleep(5 * time.Minute)
		fullMesh(t, 0, a, b, c)
		for _, n := range []*node{a, b, c} {
			if got := n.snapshot(t).Terminations; got > 1 {
				t.Errorf("%s: %d connections ended in a quiet mesh", n.host, got)
			}
		}
	})
}

// A mesh goes on when its seed dies, forgets it, and has it back at once when it
// returns with nothing configured.
func TestSeedDiesAndReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1)
		b, c := w.start(2, to("10.0.0.1")), w.start(3, to("10.0.0.1"))
		defer b.stop()
		defer c.stop()
		fullMesh(t, 5*time.Second, a, b, c)
		a.stop()
		fullMesh(t, 3*time.Second, b, c)
		eventually(t, 3*time.Second, "the MACs of the dead peer are forgotten", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return slices.Contains(b.forgot, a.name)
		})
		time.Sleep(10 * time.Minute)
		a = w.start(1)
		defer a.stop()
		fullMesh(t, 90*time.Second, a, b, c)
	})
}

// A peer that restarts under the same name is taken back although the others
// hold entries of its former life with a higher version.
func TestRestartBeatsTheOldIncarnation(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1)
		b, c := w.start(2, to("10.0.0.1")), w.start(3, to("10.0.0.1"))
		defer a.stop()
		defer c.stop()
		fullMesh(t, 5*time.Second, a, b, c)
		b.stop()
		b = w.start(2, to("10.0.0.3"))
		defer b.stop()
		fullMesh(t, 10*time.Second, a, b, c)
	})
}

// Two hosts that cannot reach each other are joined by a third; when the third
// dies, by a fourth.
func TestRelayAndItsDeath(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.net.setCut("10.0.0.1", "10.0.0.4", true)
		w.air.setCut(0x020000000001, 0x020000000004, true)
		a := w.start(1)
		r, q := w.start(2, to("10.0.0.1")), w.start(3, to("10.0.0.1"))
		d := w.start(4, to("10.0.0.2", "10.0.0.3"))
		defer a.stop()
		defer q.stop()
		defer d.stop()
		reachable := func() bool {
			return slices.Contains(a.reached(), d.name) && slices.Contains(d.reached(), a.name)
		}
		eventually(t, 10*time.Second, "1 reaches 4 over a relay", reachable)
		eventually(t, 5*time.Second, "1 reaches 4 via the lower relay", func() bool { return a.via(d.name) == r.name })
		r.stop()
		eventually(t, 3*time.Second, "1 reaches 4 over the other relay", func() bool {
			return reachable() && a.via(d.name) == q.name && d.via(a.name) == q.name
		})
	})
}

// A mesh whose seed is gone heals after a partition.
func TestPartitionHealsWithoutASeed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1)
		b, c := w.start(2, to("10.0.0.1")), w.start(3, to("10.0.0.1"))
		defer b.stop()
		defer c.stop()
		fullMesh(t, 5*time.Second, a, b, c)
		a.stop()
		w.net.setCut(b.host, c.host, true)
		w.air.setCut(b.name, c.name, true)
		eventually(t, time.Minute, "2 and 3 lost each other", func() bool { return len(b.reached())+len(c.reached()) == 0 })
		time.Sleep(5 * time.Minute)
		w.net.setCut(b.host, c.host, false)
		w.air.setCut(b.name, c.name, false)
		fullMesh(t, time.Minute, b, c)
	})
}

// A neighbour that falls silent without a word is given up, and taken back.
func TestSilentNeighbour(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		w.net.setCut(a.host, b.host, true)
		w.air.setCut(a.name, b.name, true)
		eventually(t, time.Second, "no frames are sent into the cut", func() bool { return len(a.reached())+len(b.reached()) == 0 })
		eventually(t, nativeSilence+5*time.Second, "the sessions are given up", func() bool {
			return a.snapshot(t).Terminations > 0 && b.snapshot(t).Terminations > 0
		})
		w.net.setCut(a.host, b.host, false)
		w.air.setCut(a.name, b.name, false)
		fullMesh(t, retryCap*2, a, b)
	})
}

// A cut that is shorter than a session's patience costs no session.
func TestShortCutKeepsTheSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		w.net.setCut(a.host, b.host, true)
		time.Sleep(nativeSilence - 2*nativeHeartbeat)
		w.net.setCut(a.host, b.host, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		fullMesh(t, 0, a, b)
		if got := a.snapshot(t).Terminations; got != 0 {
			t.Errorf("%d sessions ended", got)
		}
	})
}

// Two peers that both know of each other settle on one connection also where one
// is at its connection limit: the other one backs off.
func TestLimitIsNoStorm(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1, func(c *Config) { c.Settings.ConnLimit = 1 })
		b := w.start(2, to("10.0.0.1"))
		c := w.start(3, to("10.0.0.1"), func(c *Config) { c.Settings.Discovery = false })
		defer a.stop()
		defer b.stop()
		defer c.stop()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := b.snapshot(t).Terminations + c.snapshot(t).Terminations; got > 60 {
			t.Errorf("%d sessions came and went in 5 min", got)
		}
	})
}

// A session that breaks while its path works is made again, and frames have a
// route all the time.
func TestLinkOutlivesSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		time.Sleep(10 * time.Second)
		b.mesh.do(func() {
			for s := range b.mesh.sessions {
				s.close(errors.New("reset"))
			}
		})
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			synctest.Wait()
			if len(a.reached()) != 1 || len(b.reached()) != 1 {
				t.Fatal("no route while the session was made again")
			}
		}
		fullMesh(t, 0, a, b)
		if got := b.snapshot(t).Terminations; got == 0 {
			t.Error("the session was not lost at all")
		}
	})
}

// Both dial each other at once, with explicit ports: one connection stays.
func TestSimultaneousDialSettles(t *testing.T) {
	for range 10 {
		inBubble(t, func(t *testing.T, w *world) {
			a, b := w.start(1, to("10.0.0.2:6783")), w.start(2, to("10.0.0.1:6783"))
			defer a.stop()
			defer b.stop()
			fullMesh(t, 10*time.Second, a, b)
			ended := a.snapshot(t).Terminations
			time.Sleep(10 * time.Minute)
			fullMesh(t, 0, a, b)
			if got := a.snapshot(t).Terminations; got > ended+1 {
				t.Errorf("connections ended %d more times", got-ended)
			}
		})
	}
}

func failure(t *testing.T, n *node) string {
	for _, c := range n.snapshot(t).Connections {
		if c.Err != "" {
			return c.Err
		}
	}
	return ""
}

func TestHandshakeRefusals(t *testing.T) {
	password := func(p string) func(*Config) {
		return func(c *Config) { c.Settings.Passwords = Passwords([]byte(p)) }
	}
	for _, tt := range []struct {
		name           string
		first, second  func(*Config)
		want           string
		target         string
		neverTriedMore bool
	}{
		{"wrong password", password("alpha"), password("beta"), "password", "10.0.0.1", false},
		{"password on the dialler only", password(""), password("beta"), "password", "10.0.0.1", false},
		{"password on the acceptor only", password("alpha"), password(""), "password", "10.0.0.1", false},
		{"name collision", func(c *Config) {}, func(c *Config) { c.Self.Name = 0x020000000001 }, "collision", "10.0.0.1", true},
		{"self", func(c *Config) {}, func(c *Config) {}, "ourself", "10.0.0.2", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, b := w.start(1, tt.first), w.start(2, tt.second, to(tt.target))
				defer a.stop()
				defer b.stop()
				eventually(t, 15*time.Second, "the reason is shown", func() bool {
					return strings.Contains(failure(t, b), tt.want)
				})
				wantRefusal(t, b, "") // of these none says that it lets nobody in
				for _, c := range b.snapshot(t).Connections {
					if c.Never != tt.neverTriedMore {
						t.Errorf("never tried again: %v, want %v (%s)", c.Never, tt.neverTriedMore, c.Err)
					}
				}
				if len(a.established(t))+len(b.established(t)) != 0 {
					t.Error("connected all the same")
				}
			})
		})
	}
}

func TestPasswordMeshForms(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		secret := func(c *Config) { c.Settings.Passwords = Passwords([]byte("correct-horse")) }
		a, b := w.start(1, secret), w.start(2, secret, to("10.0.0.1"))
		defer a.stop()
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		if c := a.snapshot(t).Connections[0]; !c.Encrypted || !c.Native || c.Version != 2 {
			t.Errorf("connection %+v, want encrypted, native, protocol 2", c)
		}
	})
}

func TestConnectionLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.start(1, func(c *Config) { c.Settings.ConnLimit = 1 })
		b, c := w.start(2, to("10.0.0.1")), w.start(3, to("10.0.0.1"), func(c *Config) { c.Settings.Discovery = false })
		defer a.stop()
		defer b.stop()
		defer c.stop()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := len(a.established(t)); got != 1 {
			t.Errorf("%d connections, want 1", got)
		}
	})
}

func TestConnectForgetApply(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := w.start(1), w.start(2)
		defer a.stop()
		defer b.stop()
		if err := b.mesh.Connect([]string{"10.0.0.1", "bad:port"}, false); err == nil {
			t.Error("a bad target was taken")
		}
		if got := len(b.snapshot(t).Targets); got != 0 {
			t.Errorf("a refused call left %d targets", got)
		}
		if err := b.mesh.Connect([]string{"10.0.0.1"}, false); err != nil {
			t.Fatal(err)
		}
		fullMesh(t, 5*time.Second, a, b)
		if err := b.mesh.Forget([]string{"10.0.0.1"}); err != nil {
			t.Fatal(err)
		}
		fullMesh(t, 0, a, b) // existing connections stay
		if err := b.mesh.Apply(Settings{Peers: []string{"10.0.0.9"}, Discovery: true, ConnLimit: 5, MinProtocol: 2}); err != nil {
			t.Fatal(err)
		}
		if s := b.snapshot(t); s.ConnLimit != 5 || len(s.Targets) != 1 || s.MinProtocol != 2 {
			t.Errorf("settings were not applied: %+v", s)
		}
	})
}

// A daemon that was killed finds the mesh by what it remembers.
func TestRememberedPeersAreTried(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var (
			mu   sync.Mutex
			kept []Remembered
		)
		remember := func(c *Config) {
			c.Remember = func(r []Remembered) {
				mu.Lock()
				defer mu.Unlock()
				kept = r
			}
		}
		a, b := w.start(1, remember), w.start(2, to("10.0.0.1"))
		defer b.stop()
		fullMesh(t, 5*time.Second, a, b)
		eventually(t, 5*time.Second, "peer 2 is remembered", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(kept) == 1 && kept[0].Name == b.name &&
				slices.Contains(kept[0].Addresses, over("10.0.0.2:6783")[0])
		})
		a.stop()
		b.mesh.Forget([]string{"10.0.0.1"})
		a = w.start(1, func(c *Config) { c.Remembered = kept })
		defer a.stop()
		fullMesh(t, 2*time.Second, a, b)
	})
}
