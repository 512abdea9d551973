package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"meshd/internal/lab/peer"
)

// blockSession and blockSleeve are what stock routers use.
const (
	blockSession = "tcp dport 6783 drop; tcp sport 6783 drop;"
	blockSleeve  = "udp dport 6783 drop;"
	// punch and quic share a port: the first bits of a datagram tell them apart
	// (docs/protocol.md). 64 bits of UDP header come before them.
	blockPunch = "udp dport 6785 @th,64,2 2 drop;"
	blockQUIC  = "udp dport 6785 @th,65,1 1 drop;"
)

// block drops what matches, in both directions, until unblock.
func (h *host) block(name, rules string) {
	h.w.Helper()
	h.w.nft(h.Host, fmt.Sprintf(`
table inet %[1]s {
	chain in  { type filter hook input priority 0; %[2]s }
	chain out { type filter hook output priority 0; %[2]s }
}`, name, rules))
}

func (h *host) unblock(name string) {
	h.w.Helper()
	h.w.nft(h.Host, "delete table inet "+name)
}

// uses waits until frames from h to another host leave over a transport.
func (h *host) uses(other *host, transport string) {
	h.w.Helper()
	h.w.eventually(fmt.Sprintf("%s reaches %s over %s", h.NickName, other.NickName, transport), func(ctx context.Context) error {
		c, err := h.connection(ctx, other)
		if err == nil && c.Transport != transport {
			err = fmt.Errorf("it uses %q", c.Transport)
		}
		return err
	})
}

// rides waits until the session between two hosts rides on a carrier.
func (h *host) rides(other *host, carrier string) {
	h.w.Helper()
	h.w.eventually(fmt.Sprintf("session of %s with %s on %s", h.NickName, other.NickName, carrier), func(ctx context.Context) error {
		c, err := h.connection(ctx, other)
		if err == nil && c.Carrier != carrier {
			err = fmt.Errorf("it rides on %q", c.Carrier)
		}
		return err
	})
}

// connection is h's connection to another host.
func (h *host) connection(ctx context.Context, other *host) (peer.Connection, error) {
	r, err := h.Report(ctx)
	if err != nil {
		return peer.Connection{}, err
	}
	i := slices.IndexFunc(r.Connections, func(c peer.Connection) bool { return c.Name == other.Name })
	if i < 0 {
		return peer.Connection{}, errors.New("no connection")
	}
	return r.Connections[i], nil
}

// TestQUICAlone: three hosts whose network passes nothing but UDP/6785 are a full
// mesh over QUIC: sessions, discovery and frames.
func TestQUICAlone(t *testing.T) {
	alone(t, blockSession+blockSleeve+blockPunch, "quic", "quic", "quic://[fd00::1]", "MESHD_TRANSPORTS=quic")
}

// TestSleeveBesideQUIC: where TCP does not pass, the session rides on QUIC, and
// sleeve finds the neighbour's port all the same.
//
//	weave01 ── lan, where TCP/6783 is blocked ── weave02
func TestSleeveBesideQUIC(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	a, b := w.host("weave01", lan.at("10.0.0.1/24")), w.host("weave02", lan.at("10.0.0.2/24"))
	for _, h := range []*host{a, b} {
		h.Env = []string{"MESHD_TRANSPORTS=sleeve,quic", "MESHD_PASSWORD=a long enough password for a test"}
		h.block("blocked", blockSession)
	}
	w.mesh(a, b)
	a.rides(b, "quic")
	a.uses(b, "sleeve")
	b.uses(a, "sleeve")
	w.answers(w.boxes(a, b)...)
}

// TestMixedPreferences: each host has an order of its own, one knows QUIC only.
//
//	weave01 punch, quic, sleeve ──┐
//	weave02 sleeve, quic, punch ──┼── lan
//	weave03 quic ─────────────────┘
func TestMixedPreferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	a := w.host("weave01", lan.at("10.0.0.1/24", "fd00::1/64"))
	b := w.host("weave02", lan.at("10.0.0.2/24", "fd00::2/64"))
	c := w.host("weave03", lan.at("10.0.0.3/24", "fd00::3/64"))
	a.Env = []string{"MESHD_TRANSPORTS=punch,quic,sleeve"}
	b.Env = []string{"MESHD_TRANSPORTS=sleeve,quic,punch"}
	c.Env = []string{"MESHD_TRANSPORTS=quic"}
	w.mesh(a, b, c)
	boxes := w.boxes(a, b, c)
	w.answers(boxes...)
	a.uses(b, "punch")
	b.uses(a, "sleeve")
	for _, x := range []*host{a, b} {
		x.uses(c, "quic")
		c.uses(x, "quic")
	}
	transfers(w, boxes)
}

// TestMixedPreferencesIPv6 is the same where hosts have IPv6 only.
//
//	weave01 punch, quic, sleeve ──┐
//	weave02 sleeve, quic, punch ──┼── lan, IPv6
//	weave03 quic ─────────────────┘
func TestMixedPreferencesIPv6(t *testing.T) {
	once(t)
	t.Parallel()
	w := newWorld(t)
	lan := w.lan("lan")
	var hosts []*host
	for i, order := range []string{"punch,quic,sleeve", "sleeve,quic,punch", "quic"} {
		h := w.host(fmt.Sprint("weave0", i+1), lan.at(fmt.Sprintf("fd00::%d/64", i+1)))
		h.Env = []string{"MESHD_TRANSPORTS=" + order}
		hosts = append(hosts, h)
	}
	w.mesh(hosts...)
	boxes := w.boxes(hosts...)
	w.answers(boxes...)
	hosts[0].uses(hosts[1], "punch")
	hosts[1].uses(hosts[0], "sleeve")
	hosts[2].uses(hosts[0], "quic")
	ipv6(w, boxes)
	transfers(w, boxes)
}

// stock adds a machine whose router speaks the stock protocol only.
func (w *world) stock(nick string, plugs ...plug) *host {
	w.Helper()
	h := w.host(nick, plugs...)
	h.Binary = suite.stock
	h.Env = []string{"MESHD_TRANSPORTS=sleeve"}
	return h
}

// TestStockPeer: among hosts that prefer different transports there is a stock
// router. Frames to it go over sleeve. It neither dials nor misroutes what it does
// not know: two hosts that have nothing but QUIC between them.
//
//	weave01 ──┐
//	weave02 ──┼── lan ── stock
//	weave03 ──┘
//
// weave01 and weave02 cannot reach each other's port 6783.
func TestStockPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.needNFT()
	lan := w.lan("lan")
	hosts := []*host{
		w.host("weave01", lan.at("10.0.0.1/24")),
		w.host("weave02", lan.at("10.0.0.2/24")),
		w.host("weave03", lan.at("10.0.0.3/24")),
		w.stock("stock", lan.at("10.0.0.4/24")),
	}
	hosts[0].Env = []string{"MESHD_TRANSPORTS=quic,sleeve"}
	hosts[1].Env = []string{"MESHD_TRANSPORTS=quic,sleeve"}
	hosts[0].block("half", "ip saddr 10.0.0.2 th dport 6783 drop; ip daddr 10.0.0.2 th dport 6783 drop;")
	hosts[3].start()
	for _, h := range hosts[:3] {
		h.start(hosts[3].addr())
	}
	w.joined(hosts...)
	boxes := w.boxes(hosts...)
	w.answers(boxes...)
	for _, h := range hosts[:3] {
		h.uses(hosts[3], "sleeve")
		h.rides(hosts[3], "tcp")
		hosts[3].uses(h, "sleeve")
	}
	hosts[0].uses(hosts[1], "quic")
	hosts[0].rides(hosts[1], "quic")
	hosts[2].uses(hosts[0], "quic")
	transfers(w, boxes)
	w.settled(hosts...)
	if n := len(hosts[3].report().Connections); n != 3 {
		t.Errorf("the stock router has %d connections or attempts, want its three neighbours: %+v", n, hosts[3].report().Connections)
	}
}

// TestStockRelay: a stock router is all that two hosts have in common.
//
//	weave01 ── lan1 ── stock ── lan2 ── weave02
func TestStockRelay(t *testing.T) {
	once(t)
	t.Parallel()
	w := newWorld(t)
	lan1, lan2 := w.lan("lan1"), w.lan("lan2")
	a := w.host("weave01", lan1.at("10.0.1.1/24"))
	s := w.stock("stock", lan1.at("10.0.1.2/24"), lan2.at("10.0.2.2/24"))
	b := w.host("weave02", lan2.at("10.0.2.3/24"))
	s.start()
	a.start("10.0.1.2")
	b.start("10.0.2.2")
	w.reach(a, s, b)
	boxes := w.boxes(a, s, b)
	w.answers(boxes...)
	if via := a.report().Via(b.Name); via != s.Name {
		t.Errorf("frames from weave01 to weave02 go via %q, want the stock router", via)
	}
	transfers(w, boxes)
}

// TestBlockedTransports: whatever is blocked under a running TCP connection, it
// goes on within 3 s, and returns to the best transport when that works again.
//
//	weave01 ── lan ── weave02
func TestBlockedTransports(t *testing.T) {
	t.Parallel()
	m := newMoving(t, nil)
	m.use("punch")
	m.move("punch is blocked", func() { m.a.block("punch", blockPunch) }, "quic", "tcp")
	m.move("quic is blocked too", func() { m.a.block("quic", blockQUIC) }, "sleeve", "tcp")
	m.move("quic is free", func() { m.a.unblock("quic") }, "quic", "tcp")
	m.move("TCP is blocked", func() { m.a.block("session", blockSession) }, "quic", "quic")
	m.move("punch is free", func() { m.a.unblock("punch") }, "punch", "quic")
	m.a.unblock("session") // a session has to live on something
	m.move("quic and sleeve are blocked", func() { m.a.block("others", blockQUIC+blockSleeve) }, "punch", "tcp")
	m.flow.end()
}

// TestDeadStandby: the transport in use and the next best one are blocked at once, when
// nothing has gone over the latter for long. Pings go on over the third one.
//
//	weave01 ── lan ── weave02
func TestDeadStandby(t *testing.T) {
	once(t)
	t.Parallel()
	m := newMoving(t, nil)
	m.use("punch")
	p := m.boxes[0].pings(m.boxes[1])
	time.Sleep(20 * time.Second) // the others rest after 10 s
	m.a.block("both", blockPunch+blockQUIC)
	m.use("sleeve")
	p.more(20)
	if d := p.end().Outage; d > roamed {
		t.Errorf("no answer for %v, want at most %v", d, roamed)
	}
}
