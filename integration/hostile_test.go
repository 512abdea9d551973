package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"meshd/internal/encap"
	iframe "meshd/internal/frame"
	"meshd/internal/lab"
	"meshd/internal/lab/peer"
	"meshd/routing"
	"meshd/routing/control"
)

// These tests are parallel at most to each other's parts: others would have to
// bear what floods the machine.

// siege is two hosts that are joined, with a container each, and an attacker on
// their LAN:
//
//	weave01 10.0.0.1 ──┐
//	weave02 10.0.0.2 ──┼── lan ── attacker 10.0.0.66
//
// The attacker is this process, with its sockets in a namespace.
type siege struct {
	*world
	lan      *lan
	boxes    []*box
	attacker *lab.Namespace
	gun      *net.UDPConn // the attacker's, with the port that neighbours send from
}

// besieged sets a siege up. env is the hosts' environment.
func besieged(t *testing.T, env ...string) *siege {
	t.Helper()
	s := &siege{world: newWorld(t)}
	s.lan = s.world.lan("lan")
	a, b := s.host("weave01", s.lan.at("10.0.0.1/24")), s.host("weave02", s.lan.at("10.0.0.2/24"))
	// Garbage is collected soon, so that it is not taken for a leak.
	a.Env = append([]string{"GOGC=25"}, env...)
	b.Env = a.Env
	s.mesh(a, b)
	s.boxes = s.world.boxes(a, b)
	s.answers(s.boxes...)
	var err error
	s.attacker, err = s.lab.Namespace("attacker")
	s.must(err)
	s.must(s.lan.Plug(s.attacker, "eth0", netip.MustParsePrefix("10.0.0.66/24")))
	gun, err := s.attacker.ListenPacket("udp4", ":6783")
	s.must(err)
	s.gun = gun.(*net.UDPConn)
	return s
}

// port is where a host takes control connections and datagrams.
func (h *host) port() netip.AddrPort {
	return netip.AddrPortFrom(h.plugs[0].addrs[0].Addr(), 6783)
}

// shoot sends a datagram to a host.
func (s *siege) shoot(at *host, b []byte) {
	s.Helper()
	_, err := s.gun.WriteToUDPAddrPort(b, at.port())
	s.must(err)
}

// harmless runs an attack while the containers ping each other every 10 ms. No
// ping is lost, and the connection between the hosts is the same all the time.
func (s *siege) harmless(attack func()) {
	s.Helper()
	a, b := s.hosts[0], s.hosts[1]
	since := a.since(b)
	there, back := s.boxes[0].pings(s.boxes[1]), s.boxes[1].pings(s.boxes[0])
	attack()
	for _, x := range []*watched{there, back} {
		x.more(20)
		if c := x.end(); c.Lost() > 0 || c.Duplicates > 0 {
			s.Errorf("pings from %s: %v, want none lost", x.name, c)
		}
	}
	if now := a.since(b); now != since {
		s.Errorf("the connection between the hosts was made again at %s, first at %s", now, since)
	}
}

// since tells when the connection with a neighbour was made, as `status` does.
func (h *host) since(neighbour *host) string {
	h.w.Helper()
	out, err := h.Command(h.w.within(patience), "status", "connections", "--json")
	h.w.must(err)
	var connections []struct{ Name, Since, State string }
	h.w.must(json.Unmarshal([]byte(out), &connections))
	for _, c := range connections {
		if c.Name == neighbour.Name && c.State == "established" {
			return c.Since
		}
	}
	h.w.Fatalf("%s: %s is not established: %s", h.NickName, neighbour.NickName, out)
	return ""
}

// usage reads what the daemons use.
func (s *siege) usage() map[*host]peer.Usage {
	s.Helper()
	out := map[*host]peer.Usage{}
	for _, h := range s.hosts {
		u, err := h.Usage(s.within(patience))
		s.must(err)
		out[h] = u
	}
	return out
}

// calm waits until the daemons use about what they used at first, and know no
// peers but each other.
func (s *siege) calm(first map[*host]peer.Usage) {
	s.Helper()
	for h, was := range first {
		s.eventually(h.NickName+" uses what it used", h.alive(func(ctx context.Context) error {
			// No report is asked for meanwhile: the memory for a long one is kept for
			// the next.
			is, err := h.Usage(ctx)
			if err != nil {
				return err
			}
			return grown(is, was)
		}))
		s.eventually(h.NickName+" knows whom it knew", h.alive(func(ctx context.Context) error {
			r, err := h.Report(ctx)
			if err == nil && len(r.Peers) != len(first) {
				err = fmt.Errorf("%d peers, want %d", len(r.Peers), len(first))
			}
			return err
		}))
	}
}

// TestHalfOpenHandshakes: whoever connects and does not shake hands is thrown out,
// keeps nobody else out, and costs nothing that lasts.
func TestHalfOpenHandshakes(t *testing.T) {
	once(t)
	for _, tt := range []struct {
		name      string
		addresses int
		slow      []byte // what each connection sends, byte by byte; nil: nothing
		env       []string
	}{
		{"1,000 idle connections from one address", 1, nil, nil},
		// It asks for a message as long as one may be then, and never ends it.
		{"1,000 slow ones from 50 addresses", 50, append([]byte("weave\x01\x02\x00\x00\x00\xff\xff"), make([]byte, 1<<10)...), nil},
		// They look like those of the transport that carries the frames.
		{"1,000 slow paths from 50 addresses", 50, append([]byte("meshd\x01\x01"), make([]byte, 1<<10)...), []string{"MESHD_TRANSPORTS=tcp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := besieged(t, tt.env...)
			late := s.host("weave03", s.lan.at("10.0.0.3/24"))
			late.Env = tt.env
			late.up(s.hosts[0].addr())
			s.joined(s.hosts...)
			first := s.usage()
			late.down()
			s.lost(late, s.hosts[:2]...)
			s.harmless(func() {
				besiegers := s.dialMany(s.hosts[0].port().String(), 1000, tt.addresses)
				besiegers.dribble(tt.slow)
				late.again()
				s.joined(s.hosts...)
				s.eventually("all half-open connections are closed", func(context.Context) error {
					if n := besiegers.open.Load(); n > 0 {
						return fmt.Errorf("%d are open", n)
					}
					return nil
				})
			})
			s.calm(first)
		})
	}
}

// crowd is many connections that never shake hands.
type crowd struct {
	s     *siege
	conns []net.Conn
	open  atomic.Int64 // those that the other end has not closed yet
}

// dialMany opens connections from several addresses of the attacker. They are
// closed with the test.
func (s *siege) dialMany(to string, n, addresses int) *crowd {
	s.Helper()
	c := &crowd{s: s}
	var readers sync.WaitGroup
	s.Cleanup(func() {
		for _, conn := range c.conns {
			conn.Close()
		}
		readers.Wait()
	})
	for i := range addresses {
		s.must(s.attacker.AddAddress("eth0", netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", 100+i))))
	}
	s.must(s.attacker.Do(func() error {
		for i := range n {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(100+i%addresses))}, FallbackDelay: -1}
			conn, err := d.DialContext(s.Context(), "tcp4", to)
			if err != nil {
				return err
			}
			c.conns = append(c.conns, conn)
		}
		return nil
	}))
	c.open.Store(int64(n))
	for _, conn := range c.conns {
		readers.Go(func() {
			io.Copy(io.Discard, conn) // whichever way it ends, it is closed
			c.open.Add(-1)
		})
	}
	return c
}

// dribble sends text on all connections, a byte of each every 50 ms, until the
// test ends.
func (c *crowd) dribble(text []byte) {
	var sender sync.WaitGroup
	ctx, cancel := context.WithCancel(c.s.Context())
	c.s.Cleanup(func() { cancel(); sender.Wait() })
	sender.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := range text {
			for _, conn := range c.conns {
				conn.Write(text[i : i+1]) // to those that are closed too
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

// Texts in frames that go round in TestHostileDatagrams.
const (
	forgedText  = "a forged frame"
	genuineText = "a genuine frame"
)

// TestHostileDatagrams: what others send to the data port reaches no container,
// harms no path, and is counted.
func TestHostileDatagrams(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    []string
		reason string // why forged datagrams are dropped
	}{
		{"plain", nil, "source"},
		{"password", []string{"MESHD_PASSWORD=a long enough password for a test"}, "auth"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := besieged(t, append(tt.env, "MESHD_TRANSPORTS=sleeve")...)
			first := s.usage()
			captures := []*lab.Capture{s.boxes[0].capture(forgedText), s.boxes[1].capture(forgedText)}
			r := rand.New(rand.NewPCG(seed(t), 3))

			s.harmless(func() { s.forge(r, tt.reason) })
			if tt.reason == "auth" {
				s.harmless(s.replay)
			}
			s.flood(r)

			s.joined(s.hosts...)
			s.answers(s.boxes...) // which were sent after all that
			for i, c := range captures {
				if n := len(c.Frames()); n > 0 {
					t.Errorf("%d forged frames reached the container of %s", n, s.hosts[i].NickName)
				}
			}
			s.harmless(func() {})
			s.calm(first)
		})
	}
}

// name is the host's name as it stands in datagrams.
func (h *host) name() iframe.PeerName {
	h.w.Helper()
	name, err := iframe.ParsePeerName(h.Name)
	h.w.must(err)
	return name
}

// forgery makes a datagram that claims to come from the neighbour of the host it
// is sent to.
type forgery struct {
	name string
	make func(r *rand.Rand, from, to iframe.PeerName) []byte
}

// forgeries are of each kind.
func (s *siege) forgeries() []forgery {
	sleeve := func(sender, src, dst iframe.PeerName, frames ...[]byte) []byte {
		b := encap.AppendSleeveName(nil, sender)
		for _, f := range frames {
			b = encap.AppendSleevePacket(b, src, dst, f)
		}
		return b
	}
	text := func(dst, src net.HardwareAddr) []byte { return frame(dst, src, 0, forgedText) }
	macs := []net.HardwareAddr{s.boxes[0].mac(), s.boxes[1].mac()}
	return []forgery{
		{"nothing but a name", func(_ *rand.Rand, from, _ iframe.PeerName) []byte { return sleeve(from, 0, 0) }},
		{"random bytes", func(r *rand.Rand, from, _ iframe.PeerName) []byte {
			return append(sleeve(from, 0, 0), randomBytes(r, 1+r.IntN(1400))...)
		}},
		{"cut short", func(r *rand.Rand, from, to iframe.PeerName) []byte {
			b := sleeve(from, from, to, text(broadcast, macs[0]))
			return b[:encap.SleeveNameLen+1+r.IntN(len(b)-encap.SleeveNameLen-1)]
		}},
		{"length beyond the end", func(_ *rand.Rand, from, to iframe.PeerName) []byte {
			b := sleeve(from, from, to, text(broadcast, macs[0]))
			binary.BigEndian.PutUint16(b[encap.SleeveNameLen+12:], 0xffff)
			return b
		}},
		{"broadcast", func(_ *rand.Rand, from, to iframe.PeerName) []byte {
			return sleeve(from, from, to, text(broadcast, macs[0]))
		}},
		{"to both containers", func(_ *rand.Rand, from, to iframe.PeerName) []byte {
			return sleeve(from, from, to, text(macs[0], macs[1]), text(macs[1], macs[0]))
		}},
		{"from a peer that is not there", func(r *rand.Rand, from, to iframe.PeerName) []byte {
			return sleeve(from, iframe.PeerName(1+r.Uint64N(1<<48-1)), to, text(broadcast, randomBytes(r, 6)))
		}},
		{"heartbeat with a wrong UID", func(r *rand.Rand, from, to iframe.PeerName) []byte {
			return sleeve(from, from, to, heartbeat(r.Uint64()))
		}},
		{"MTU test", func(_ *rand.Rand, from, to iframe.PeerName) []byte {
			return sleeve(from, from, to, make([]byte, 1000))
		}},
	}
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// heartbeat is the frame of one: 14 zero bytes and the connection UID.
func heartbeat(uid uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, iframe.HeaderLen), uid)
}

// forge sends some of each forgery to both hosts, and waits until they have
// counted them all.
func (s *siege) forge(r *rand.Rand, reason string) {
	s.Helper()
	const each = 50
	a, b := s.hosts[0], s.hosts[1]
	kinds := s.forgeries()
	before := []uint64{s.dropped(a, b, reason), s.dropped(b, a, reason)}
	tick := time.NewTicker(2 * time.Millisecond) // no flood
	defer tick.Stop()
	for range each {
		for _, k := range kinds {
			s.shoot(a, k.make(r, b.name(), a.name()))
			s.shoot(b, k.make(r, a.name(), b.name()))
			// Of no neighbour: nobody's counters have these.
			s.shoot(a, randomBytes(r, r.IntN(1400)))
			s.shoot(b, encap.AppendSleeveName(nil, b.name()))
			<-tick.C
		}
	}
	s.eventually("all forgeries are counted", func(context.Context) error {
		for i, h := range s.hosts {
			if got := s.dropped(h, s.hosts[1-i], reason) - before[i]; got < uint64(each*len(kinds)) {
				return fmt.Errorf("%s has dropped %d, %d were sent", h.NickName, got, each*len(kinds))
			}
		}
		return nil
	})
}

// dropped reads from `transport stats` how much of what came from a neighbour was
// dropped for one reason.
func (s *siege) dropped(h, neighbour *host, reason string) uint64 {
	s.Helper()
	out, err := h.Command(s.within(patience), "transport", "stats", "--json", neighbour.Name)
	s.must(err)
	var paths []struct {
		Active bool
		Rx     struct{ Drops map[string]uint64 }
	}
	s.must(json.Unmarshal([]byte(out), &paths))
	for _, p := range paths {
		if p.Active {
			return p.Rx.Drops[reason]
		}
	}
	s.Fatalf("%s: none of the paths to %s is in use: %s", h.NickName, neighbour.NickName, out)
	return 0
}

// replay catches what weave02 sends to weave01, and sends all of it again.
func (s *siege) replay() {
	s.Helper()
	const frames = 20
	a, b := s.hosts[0], s.hosts[1]
	genuine := s.boxes[0].capture(genuineText)
	sniffed, err := a.Host.Capture("eth0", func(f []byte) bool {
		payload, ok := udpPayload(f, 6783)
		return ok && iframe.PeerNameOf(payload) == b.name()
	})
	s.must(err)
	for i := range frames {
		s.boxes[1].send(frame(s.boxes[0].mac(), s.boxes[1].mac(), 0, fmt.Sprintf("%s, number %d.", genuineText, i)))
	}
	s.captured("genuine frames", genuine, frames)
	s.must(sniffed.Close())

	before := s.dropped(a, b, "replay")
	again := sniffed.Frames()
	for range 3 {
		for _, f := range again {
			payload, _ := udpPayload(f, 6783)
			s.shoot(a, payload)
		}
	}
	s.eventually("all replays are counted", func(context.Context) error {
		if got, want := s.dropped(a, b, "replay")-before, uint64(3*len(again)); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
	for i := range frames {
		text := fmt.Sprintf("%s, number %d.", genuineText, i)
		if n := genuine.Count(func(f []byte) bool { return bytes.Contains(f, []byte(text)) }); n != 1 {
			s.Errorf("%q arrived %d times, want once", text, n)
		}
	}
}

// udpPayload finds what a frame of the LAN carries to a UDP port, if it is an
// unfragmented IPv4 datagram.
func udpPayload(f []byte, port uint16) ([]byte, bool) {
	const ipAt, udp = iframe.HeaderLen, 17
	if len(f) < ipAt+20 || binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[ipAt+9] != udp {
		return nil, false
	}
	if binary.BigEndian.Uint16(f[ipAt+6:])&0x3fff != 0 {
		return nil, false
	}
	udpAt := ipAt + int(f[ipAt]&15)*4
	if len(f) < udpAt+8+encap.SleeveNameLen || binary.BigEndian.Uint16(f[udpAt+2:]) != port {
		return nil, false
	}
	end := udpAt + int(binary.BigEndian.Uint16(f[udpAt+4:]))
	if end < udpAt+8+encap.SleeveNameLen || end > len(f) {
		return nil, false
	}
	return f[udpAt+8 : end], true
}

// TestHostileNative: what others send to the port of native datagrams, copies of
// genuine ones among them, reaches no container, harms no path, and is counted.
func TestHostileNative(t *testing.T) {
	once(t)
	const port, frames, each = 6785, 20, 3
	s := besieged(t)
	first := s.usage()
	r := rand.New(rand.NewPCG(seed(t), 4))
	a, b := s.hosts[0], s.hosts[1]
	to := netip.AddrPortFrom(a.port().Addr(), port)
	genuine := s.boxes[0].capture(genuineText)
	sniffed, err := a.Host.Capture("eth0", func(f []byte) bool {
		payload, ok := udpPayload(f, port)
		return ok && payload[0]&0xc0 == 0x80
	})
	s.must(err)
	text := func(n int) string { return fmt.Sprintf("%s, number %d.", genuineText, n) }
	for n := range frames {
		s.boxes[1].send(frame(s.boxes[0].mac(), s.boxes[1].mac(), 0, text(n)))
	}
	s.captured("genuine frames", genuine, frames)
	s.must(sniffed.Close())
	var caught [][]byte
	for _, f := range sniffed.Frames() {
		payload, _ := udpPayload(f, port)
		caught = append(caught, payload)
	}
	if len(caught) == 0 {
		t.Fatal("no native datagram crossed the LAN")
	}
	replayed, forged := s.dropped(a, b, "replay"), s.dropped(a, b, "auth")
	tick := time.NewTicker(time.Millisecond) // no flood
	defer tick.Stop()
	s.harmless(func() {
		for range each {
			for _, c := range caught {
				changed := bytes.Clone(c)
				changed[5+r.IntN(len(changed)-5)] ^= 1 << r.IntN(8) // not the index: it would be nobody's
				for _, d := range [][]byte{c, changed, c[:r.IntN(len(c))], append([]byte{0x80}, randomBytes(r, r.IntN(1400))...)} {
					_, err := s.gun.WriteToUDPAddrPort(d, to)
					s.must(err)
					<-tick.C
				}
			}
		}
	})
	s.eventually("all that was replayed and changed is counted", func(context.Context) error {
		want := uint64(each * len(caught))
		if got := s.dropped(a, b, "replay") - replayed; got < want {
			return fmt.Errorf("%d replays of %d", got, want)
		}
		if got := s.dropped(a, b, "auth") - forged; got < want {
			return fmt.Errorf("%d changed datagrams of %d", got, want)
		}
		return nil
	})
	s.answers(s.boxes...) // which were sent after all that
	for n := range frames {
		if got := genuine.Count(func(f []byte) bool { return bytes.Contains(f, []byte(text(n))) }); got != 1 {
			t.Errorf("%q arrived %d times, want once", text(n), got)
		}
	}
	s.calm(first)
}

// floodTime is how long the attacker sends as fast as it can.
const floodTime = time.Second

// flood sends forgeries and garbage to both hosts at line rate. What that costs
// is shown, not judged: the machine is the attacker's as much as theirs. They
// have to survive it.
func (s *siege) flood(r *rand.Rand) {
	s.Helper()
	var magazines [2][][]byte
	for i, at := range s.hosts {
		for _, k := range s.forgeries() {
			for range 20 {
				magazines[i] = append(magazines[i], k.make(r, s.hosts[1-i].name(), at.name()), randomBytes(r, r.IntN(1400)))
			}
		}
	}
	pings := s.boxes[0].pings(s.boxes[1])
	ctx, cancel := context.WithTimeout(s.Context(), floodTime)
	defer cancel()
	var shots atomic.Int64
	var gunners sync.WaitGroup
	for i, at := range s.hosts {
		to, magazine := at.port(), magazines[i]
		gunners.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				// Whatever does not fit into the queues is lost.
				s.gun.WriteToUDPAddrPort(magazine[n%len(magazine)], to)
				shots.Add(1)
			}
		})
	}
	gunners.Wait()
	pings.more(20)
	s.Logf("%d datagrams in %v", shots.Load(), floodTime)
	pings.end()
}

// TestRefusedPeers: who does not belong to the mesh does not get in, whoever
// dials; both are told why, and nobody else notices.
//
//	weave01 ──┐
//	weave02 ──┼── lan ── weave03, which does not belong to them
func TestRefusedPeers(t *testing.T) {
	once(t)
	const (
		ours   = "MESHD_PASSWORD=a long enough password for a test"
		theirs = "MESHD_PASSWORD=another password that is long enough"
	)
	for _, tt := range []struct {
		name           string
		mesh, stranger []string // environments
		called         int      // the stranger has the name of weave01 or weave02; 0: its own
		toUs           string   // what the stranger's status says of its attempts
		toThem         string   // what weave01's says of its own
	}{
		{"wrong password", []string{ours}, []string{theirs}, 0, "passwords", "passwords"},
		{"password on their side only", nil, []string{theirs}, 0, "the peer has none", "we have none"},
		{"password on our side only", []string{ours}, nil, 0, "we have none", "the peer has none"},
		{"name of the host that it dials", nil, nil, 1, "collision", "collision"},
		{"name of another host", nil, nil, 2, "two hosts have the peer name", "two hosts have the peer name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := besieged(t, tt.mesh...)
			a := s.hosts[0]
			stranger := s.host("weave03", s.lan.at("10.0.0.3/24"))
			stranger.Env = tt.stranger
			if tt.called != 0 {
				stranger.Name = s.hosts[tt.called-1].Name
			}
			s.harmless(func() {
				stranger.up(a.addr())
				stranger.says(a.addr(), tt.toUs)
				_, err := a.Command(s.within(patience), "connect", stranger.addr())
				s.must(err)
				a.says(stranger.addr(), tt.toThem)
			})
			for _, c := range append(a.report().Connections, stranger.report().Connections...) {
				if c.Address == stranger.port().String() && c.State == "established" {
					t.Errorf("the stranger is in: %+v", c)
				}
			}
		})
	}
}

// says waits until the attempt to connect to an address has failed, and `status`
// gives the reason.
func (h *host) says(addr, reason string) {
	h.w.Helper()
	h.w.eventually(h.NickName+" says why", func(ctx context.Context) error {
		out, err := h.Command(ctx, "status")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, "target does not answer: "+addr) && strings.Contains(line, reason) {
				h.w.Logf("%s: %s", h.NickName, strings.TrimSpace(line))
				return nil
			}
		}
		return fmt.Errorf("nothing of %q in\n%s", reason, out)
	})
}

// TestSelfConnection: a host that is told to connect to itself finds that out, and
// goes on.
func TestSelfConnection(t *testing.T) {
	once(t)
	s := besieged(t)
	a, first := s.hosts[0], s.usage()
	s.harmless(func() {
		for _, target := range []string{a.addr(), "127.0.0.1"} {
			_, err := a.Command(s.within(patience), "connect", target)
			s.must(err)
			s.eventually("it is known what is at "+target, func(ctx context.Context) error {
				r, err := a.Report(ctx)
				if err != nil {
					return err
				}
				for _, c := range r.Connections {
					if c.Address == target+":6783" && strings.Contains(c.Error, "ourself") {
						return nil
					}
				}
				return fmt.Errorf("connections are %+v", r.Connections)
			})
		}
	})
	s.calm(first)
}

// TestHostileNeighbour: what a neighbour may send that turned against the mesh
// costs the others nothing, and nothing is left of it.
func TestHostileNeighbour(t *testing.T) {
	once(t)
	for _, tt := range []struct {
		name   string
		attack func(s *siege, x *traitor)
	}{
		{"peers invented at the attacker's address", func(_ *siege, x *traitor) { x.invent("10.0.0.66:6783", "10.9.9.9:6783") }},
		// The hosts look for them there, and find each other.
		{"peers invented at the hosts' addresses", func(_ *siege, x *traitor) { x.invent("10.0.0.1:6783", "10.0.0.2:6783") }},
		{"10 MiB messages", longMessages},
		{"channels that nobody knows", junkChannels},
		{"malformed messages", malformedMessages},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := besieged(t)
			first := s.usage()
			s.harmless(func() {
				tt.attack(s, s.traitor(s.hosts[0]))
				s.calm(first)
			})
		})
	}
}

// traitor is a neighbour that a stock router could be, with a path that is up.
type traitor struct {
	*control.Conn
	s     *siege
	host  *host         // whose neighbour it is
	entry routing.Peer  // of the topology
	ended chan struct{} // closed when the connection has ended
}

// traitor becomes a neighbour of a host, and known to all.
func (s *siege) traitor(of *host) *traitor {
	s.Helper()
	stream, err := s.attacker.Dial(s.within(patience), "tcp", of.port().String())
	s.must(err)
	x := &traitor{s: s, host: of, ended: make(chan struct{})}
	x.entry = routing.Peer{
		Name: iframe.PeerName(0x0200000000f0 + rand.IntN(1<<32)<<8), UID: 1 + rand.Uint64(),
		Connections: []routing.Connection{{
			Peer: of.name(), RemoteAddr: of.port().String(), Outbound: true, Established: true,
		}},
	}
	f := control.Features{
		Name: x.entry.Name, NickName: "traitor", UID: x.entry.UID, ConnID: rand.Uint64(),
		Overlays: []string{control.SleeveOverlay}, HasOverlays: true,
	}
	x.Conn, err = control.Handshake(s.Context(), stream, control.HandshakeConfig{Dialled: true, Features: f.FeatureMap})
	s.must(err)
	go func() {
		defer close(x.ended)
		for { // takes what comes, so that nothing backs up
			if _, _, err := x.ReadMessage(); err != nil {
				return
			}
		}
	}()
	s.Cleanup(func() { x.Close(); <-x.ended })
	x.establish()
	x.heard(s.hosts...)
	return x
}

// establish brings the path up: heartbeats with the right UID are all it takes.
func (x *traitor) establish() {
	x.s.Helper()
	from, to := x.entry.Name, x.host.name()
	beat := encap.AppendSleevePacket(encap.AppendSleeveName(nil, from), from, to, heartbeat(x.UID))
	const theOnlyOverlay, established = 0, 1
	x.write(control.TagOverlay, []byte{theOnlyOverlay, established})
	x.s.eventually("the traitor is a neighbour", func(ctx context.Context) error {
		x.s.shoot(x.host, beat)
		r, err := x.host.Report(ctx)
		if err != nil {
			return err
		}
		if _, ok := r.Active(from.String()); !ok {
			return fmt.Errorf("connections are %+v", r.Connections)
		}
		return nil
	})
}

func (x *traitor) write(tag byte, body []byte) {
	x.s.Helper()
	x.s.must(x.WriteMessage(tag, body))
}

func (x *traitor) gossip(tag byte, g control.Gossip) {
	x.s.Helper()
	g.Src = x.entry.Name
	x.write(tag, control.AppendGossip(tag, g))
}

// tell gossips about some peers and, in a new version, about itself.
func (x *traitor) tell(others ...routing.Peer) {
	x.s.Helper()
	x.entry.Version++
	x.entry.NickName = fmt.Sprintf("traitor %d", x.entry.Version)
	x.gossip(control.TagGossip, control.Gossip{Channel: "topology", Payload: control.EncodeTopology(append(others, x.entry))})
}

// heard waits until hosts know the latest of the traitor, and so have taken all
// that it sent before. It says so until they do: what comes second hand before
// the news that the traitor is there may be forgotten at once.
func (x *traitor) heard(by ...*host) {
	x.s.Helper()
	want := x.entry.Version + 1
	for _, h := range by {
		x.s.eventually(h.NickName+" has heard the traitor", h.alive(func(ctx context.Context) error {
			x.tell()
			r, err := h.Report(ctx)
			if err != nil {
				return err
			}
			for _, p := range r.Peers {
				var version uint64
				fmt.Sscanf(p.NickName, "traitor %d", &version)
				if p.Name == x.entry.Name.String() && p.Reachable && version >= want {
					return nil
				}
			}
			return fmt.Errorf("version %d is not among %d peers", want, len(r.Peers))
		}))
	}
}

// thrownOut waits until the host has closed the connection because of what was
// sent last.
func (x *traitor) thrownOut() {
	x.s.Helper()
	select {
	case <-x.ended:
	case <-time.After(patience):
		x.s.Fatalf("%s keeps the traitor", x.host.NickName)
	}
}

// invent tells of 10,000 peers, most of them behind others, and says where they
// are.
func (x *traitor) invent(places ...string) {
	const hubs, each = 20, 500
	s := x.s
	link := func(to iframe.PeerName, n int) routing.Connection {
		return routing.Connection{Peer: to, RemoteAddr: places[n%len(places)], Outbound: true, Established: true}
	}
	for n := range hubs {
		hub := iframe.PeerName(0x100000 + n*each)
		var invented []routing.Peer
		for i := range each {
			p := routing.Peer{
				Name: hub + iframe.PeerName(i), UID: 1, Version: 1, NickName: "invented",
				Connections: []routing.Connection{link(hub, i)},
			}
			if i%10 == 0 {
				p.NickName = strings.Repeat("x", routing.MaxNickName)
			}
			invented = append(invented, p)
		}
		invented[0].Connections = []routing.Connection{link(x.entry.Name, n)}
		for i, p := range invented[1:] {
			invented[0].Connections = append(invented[0].Connections, link(p.Name, i))
		}
		x.entry.Connections = append(x.entry.Connections, link(hub, n))
		x.tell(invented...)
	}
	x.heard(s.hosts...)
	for _, h := range s.hosts {
		if n := len(h.report().Peers); n < each || n > routing.MaxPeers+len(s.hosts)+1 {
			s.Errorf("%s knows %d peers, want %d to %d", h.NickName, n, each, routing.MaxPeers+len(s.hosts)+1)
		}
	}
	x.Close()
}

// longMessages sends messages as long as they may be, and then begins one that is
// longer.
func longMessages(s *siege, x *traitor) {
	const longest = 10 << 20
	payload := make([]byte, longest-100)
	for i := range 3 {
		payload[0] = byte(i) // or it would be known already
		x.gossip(control.TagGossip, control.Gossip{Channel: "big", Payload: payload})
	}
	x.heard(s.hosts...)
	_, err := x.Net.Write(binary.BigEndian.AppendUint32(nil, longest+1))
	s.must(err)
	x.thrownOut()
}

// junkChannels gossips on a thousand channels, and a thousand times on one.
func junkChannels(s *siege, x *traitor) {
	text := []byte(strings.Repeat("junk", 256))
	for i := range 1000 {
		channel := fmt.Sprintf("channel %d of those %s", i, text[:200])
		x.gossip(control.TagGossip, control.Gossip{Channel: channel, Payload: text})
		x.gossip(control.TagGossip, control.Gossip{Channel: "one", Payload: fmt.Appendf(nil, "%s %d", text, i)})
		x.gossip(control.TagGossipBroadcast, control.Gossip{Channel: channel, Payload: text})
		x.gossip(control.TagGossipUnicast, control.Gossip{Channel: "one", Dst: s.hosts[1].name(), Payload: text})
		x.gossip(control.TagGossipUnicast, control.Gossip{Channel: "one", Dst: 1, Payload: text})
		x.write(byte(128+i%128), text) // a tag that nobody knows
	}
	x.heard(s.hosts...)
	x.Close()
}

// malformedMessages sends each to both hosts: those that only the sender can have
// made end the connection.
func malformedMessages(s *siege, x *traitor) {
	gossip := func(tag byte, src iframe.PeerName, payload []byte) []byte {
		return control.AppendGossip(tag, control.Gossip{Channel: "topology", Src: src, Dst: s.hosts[0].name(), Payload: payload})
	}
	cut := control.EncodeTopology([]routing.Peer{{Name: 9, UID: 1}})[:30]
	bomb := []byte{0xf8, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1} // promises 2^63 bytes
	for _, m := range []struct {
		name string
		tag  byte
		body []byte
		ends bool
	}{
		{"broadcast that is no gob", control.TagGossipBroadcast, bytes.Repeat([]byte{0xff}, 100), false},
		{"another's topology that is cut short", control.TagGossipBroadcast, gossip(control.TagGossipBroadcast, 9, cut), false},
		{"another's topology as unicast", control.TagGossipUnicast, gossip(control.TagGossipUnicast, 9, cut), false},
		{"overlay control without a body", control.TagOverlay, nil, true},
		{"overlay control for an overlay beyond", control.TagOverlay, []byte{9, 1}, true},
		{"gossip without a body", control.TagGossip, nil, true},
		{"topology cut short", control.TagGossip, gossip(control.TagGossip, 9, cut), true},
		{"gob bomb", control.TagGossip, gossip(control.TagGossip, 9, bomb), true},
	} {
		s.Logf("%s", m.name)
		x.write(m.tag, m.body)
		if !m.ends {
			x.heard(s.hosts...)
			continue
		}
		x.thrownOut()
		x = s.traitor(x.host) // another one
	}
	x.Close()
}
