package integration

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"meshd/internal/lab"
	"meshd/internal/lab/peer"
)

const (
	// patience is how long anything may take that has no bound of its own: less
	// than the 30 s between two periodic gossips, so that it is not those that
	// mend what a test has broken.
	patience = 25 * time.Second
	// pollTime is how often something is looked at while it is waited for.
	pollTime = 25 * time.Millisecond
	// endTime is how long a daemon may take to end in order.
	endTime = 10 * time.Second
	// logTail is how many log lines of each daemon a failed test shows.
	logTail = 60
	// stuckTail is how many lines of goroutines a stuck daemon shows.
	stuckTail = 600
)

// world is a test's own network. All its methods end the test on a fault.
type world struct {
	*testing.T
	lab   *lab.Lab
	hosts []*host
}

// newWorld makes an empty network; at the end of the test it is removed, found
// gone, and the daemons' logs are searched for what no daemon may say.
func newWorld(t *testing.T) *world {
	t.Helper()
	hash := fnv.New32a()
	hash.Write([]byte(t.Name()))
	l, err := lab.New(fmt.Sprintf("%s%d-%08x", labPrefix, os.Getpid(), hash.Sum32()))
	if err != nil {
		t.Fatal(err)
	}
	suite.mu.Lock()
	suite.labs = append(suite.labs, l)
	suite.mu.Unlock()
	w := &world{T: t, lab: l}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	w.checkLogs()
	if w.Failed() {
		for _, h := range w.hosts {
			w.Logf("log of %s:\n\t%s", h.NickName, strings.Join(h.Tail(logTail), "\n\t"))
			w.showStuck(h)
		}
	}
	if err := w.lab.Close(); err != nil {
		w.Error(err)
	}
	if left := w.lab.Leftovers(); len(left) > 0 {
		w.Errorf("left behind: %v", left)
	}
}

// showStuck shows the goroutines of a daemon that does not answer any more.
func (w *world) showStuck(h *host) {
	proc, err := h.Process()
	if err != nil {
		return // it has ended, or was never started
	}
	h.Thaw()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := h.Report(ctx); err == nil {
		return
	}
	proc.Signal(syscall.SIGQUIT)
	select {
	case <-proc.Done():
	case <-time.After(endTime):
	}
	w.Logf("%s did not answer; its goroutines:\n\t%s", h.NickName, strings.Join(h.Tail(stuckTail), "\n\t"))
}

// checkLogs looks for panics and data races.
func (w *world) checkLogs() {
	for _, h := range w.hosts {
		b, err := os.ReadFile(h.LogFile())
		if err != nil {
			continue // it was never started
		}
		for _, bad := range []string{"panic:", "fatal error:", "DATA RACE", "goroutine "} {
			if i := strings.Index(string(b), bad); i >= 0 {
				w.Errorf("%s logged: %.4000s", h.NickName, b[i:])
				break
			}
		}
	}
}

// must ends the test on an error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// within is the test's context with a deadline.
func (w *world) within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	w.Cleanup(cancel)
	return ctx
}

// eventually waits until check is nil.
func (w *world) eventually(what string, check func(ctx context.Context) error) {
	w.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if err := lab.Poll(ctx, pollTime, func() error { return check(ctx) }); err != nil {
		w.Fatalf("%s: not within %v: %v", what, patience, err)
	}
	w.Logf("%s after %v", what, time.Since(begin).Round(time.Millisecond))
}

// lan is one Ethernet of the underlay.
type lan struct {
	*lab.Switch
	name string
}

func (w *world) lan(name string) *lan {
	w.Helper()
	s, err := w.lab.Switch(name)
	w.must(err)
	return &lan{s, name}
}

// plug is a host's place on a LAN.
type plug struct {
	lan   *lan
	addrs []netip.Prefix
}

// at is a place with these addresses, CIDR.
func (l *lan) at(addrs ...string) plug {
	p := plug{lan: l}
	for _, a := range addrs {
		p.addrs = append(p.addrs, netip.MustParsePrefix(a))
	}
	return p
}

// host is a machine that may run meshd.
type host struct {
	*peer.Peer
	w     *world
	plugs []plug // on eth0, eth1, …
	boxes []*box
}

// host adds a machine: its first plug is eth0.
func (w *world) host(nick string, plugs ...plug) *host {
	w.Helper()
	n, err := w.lab.Namespace(nick)
	w.must(err)
	for i, p := range plugs {
		w.must(p.lan.Plug(n, fmt.Sprintf("eth%d", i), p.addrs...))
	}
	return w.machine(n, nick, plugs)
}

// machine makes a namespace with these plugs one that may run meshd.
func (w *world) machine(n *lab.Namespace, nick string, plugs []plug) *host {
	w.Helper()
	node, err := peer.New(n, peer.Config{
		Binary: suite.binary, Dir: filepath.Join(w.lab.Dir(), nick),
		Name:     fmt.Sprintf("02:00:00:00:00:%02x", len(w.hosts)+1),
		NickName: nick,
	})
	w.must(err)
	h := &host{Peer: node, w: w, plugs: plugs}
	w.hosts = append(w.hosts, h)
	return h
}

// router adds a machine that forwards between its plugs.
func (w *world) router(name string, plugs ...plug) *lab.Namespace {
	w.Helper()
	n, err := w.lab.Router(name)
	w.must(err)
	for i, p := range plugs {
		w.must(p.lan.Plug(n, fmt.Sprintf("eth%d", i), p.addrs...))
	}
	return n
}

// addr is the host's first address.
func (h *host) addr() string { return h.plugs[0].addrs[0].Addr().String() }

// gateway routes everything else over eth0.
func (h *host) gateway(via string) {
	h.w.Helper()
	addr := netip.MustParseAddr(via)
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if addr.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	h.w.must(h.Host.AddRoute(all, addr, "eth0"))
}

// up starts meshd with these targets and waits until it is ready.
func (h *host) up(targets ...string) {
	h.w.Helper()
	h.start(targets...)
	h.ready()
}

// start starts meshd with these targets.
func (h *host) start(targets ...string) {
	h.w.Helper()
	h.Peers = targets
	h.w.must(h.Up())
}

// again starts meshd as it was started before.
func (h *host) again() {
	h.w.Helper()
	h.w.must(h.Up())
}

func (h *host) ready() {
	h.w.Helper()
	h.w.eventually(h.NickName+" is ready", h.alive(h.Ready))
}

// alive is check, but final once meshd has ended.
func (h *host) alive(check func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := h.Process(); err != nil {
			return lab.Final(fmt.Errorf("%s: %w: %v", h.NickName, err, h.Last().Err()))
		}
		return check(ctx)
	}
}

func (h *host) kill()   { h.w.Helper(); h.w.must(h.Kill()) }
func (h *host) freeze() { h.w.Helper(); h.w.must(h.Freeze()) }
func (h *host) thaw()   { h.w.Helper(); h.w.must(h.Thaw()) }
func (h *host) down()   { h.w.Helper(); h.w.must(h.Down(endTime)) }

// report reads the daemon's state.
func (h *host) report() peer.Report {
	h.w.Helper()
	r, err := h.Report(h.w.within(patience))
	h.w.must(err)
	return r
}

func peersOf(hosts []*host) []*peer.Peer {
	out := make([]*peer.Peer, len(hosts))
	for i, h := range hosts {
		out[i] = h.Peer
	}
	return out
}

// mesh starts meshd on the hosts, all with the first one as their target, and
// waits until each is a neighbour of all others.
func (w *world) mesh(hosts ...*host) {
	w.Helper()
	for i, h := range hosts {
		if i == 0 {
			h.start()
		} else {
			h.start(hosts[0].addr())
		}
	}
	w.joined(hosts...)
}

// joined waits until each of the hosts is a neighbour of all others.
func (w *world) joined(hosts ...*host) {
	w.Helper()
	w.eventually("full mesh", func(ctx context.Context) error { return peer.FullMesh(ctx, peersOf(hosts)...) })
}

// reach waits until each of the hosts has a route to all others.
func (w *world) reach(hosts ...*host) {
	w.Helper()
	w.eventually("routes", func(ctx context.Context) error {
		for _, h := range hosts {
			if err := h.Reaches(ctx, peersOf(hosts)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// settled waits until a change of the topology is over: from then on every flood
// has to arrive exactly once.
func (w *world) settled(hosts ...*host) {
	w.Helper()
	w.eventually("settled", func(ctx context.Context) error { return peer.Settled(ctx, peersOf(hosts)...) })
}

// lost waits until none of the others has a route to h.
func (w *world) lost(h *host, others ...*host) {
	w.Helper()
	w.eventually(h.NickName+" is given up", func(ctx context.Context) error {
		for _, o := range others {
			if o.Reaches(ctx, h.Peer) == nil {
				return fmt.Errorf("%s has a route to %s", o.NickName, h.NickName)
			}
		}
		return nil
	})
}

// box is a container on a host's bridge.
type box struct {
	*lab.Namespace
	w     *world
	host  *host
	addrs []netip.Prefix
}

// box attaches a container with these addresses, CIDR, to the host's bridge,
// which has to be there.
func (h *host) box(addrs ...string) *box {
	h.w.Helper()
	n, err := h.w.lab.Namespace(fmt.Sprintf("%s-c%d", h.NickName, len(h.boxes)))
	h.w.must(err)
	b := &box{Namespace: n, w: h.w, host: h}
	for _, a := range addrs {
		b.addrs = append(b.addrs, netip.MustParsePrefix(a))
	}
	h.w.must(h.Attach(n, b.addrs...))
	h.boxes = append(h.boxes, b)
	return b
}

// boxes attaches a container to each host: 192.168.99.1/24 and fd99::1/64 to the
// first, and so on.
func (w *world) boxes(hosts ...*host) []*box {
	w.Helper()
	var out []*box
	for i, h := range hosts {
		out = append(out, h.box(fmt.Sprintf("192.168.99.%d/24", i+1), fmt.Sprintf("fd99::%x/64", i+1)))
	}
	return out
}

// addr is the container's first address.
func (b *box) addr() netip.Addr { return b.addrs[0].Addr() }

// addr6 is the container's IPv6 address.
func (b *box) addr6() netip.Addr {
	i := slices.IndexFunc(b.addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	return b.addrs[i].Addr()
}

// reattach puts the container on its host's bridge again after the bridge was
// deleted.
func (b *box) reattach() {
	b.w.Helper()
	b.w.must(b.host.Host.Join(lab.HostPort(b.Namespace), peer.DefaultBridge))
}

// answers waits until the containers ping each other, both ways.
func (w *world) answers(boxes ...*box) {
	w.Helper()
	w.eventually("containers ping each other", func(ctx context.Context) error { return pingAll(ctx, boxes) })
}

// pingAll pings once between all containers, a second each.
func pingAll(ctx context.Context, boxes []*box) error {
	for _, a := range boxes {
		for _, b := range boxes {
			if a == b {
				continue
			}
			limited, cancel := context.WithTimeout(ctx, time.Second)
			_, err := a.PingOnce(limited, b.addr())
			cancel()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// watched is a series of pings between two containers.
type watched struct {
	*lab.Ping
	w    *world
	name string
}

// pings pings from one container to another every 10 ms until lost.
func (b *box) pings(to *box) *watched {
	b.w.Helper()
	p, err := b.Ping(to.addr(), lab.PingConfig{Interval: 10 * time.Millisecond})
	b.w.must(err)
	x := &watched{p, b.w, fmt.Sprintf("%s to %s", b.host.NickName, to.host.NickName)}
	x.more(20)
	return x
}

// more waits for this many further replies.
func (x *watched) more(n int) {
	x.w.Helper()
	want := x.Stats(0).Received + n
	x.w.eventually(fmt.Sprintf("%d more replies from %s", n, x.name), func(context.Context) error {
		if s := x.Stats(0); s.Received < want {
			return fmt.Errorf("%v", s)
		}
		return nil
	})
}

// end stops the pings, waits for the last replies and counts.
func (x *watched) end() lab.PingStats {
	x.w.Helper()
	s := x.Stop(5 * time.Second)
	x.w.Logf("pings from %s: %v", x.name, s)
	return s
}
