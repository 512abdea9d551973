package transporttest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
)

// Times that every transport keeps between meshd peers.
const (
	upWithin     = 3 * time.Second
	deathWithin  = 2500 * time.Millisecond // design, section 5
	lossWithin   = 1500 * time.Millisecond // after the control connection is lost
	settleWithin = 10 * time.Second        // until the MTU is found
	rtt          = 20 * time.Millisecond
)

// lan is the link that most tests use.
var lan = Link{Latency: rtt / 2}

// Traits is what a transport promises beyond what all do.
type Traits struct {
	Plain      bool // it carries frames without a key too
	Aggregates bool // it puts many small frames into one datagram
	Follows    bool // it follows a neighbour whose address changes
	IPv6       bool
	Hops       bool // it carries Packet.Hops
	// Overhead is how many bytes of IPv4 underlay packet go with an inner IP packet.
	Overhead func(sealed bool) int
	// Delay is how much longer than the link a burst may take, of a transport that
	// spares the network.
	Delay time.Duration
	// Late is the share of datagrams that a link may cost which reorders them by
	// more than a round trip.
	Late float64
	// Burst is how many datagrams at once are sure to be taken; 0: any number.
	Burst int
	// Slack is how many bytes the MTU may be lower than the link and Overhead allow,
	// where the search for it ends early or has a ceiling.
	Slack int
	// Stream: frames go over a Stream, in which nothing is lost. The MTU is always what
	// Overhead leaves of an Ethernet.
	Stream bool
}

// Run is the suite that every transport passes.
func Run(t *testing.T, f Factory, traits Traits) {
	variants := []struct {
		name   string
		sealed bool
	}{{"sealed", true}, {"plain", false}}
	for _, v := range variants {
		if !v.sealed && !traits.Plain {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			s := suite{f: f, traits: traits, opts: Options{Sealed: v.sealed, Link: lan, Seed: 1}}
			for _, tt := range s.tests() {
				t.Run(tt.name, func(t *testing.T) { synctest.Test(t, tt.run) })
			}
		})
	}
}

type suite struct {
	f      Factory
	traits Traits
	opts   Options
}

type test struct {
	name string
	run  func(t *testing.T)
}

func (s suite) tests() []test {
	tests := []test{
		{"comes up", s.comesUp},
		{"frames in order", s.order},
		{"concurrent senders", s.concurrent},
		{"every size", s.sizes},
		{"too big", s.tooBig},
		{"large without DF", s.large},
		{"foreign packets", s.foreign},
		{"super-frames", s.superFrames},
		{"super-frames too big", s.superTooBig},
		{"super-frames with loss", s.superLoss},
		{"unfinished checksums", s.unfinished},
		{"metadata that lies", s.lies},
		{"segment size of connections", s.clamps},
		{"before it is up", s.before},
		{"dies and returns", s.dies},
		{"dies one way", s.diesOneWay},
		{"control lost, path lives", s.controlLost},
		{"control lost, neighbour dead", s.neighbourDead},
		{"two sessions", s.twoSessions},
		{"loss", s.loss},
		{"jitter", s.jitter},
		{"black hole", s.blackHole},
		{"counters", s.counters},
		{"garbage", s.garbage},
		{"forged", s.forged},
		{"control messages", s.control},
		{"ends", s.ends},
		{"rests", s.rests},
		{"rests at one end", s.restsOneEnd},
		{"hurried", s.hurried},
		{"dies while it rests", s.diesResting},
		{"dies while frames flow", s.diesBusy},
		{"control lost while it rests", s.lostResting},
	}
	if s.opts.Sealed {
		tests = append(tests, test{"replay", s.replay})
	}
	if s.traits.Aggregates {
		tests = append(tests, test{"aggregates", s.aggregates})
	}
	if s.traits.Follows {
		tests = append(tests, test{"rests behind a NAT that forgets", s.restsForgotten})
		tests = append(tests, test{"follows an address", s.follows})
	}
	if s.traits.Hops {
		tests = append(tests, test{"hops", s.hops})
	}
	if s.traits.IPv6 {
		tests = append(tests, test{"IPv6", s.ipv6})
	}
	return tests
}

// connect makes a pair whose paths are up and whose MTU is found.
func (s suite) connect(t *testing.T, change ...func(*Options)) (*Pair, *Conn) {
	t.Helper()
	o := s.opts
	for _, f := range change {
		f(&o)
	}
	p := NewPair(t, s.f, o)
	c := p.Connect(t)
	c.Up(t, upWithin)
	wait(settleWithin)
	return p, c
}

// pause ends a burst after datagram n.
func (s suite) pause(n int) {
	if s.traits.Burst > 0 && n%s.traits.Burst == 0 {
		wait(time.Millisecond)
	}
}

// wait lets time pass.
func wait(d time.Duration) { <-time.After(d) }

// packet is a packet between the two ends.
func packet(from, to *End, data []byte) frame.Packet {
	return frame.Packet{Src: from.Peer.Name, Dst: to.Peer.Name, Frame: frame.Frame{Data: data}}
}

// send sends frames in one batch, which must be no error.
func send(t *testing.T, path transport.Path, packets ...frame.Packet) {
	t.Helper()
	for _, p := range packets {
		if err := path.Send(p); err != nil {
			t.Fatalf("Send of %d bytes: %v", len(p.Frame.Data), err)
		}
	}
	if err := path.Flush(); err != nil {
		t.Fatalf("Flush: %v", err)
	}
}

// same fails unless the packets are those that were sent, in order.
func same(t *testing.T, got, want []frame.Packet) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d packets arrived, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Src != want[i].Src || got[i].Dst != want[i].Dst || !bytes.Equal(got[i].Frame.Data, want[i].Frame.Data) {
			t.Fatalf("packet %d = %v→%v %x, want %v→%v %x", i, got[i].Src, got[i].Dst, head(got[i]), want[i].Src, want[i].Dst, head(want[i]))
		}
	}
}

func head(p frame.Packet) []byte { return p.Frame.Data[:min(32, len(p.Frame.Data))] }

// works fails unless a frame gets from each end to the other.
func works(t *testing.T, p *Pair, c *Conn) {
	t.Helper()
	p.A.Take()
	p.B.Take()
	there, back := packet(p.A, p.B, Frame(1, 100)), packet(p.B, p.A, Frame(2, 100))
	send(t, c.A.Path, there)
	send(t, c.B.Path, back)
	wait(time.Second)
	same(t, p.B.Take(), []frame.Packet{there})
	same(t, p.A.Take(), []frame.Packet{back})
}

// down counts the reports of a side that was down.
func down(s *Side) (n int) {
	for _, st := range s.States() {
		if !st.Up {
			n++
		}
	}
	return n
}

func (s suite) comesUp(t *testing.T) {
	p, c := s.connect(t)
	for _, x := range c.Sides() {
		st := x.State()
		if st.Encrypted != s.opts.Sealed || st.Why != "" || !st.Addr.IsValid() {
			t.Errorf("state = %+v, want encrypted %v, an address, no reason", st, s.opts.Sealed)
		}
		if st.Authenticated != s.opts.Sealed {
			t.Errorf("authenticated = %v, want %v: both ends know the password", st.Authenticated, s.opts.Sealed)
		}
		s.found(t, "", st.MTU, defaultMTU)
		if st.RTT < rtt || st.RTT > 2*rtt {
			t.Errorf("RTT = %v, want about %v", st.RTT, rtt)
		}
		if st.MinRTT < rtt || st.MinRTT > st.RTT {
			t.Errorf("least RTT = %v, want between %v and the smoothed %v", st.MinRTT, rtt, st.RTT)
		}
		if st.Handshakes != 1 || st.Rekeys != 0 {
			t.Errorf("%d handshakes and %d changes of keys of a new path, want 1 and none", st.Handshakes, st.Rekeys)
		}
		if st.Loss != 0 {
			t.Errorf("loss = %v, want 0", st.Loss)
		}
	}
	works(t, p, c)
}

// found fails unless the MTU is what an IPv4 link of link bytes leaves.
func (s suite) found(t *testing.T, what string, mtu, link int) {
	t.Helper()
	if s.traits.Stream {
		link = defaultMTU
	}
	want := link - s.traits.Overhead(s.opts.Sealed)
	if mtu > want || mtu < want-s.traits.Slack {
		t.Errorf("MTU%s = %d, want %d, or up to %d less", what, mtu, want, s.traits.Slack)
	}
}

func (s suite) order(t *testing.T) {
	p, c := s.connect(t)
	var there, back []frame.Packet
	for i := range uint64(2000) {
		there = append(there, packet(p.A, p.B, Frame(i, 60+int(i%1200))))
		back = append(back, packet(p.B, p.A, IPv4Frame(i, 40+int(i%1200), true)))
	}
	for i := 0; i < len(there); i += 50 {
		send(t, c.A.Path, there[i:i+50]...)
		send(t, c.B.Path, back[i:i+50]...)
		wait(time.Millisecond)
	}
	wait(time.Second)
	same(t, p.B.Take(), there)
	same(t, p.A.Take(), back)
}

func (s suite) concurrent(t *testing.T) {
	p, c := s.connect(t)
	const senders, each = 8, 200
	var wg sync.WaitGroup
	for n := range senders {
		wg.Go(func() {
			for i := range each {
				_ = c.A.Path.Send(packet(p.A, p.B, Frame(uint64(n<<32|i), 80)))
				if i%10 == 9 {
					_ = c.A.Path.Flush()
				}
			}
		})
	}
	wg.Wait()
	wait(time.Second)
	next := map[uint64]uint64{}
	got := p.B.Take()
	for _, pk := range got {
		number := beUint64(pk.Frame.Data[frame.HeaderLen:])
		if sender := number >> 32; next[sender] != number&0xffffffff {
			t.Fatalf("frame %d of sender %d came before frame %d", number&0xffffffff, sender, next[sender])
		}
		next[number>>32]++
	}
	if len(got) != senders*each {
		t.Errorf("%d frames arrived, want %d", len(got), senders*each)
	}
}

func (s suite) sizes(t *testing.T) {
	p, c := s.connect(t)
	mtu := c.A.State().MTU
	var sent []frame.Packet
	for n := frame.HeaderLen; n <= mtu+frame.HeaderLen; n++ {
		sent = append(sent, packet(p.A, p.B, Frame(uint64(n), n)))
		send(t, c.A.Path, sent[len(sent)-1])
		s.pause(n)
	}
	wait(time.Second)
	same(t, p.B.Take(), sent)
	sent = nil
	for n := 28; n <= mtu; n++ {
		sent = append(sent, packet(p.A, p.B, IPv4Frame(uint64(n), n, true)))
		send(t, c.A.Path, sent[len(sent)-1])
		s.pause(n)
	}
	wait(time.Second)
	same(t, p.B.Take(), sent)
	send(t, c.A.Path, packet(p.A, p.B, nil), packet(p.A, p.B, make([]byte, 13)), packet(p.A, p.B, make([]byte, 60)))
	wait(time.Second)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d packets arrived that have no Ethernet header, want none", len(got))
	}
}

func (s suite) tooBig(t *testing.T) {
	p, c := s.connect(t)
	mtu := c.A.State().MTU
	for _, b := range [][]byte{
		IPv4Frame(1, mtu+1, true), IPv4Frame(1, 9000, true), IPv6Frame(1, mtu+1), IPv6Frame(1, 40000),
	} {
		err := c.A.Path.Send(packet(p.A, p.B, b))
		big, ok := errors.AsType[*transport.TooBigError](err)
		if !ok || big.MTU != mtu {
			t.Errorf("Send of an IP packet of %d bytes = %v, want too big for %d", len(b)-frame.HeaderLen, err, mtu)
		}
	}
	if err := c.A.Path.Flush(); err != nil {
		t.Fatal(err)
	}
	wait(time.Second)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d packets arrived, want none", len(got))
	}
	works(t, p, c)
}

// large sends IPv4 packets that may be fragmented over paths with and without
// fragments of their own. They arrive whole or in fragments, but all of them.
func (s suite) large(t *testing.T) {
	for _, drop := range []bool{false, true} {
		p, c := s.connect(t, func(o *Options) { o.Link.DropFragments = drop })
		const size = 6000
		send(t, c.A.Path, packet(p.A, p.B, IPv4Frame(7, size, false)))
		wait(time.Second)
		payload := 0
		for _, pk := range p.B.Take() {
			if cl := frame.Classify(pk.Frame.Data); cl.Kind != frame.IPv4 || cl.Len != len(pk.Frame.Data)-frame.HeaderLen {
				t.Errorf("a fragment is %+v", cl)
			}
			payload += len(pk.Frame.Data) - frame.HeaderLen - 20
		}
		if payload != size-20 {
			t.Errorf("drop fragments %v: %d bytes of payload arrived, want %d", drop, payload, size-20)
		}
	}
}

// foreign sends what a relay does: packets between other peers.
func (s suite) foreign(t *testing.T) {
	p, c := s.connect(t)
	pk := frame.Packet{Src: 0xa1, Dst: 0xb2, Frame: frame.Frame{Data: Frame(3, 200)}}
	send(t, c.A.Path, pk)
	wait(time.Second)
	same(t, p.B.Take(), []frame.Packet{pk})
}

// before sends when there is no way yet: it is an error, or lost, never a wait.
func (s suite) before(t *testing.T) {
	o := s.opts
	o.Link.Cut = true
	p := NewPair(t, s.f, o)
	c := p.Connect(t)
	wait(20 * time.Second)
	for _, x := range c.Sides() {
		if x.State().Up || x.State().Why == "" {
			t.Errorf("state over a cut link = %+v, want not up, with a reason", x.State())
		}
		if x.State().MinRTT != 0 {
			t.Errorf("least RTT over a cut link = %v, want unknown", x.State().MinRTT)
		}
		_ = x.Path.Send(packet(p.A, p.B, Frame(1, 100)))
		_ = x.Path.Flush()
	}
	p.Net.Connect(p.A.Host, p.B.Host, lan)
	c.Up(t, upWithin)
	works(t, p, c)
}

func (s suite) dies(t *testing.T) {
	p, c := s.connect(t)
	for range 3 {
		cut := lan
		cut.Cut = true
		p.Net.Connect(p.A.Host, p.B.Host, cut)
		start := time.Now()
		for _, x := range c.Sides() {
			Eventually(t, deathWithin-time.Since(start), "path is down", func() bool { return !x.State().Up })
			if x.State().Why == "" {
				t.Error("no reason given")
			}
		}
		wait(30 * time.Second)
		p.Net.Connect(p.A.Host, p.B.Host, lan)
		c.Up(t, upWithin)
		works(t, p, c)
	}
}

func (s suite) diesOneWay(t *testing.T) {
	p, c := s.connect(t)
	cut := lan
	cut.Cut = true
	for _, hosts := range [][2]*Host{{p.A.Host, p.B.Host}, {p.B.Host, p.A.Host}} {
		p.Net.SetLink(hosts[0], hosts[1], cut)
		start := time.Now()
		for _, x := range c.Sides() {
			Eventually(t, deathWithin-time.Since(start), "path is down", func() bool { return !x.State().Up })
		}
		c.A.States()
		c.B.States()
		wait(time.Minute)
		for _, x := range c.Sides() {
			for _, st := range x.States() {
				if st.Up {
					t.Error("path came up while one direction was cut")
				}
			}
		}
		p.Net.SetLink(hosts[0], hosts[1], lan)
		wait(upWithin)
		works(t, p, c)
	}
}

func (s suite) controlLost(t *testing.T) {
	p, c := s.connect(t)
	c.A.Lose()
	c.B.Lose()
	c.A.States()
	c.B.States()
	for range 10 {
		wait(time.Second)
		works(t, p, c)
	}
	for _, x := range c.Sides() {
		if down(x) > 0 {
			t.Error("path went down although it works")
		}
		select {
		case err := <-x.Ended:
			t.Errorf("Run = %v although the path works", err)
		default:
		}
	}
	cut := lan
	cut.Cut = true
	p.Net.Connect(p.A.Host, p.B.Host, cut)
	for _, x := range c.Sides() {
		ended(t, x, deathWithin)
	}
}

// ended fails unless Run returns an error in time.
func ended(t *testing.T, s *Side, within time.Duration) {
	t.Helper()
	select {
	case err := <-s.Ended:
		if err == nil {
			t.Error("Run = nil, want why the path ended")
		}
	case <-time.After(within):
		t.Errorf("Run has not returned after %v", within)
	}
}

func (s suite) neighbourDead(t *testing.T) {
	_, c := s.connect(t)
	c.B.Stop()
	c.A.Lose() // the dead process's kernel resets the connection
	ended(t, c.A, lossWithin)
	if err := <-c.B.Ended; err != nil {
		t.Errorf("Run = %v, want nil after cancel", err)
	}
}

// twoSessions makes a session while another one's path still carries frames.
func (s suite) twoSessions(t *testing.T) {
	p, old := s.connect(t)
	old.A.Lose()
	fresh := p.Connect(t)
	fresh.Up(t, upWithin)
	wait(settleWithin)
	works(t, p, fresh)
	works(t, p, old)
	fresh.A.States()
	fresh.B.States()
	old.B.Stop()
	old.A.Stop()
	wait(10 * time.Second)
	works(t, p, fresh)
	if down(fresh.A)+down(fresh.B) > 0 {
		t.Error("the new path went down when the old one ended")
	}
}

func (s suite) loss(t *testing.T) {
	p, c := s.connect(t)
	lossy := lan
	lossy.Loss = 0.1
	p.Net.Connect(p.A.Host, p.B.Host, lossy)
	for _, x := range c.Sides() {
		x.States()
	}
	mtu := c.A.State().MTU
	if mtu == 0 {
		t.Fatal("no MTU before the loss")
	}
	const readings = 20
	losses := map[*Side][]float64{} // single ones may be of few probes, after a bad moment
	for range readings {
		wait(30 * time.Second)
		for _, x := range c.Sides() {
			losses[x] = append(losses[x], x.State().Loss)
		}
	}
	for _, x := range c.Sides() {
		if n := down(x); n > 0 {
			t.Errorf("path went down %d times on a link that loses 10 %%", n)
		}
		slices.Sort(losses[x])
		least, most := 0.1, 0.3
		if s.traits.Stream {
			least, most = 0, 0
		}
		if l := losses[x][readings/2]; l < least || l > most {
			t.Errorf("loss = %v, want from %v to %v", losses[x], least, most)
		}
		if x.State().MTU != mtu {
			t.Errorf("MTU = %d, want still %d", x.State().MTU, mtu)
		}
	}
}

func (s suite) jitter(t *testing.T) {
	p, c := s.connect(t, func(o *Options) { o.Link = Link{Latency: 50 * time.Millisecond, Jitter: 300 * time.Millisecond} })
	c.A.States()
	c.B.States()
	var sent []frame.Packet
	for i := range uint64(500) {
		sent = append(sent, packet(p.A, p.B, Frame(i, 300)))
		send(t, c.A.Path, sent[i])
		wait(10 * time.Millisecond)
	}
	wait(time.Second)
	least := len(sent) - int(s.traits.Late*float64(len(sent)))
	if got := p.B.Take(); len(got) > len(sent) || len(got) < least {
		t.Errorf("%d frames arrived over a link that reorders, want %d, or at least %d", len(got), len(sent), least)
	}
	if down(c.A)+down(c.B) > 0 {
		t.Error("path went down on a link that reorders")
	}
}

// blackHole shrinks the path without telling anybody.
func (s suite) blackHole(t *testing.T) {
	p, c := s.connect(t)
	hole := lan
	hole.MTU, hole.KnownMTU = 1400, 1500
	p.Net.Connect(p.A.Host, p.B.Host, hole)
	wait(30 * time.Second)
	for _, x := range c.Sides() {
		s.found(t, " of a path that drops more than 1400 bytes", x.State().MTU, 1400)
	}
	told := lan
	told.MTU = 1300
	p.Net.Connect(p.A.Host, p.B.Host, told)
	wait(30 * time.Second)
	for _, x := range c.Sides() {
		s.found(t, " when the kernel knows of 1300 bytes", x.State().MTU, 1300)
	}
	pk := packet(p.A, p.B, IPv4Frame(5, c.A.State().MTU, true))
	send(t, c.A.Path, pk)
	wait(time.Second)
	same(t, p.B.Take(), []frame.Packet{pk})
}

func (s suite) counters(t *testing.T) {
	p, c := s.connect(t)
	const frames, size = 500, 333
	for i := range uint64(frames) {
		send(t, c.A.Path, packet(p.A, p.B, Frame(i, size)))
	}
	_ = c.A.Path.Send(packet(p.A, p.B, IPv4Frame(1, 5000, true)))
	_ = c.A.Path.Flush()
	wait(time.Second)
	tx, rx := c.A.Counters.Tx.Stats(), c.B.Counters.Rx.Stats()
	if tx.Frames != frames || tx.Bytes != frames*size {
		t.Errorf("sent %d frames, %d bytes; want %d, %d", tx.Frames, tx.Bytes, frames, frames*size)
	}
	if rx.Frames != frames || rx.Bytes != frames*size {
		t.Errorf("received %d frames, %d bytes; want %d, %d", rx.Frames, rx.Bytes, frames, frames*size)
	}
	if tx.Drops[transport.DropTooBig.String()] != 1 || len(tx.Drops) != 1 || len(rx.Drops) != 0 {
		t.Errorf("drops sent %v, received %v; want one too big", tx.Drops, rx.Drops)
	}
	if tx.Datagrams == 0 || rx.Datagrams == 0 {
		t.Errorf("datagrams sent %d, received %d", tx.Datagrams, rx.Datagrams)
	}
}

// garbage floods both ends with bytes that mean nothing, from elsewhere and from
// the neighbour's address.
func (s suite) garbage(t *testing.T) {
	p, c := s.connect(t)
	c.A.States()
	c.B.States()
	rng := rand.New(rand.NewPCG(3, 4))
	elsewhere := netip.MustParseAddrPort("203.0.113.9:6783")
	buf := make([]byte, 65507)
	for i := range 4000 {
		n := rng.IntN(200)
		if i%50 == 0 {
			n = rng.IntN(len(buf))
		}
		for j := range buf[:n] {
			buf[j] = byte(rng.Uint32())
		}
		if i%2 == 0 && n >= 6 {
			p.A.Peer.Name.Put(buf)
		}
		from := elsewhere
		if i%4 == 0 && s.opts.Sealed {
			from = p.A.Addr
		}
		p.Net.Inject(from, p.B.Addr, buf[:n])
		if i%20 == 0 {
			wait(time.Millisecond)
		}
	}
	wait(time.Second)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d packets came out of garbage", len(got))
	}
	if down(c.A)+down(c.B) > 0 {
		t.Error("path went down under garbage")
	}
	works(t, p, c)
}

// forged sends the neighbour's own datagrams, changed by a bit or cut, from the
// address of somebody else.
func (s suite) forged(t *testing.T) {
	p, c := s.connect(t)
	seen := record(p, p.A.Addr)
	send(t, c.A.Path, packet(p.A, p.B, Frame(1, 500)), packet(p.A, p.B, IPv4Frame(2, 500, true)))
	wait(2 * time.Second)
	p.B.Take()
	addr := c.B.State().Addr
	elsewhere := netip.MustParseAddrPort("203.0.113.9:6783")
	for _, d := range seen() {
		if !s.opts.Sealed && len(d) < 400 {
			continue // without a key the connection UID in probes is all there is to check
		}
		for i := range d {
			b := bytes.Clone(d)
			b[i] ^= 0x10
			p.Net.Inject(elsewhere, p.B.Addr, b)
			p.Net.Inject(elsewhere, p.B.Addr, d[:i])
			if i%64 == 0 {
				wait(time.Millisecond)
			}
		}
	}
	wait(time.Second)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d forged packets were taken, the first %x", len(got), head(got[0]))
	}
	if got := c.B.State().Addr; got != addr {
		t.Errorf("neighbour's address is now %v, was %v", got, addr)
	}
	works(t, p, c)
}

// record returns a function that stops recording what comes from an address and
// gives what was recorded.
func record(p *Pair, from netip.AddrPort) func() [][]byte {
	var mu sync.Mutex
	var seen [][]byte
	stopped := false
	p.Net.Watch(func(d Datagram) {
		mu.Lock()
		defer mu.Unlock()
		if d.From == from && !stopped {
			seen = append(seen, bytes.Clone(d.Payload))
		}
	})
	return func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		return seen
	}
}

func (s suite) replay(t *testing.T) {
	p, c := s.connect(t)
	seen := record(p, p.A.Addr)
	for i := range uint64(300) {
		send(t, c.A.Path, packet(p.A, p.B, Frame(i, 100)), packet(p.A, p.B, IPv4Frame(i, 100, true)))
	}
	wait(time.Second)
	if got := len(p.B.Take()); got != 600 {
		t.Fatalf("%d packets arrived, want 600", got)
	}
	addr := c.B.State().Addr
	all := seen()
	for range 3 {
		for i, d := range all {
			p.Net.Inject([]netip.AddrPort{p.A.Addr, netip.MustParseAddrPort("203.0.113.9:6783")}[i%2], p.B.Addr, d)
		}
		wait(time.Second)
	}
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d replayed packets were taken", len(got))
	}
	if got := c.B.State().Addr; got != addr {
		t.Errorf("replayed datagrams moved the neighbour's address to %v", got)
	}
	works(t, p, c)
}

func (s suite) aggregates(t *testing.T) {
	p, c := s.connect(t)
	for _, make := range []func(i uint64) []byte{
		func(i uint64) []byte { return Frame(i, 64) },
		func(i uint64) []byte { return IPv4Frame(i, 50, true) },
	} {
		before := c.A.Counters.Tx.Stats().Datagrams
		var sent []frame.Packet
		for i := range uint64(1000) {
			sent = append(sent, packet(p.A, p.B, make(i)))
		}
		send(t, c.A.Path, sent...)
		used := c.A.Counters.Tx.Stats().Datagrams - before
		if used > 1000/15 {
			t.Errorf("1000 small frames took %d datagrams", used)
		}
		wait(time.Second)
		same(t, p.B.Take(), sent)
	}
}

func (s suite) follows(t *testing.T) {
	p, c := s.connect(t, func(o *Options) { o.NAT = true })
	works(t, p, c)
	c.A.States()
	c.B.States()
	for range 3 {
		addr := c.B.State().Addr
		p.NAT.Rebind()
		Eventually(t, 2*time.Second, "the neighbour's new address is known", func() bool { return c.B.State().Addr != addr })
		wait(time.Second)
		works(t, p, c)
		wait(5 * time.Second)
	}
	if down(c.A)+down(c.B) > 0 {
		t.Error("path went down when the address changed")
	}
}

func (s suite) ipv6(t *testing.T) {
	p, c := s.connect(t, func(o *Options) { o.IPv6 = true })
	for _, x := range c.Sides() {
		s.found(t, " over IPv6", x.State().MTU, defaultMTU-20)
		if addr := x.State().Addr; !addr.Addr().Is6() {
			t.Errorf("address = %v, want one of IPv6", addr)
		}
	}
	works(t, p, c)
}

// control hands the path messages that mean nothing.
func (s suite) control(t *testing.T) {
	p, c := s.connect(t)
	mtu := c.A.State().MTU
	for tag := range 256 {
		for _, msg := range [][]byte{nil, {}, {0}, {0, 0}, {0xff, 0xff}, {1, 2, 3}, make([]byte, 1<<16)} {
			c.A.Path.HandleControl(byte(tag), msg)
		}
	}
	wait(time.Minute)
	if got := c.A.State().MTU; got != mtu {
		t.Errorf("MTU = %d, want still %d", got, mtu)
	}
	works(t, p, c)
}

// ends stops a path; after it nothing is delivered, and Send does no harm.
func (s suite) ends(t *testing.T) {
	p, c := s.connect(t)
	c.B.Stop()
	if err := <-c.B.Ended; err != nil {
		t.Errorf("Run = %v, want nil after cancel", err)
	}
	_ = c.A.Path.Send(packet(p.A, p.B, Frame(1, 100)))
	_ = c.A.Path.Flush()
	wait(time.Second)
	if got := p.B.Take(); len(got) != 0 {
		t.Errorf("%d packets were delivered after the path's end", len(got))
	}
	_ = c.B.Path.Send(packet(p.B, p.A, Frame(1, 100)))
	_ = c.B.Path.Flush()
}

func beUint64(b []byte) (n uint64) {
	for _, x := range b[:8] {
		n = n<<8 | uint64(x)
	}
	return n
}
