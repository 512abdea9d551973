package sleeve

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/frame"
	"meshd/transport"
	"meshd/transport/transporttest"
)

// capturedDatagram is a datagram of a stock router, from the captures.
type capturedDatagram struct {
	Capture      string         `json:"capture"`
	Sender       frame.PeerName `json:"sender"`
	DF           bool           `json:"df"`
	StackOK      bool           `json:"stack_ok"`
	Payload      string         `json:"payload"`
	Key          string         `json:"key"`
	SenderDialed bool           `json:"sender_dialled"`
	Sequence     int            `json:"sequence"`
	Frames       []struct {
		Src   frame.PeerName `json:"src"`
		Dst   frame.PeerName `json:"dst"`
		Frame string         `json:"frame"`
	} `json:"frames"`
}

func readJSON[T any](t testing.TB, file string) (v T) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keyOf(t *testing.T, s string) *[32]byte {
	t.Helper()
	if s == "" {
		return nil
	}
	k := [32]byte(unhex(t, s))
	return &k
}

const (
	host1 = frame.PeerName(0x020000000001)
	host2 = frame.PeerName(0x020000000002)
)

func other(n frame.PeerName) frame.PeerName {
	if n == host1 {
		return host2
	}
	return host1
}

func (d capturedDatagram) packets(t *testing.T) []frame.Packet {
	var all []frame.Packet
	for _, f := range d.Frames {
		all = append(all, frame.Packet{Src: f.Src, Dst: f.Dst, Frame: frame.Frame{Data: unhex(t, f.Frame)}})
	}
	return all
}

// wire is a socket that keeps what is written.
type wire struct {
	*transporttest.Socket
	mu   sync.Mutex
	sent []transporttest.Datagram
}

// newWire makes a socket on a network whose other host, far, hears nothing.
func newWire(t *testing.T, l transporttest.Link) (w *wire, far netip.AddrPort) {
	t.Helper()
	n := transporttest.NewNetwork(1, l)
	near := netip.MustParseAddrPort("10.9.9.1:6783")
	far = netip.MustParseAddrPort("10.9.9.2:6783")
	h := n.Host(near.Addr())
	n.Host(far.Addr())
	s, err := h.Listen(near)
	if err != nil {
		t.Fatal(err)
	}
	w = &wire{Socket: s}
	n.Watch(func(d transporttest.Datagram) {
		w.mu.Lock()
		defer w.mu.Unlock()
		d.Payload = bytes.Clone(d.Payload)
		w.sent = append(w.sent, d)
	})
	return w, far
}

func (w *wire) take() []transporttest.Datagram {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent = nil
	return sent
}

// session makes a session that goes nowhere but to the given functions.
func session(local frame.PeerName, key *[32]byte, dialled bool) transport.Session {
	return transport.Session{
		Local: transport.Peer{Name: local}, Remote: transport.Peer{Name: other(local)},
		UID: 0x1122334455667788, Dialled: dialled, Key: key, Done: make(chan struct{}),
		SendControl: func(byte, []byte) error { return nil }, Counters: &transport.Counters{},
	}
}

// openPath makes a path that sends over w.
func openPath(t *testing.T, w PacketConn, far netip.AddrPort, s transport.Session, deliver frame.Handler) *path {
	t.Helper()
	tr, err := New(Config{Local: s.Local.Name, Deliver: deliver, Sockets: []PacketConn{w}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tr.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	sp := p.(*path)
	sp.tx.route(far, w, sp.PMTU.Limit(1500))
	return sp
}

func ignore([]frame.Packet) {}

// The frames of each captured datagram, sent together, make that datagram again,
// byte by byte and in the same class.
func TestCapturedDatagramsAreSent(t *testing.T) {
	for i, d := range readJSON[[]capturedDatagram](t, "datagrams.json") {
		t.Run(d.Capture+"/"+strconv.Itoa(i), func(t *testing.T) {
			w, far := newWire(t, transporttest.Link{})
			p := openPath(t, w, far, session(d.Sender, keyOf(t, d.Key), d.SenderDialed), ignore)
			p.tx.setStackOK(d.StackOK)
			if d.Key != "" {
				for range d.Sequence {
					p.tx.seal.Seal(nil, d.Sender, nil, d.DF)
				}
			}
			for _, pk := range d.packets(t) {
				if err := p.Send(pk); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Flush(); err != nil {
				t.Fatal(err)
			}
			sent := w.take()
			if len(sent) != 1 {
				t.Fatalf("%d datagrams were sent, want 1", len(sent))
			}
			if got := hex.EncodeToString(sent[0].Payload); got != d.Payload {
				t.Errorf("datagram\n%s, want\n%s", got, d.Payload)
			}
			if sent[0].DF != d.DF {
				t.Errorf("DF = %v, want %v", sent[0].DF, d.DF)
			}
		})
	}
}

func TestCapturedDatagramsAreReceived(t *testing.T) {
	for i, d := range readJSON[[]capturedDatagram](t, "datagrams.json") {
		t.Run(d.Capture+"/"+strconv.Itoa(i), func(t *testing.T) {
			var got []frame.Packet
			w, far := newWire(t, transporttest.Link{})
			p := openPath(t, w, far, session(other(d.Sender), keyOf(t, d.Key), !d.SenderDialed), func(b []frame.Packet) {
				for _, pk := range b {
					pk.Frame.Data = bytes.Clone(pk.Frame.Data)
					got = append(got, pk)
				}
			})
			p.t.add(p)
			p.from.Store(&far) // as after a heartbeat
			r := newReader(p.t, w)
			r.datagram(unhex(t, d.Payload), far, false)
			r.flush()
			want := d.packets(t)
			if len(got) != len(want) {
				t.Fatalf("%d packets, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i].Src != want[i].Src || got[i].Dst != want[i].Dst || !bytes.Equal(got[i].Frame.Data, want[i].Frame.Data) {
					t.Errorf("packet %d = %+v, want %+v", i, got[i], want[i])
				}
			}
		})
	}
}

// conversation is what two stock routers said to each other: datagrams and
// overlay control messages.
type conversation struct {
	Capture string `json:"capture"`
	Client  string `json:"client"`
	Server  string `json:"server"`
	UID     string `json:"connection_uid"`
	Key     string `json:"key"`
	Events  []struct {
		T       float64        `json:"t"`
		Sender  frame.PeerName `json:"sender"`
		From    string         `json:"from"`
		To      string         `json:"to"`
		DF      bool           `json:"df"`
		Kind    string         `json:"kind"`
		Len     int            `json:"frame_len"`
		Payload string         `json:"payload"`
		SHA256  string         `json:"payload_sha256"`
		Control byte           `json:"control"`
		Body    string         `json:"body"`
	} `json:"events"`
}

// Each side of the captured conversations is played by us, against what the other
// side sent, at the times it did.
func TestConversations(t *testing.T) {
	for _, c := range readJSON[[]conversation](t, "conversations.json") {
		for _, me := range []frame.PeerName{host1, host2} {
			t.Run(c.Capture+"/as "+me.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { play(t, c, me) })
			})
		}
	}
}

// said is what our side sent.
type said struct {
	mu       sync.Mutex
	controls []string
	frames   []transporttest.Datagram
	got      int
	last     transport.State
}

func play(t *testing.T, c conversation, me frame.PeerName) {
	log := &said{}
	dialled := me == host2
	s := session(me, keyOf(t, c.Key), dialled)
	uid, err := strconv.ParseUint(c.UID, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	s.UID = uid
	s.RemoteAddr = netip.MustParseAddrPort(c.Client)
	if dialled {
		s.RemoteAddr = netip.MustParseAddrPort(c.Server)
	}
	s.SendControl = func(tag byte, msg []byte) error {
		log.mu.Lock()
		defer log.mu.Unlock()
		log.controls = append(log.controls, hex.EncodeToString(append([]byte{tag}, msg...)))
		return nil
	}
	n := transporttest.NewNetwork(1, transporttest.Link{})
	mine := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, byte(me)}), 6783)
	host := n.Host(mine.Addr())
	n.Host(netip.AddrFrom4([4]byte{10, 9, 9, byte(other(me))}))
	socket, err := host.Listen(mine)
	if err != nil {
		t.Fatal(err)
	}
	n.Watch(func(d transporttest.Datagram) {
		log.mu.Lock()
		defer log.mu.Unlock()
		d.Payload = bytes.Clone(d.Payload)
		log.frames = append(log.frames, d)
	})
	tr, err := New(Config{Local: me, Sockets: []PacketConn{socket}, Deliver: func(b []frame.Packet) {
		log.mu.Lock()
		defer log.mu.Unlock()
		log.got += len(b)
	}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := tr.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = tr.Run(ctx) })
	wg.Go(func() {
		err := p.Run(ctx, func(st transport.State) {
			log.mu.Lock()
			defer log.mu.Unlock()
			log.last = st
		})
		if err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	frames, from := replay(t, c, me, n, mine, p)
	log.check(t, c, me, frames, from)
	cancel()
	wg.Wait()
}

// replay does what the other side did.
func replay(t *testing.T, c conversation, me frame.PeerName, n *transporttest.Network, mine netip.AddrPort, p transport.Path) (frames int, from netip.AddrPort) {
	start := time.Now()
	w, far := newWire(t, transporttest.Link{MTU: 65535})
	sealer := openPath(t, w, far, session(other(me), keyOf(t, c.Key), me == host1), ignore)
	sealer.addr, sealer.conn = far, w
	for _, e := range c.Events {
		if e.Sender == me {
			continue
		}
		<-time.After(time.Until(start.Add(time.Duration(e.T * float64(time.Second)))))
		if e.Control != 0 {
			p.HandleControl(e.Control, unhex(t, e.Body))
			continue
		}
		b := unhex(t, e.Payload)
		if e.Payload == "" {
			b = build(t, w, sealer, e.Len, e.DF, e.SHA256)
		}
		if e.Kind == "ethernet" {
			frames++
		}
		from = netip.MustParseAddrPort(e.From)
		n.Inject(from, mine, b)
	}
	<-time.After(time.Second)
	return frames, from
}

// build makes a test that the captures have only the checksum of.
func build(t *testing.T, w *wire, p *path, size int, df bool, sum string) []byte {
	t.Helper()
	p.sendSpecial(zeros[:size], df)
	b := w.take()[0].Payload
	if got := sha256.Sum256(b); sum != "" && hex.EncodeToString(got[:]) != sum {
		t.Errorf("a test of %d bytes has another checksum than the captured one", size)
	}
	return b
}

func (l *said) check(t *testing.T, c conversation, me frame.PeerName, frames int, from netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mtu := 1438
	if c.Key != "" {
		mtu = 1414
	}
	if !l.last.Up || l.last.MTU != mtu || l.last.Addr != from {
		t.Errorf("state = %+v, want up with MTU %d to %v", l.last, mtu, from)
	}
	if l.got != frames {
		t.Errorf("%d packets delivered, want %d", l.got, frames)
	}
	var want []string
	tests := 0
	if c.Capture == "19" { // it lacks the datagrams of fragmentation tests
		l.controls = append(l.controls, "02")
	}
	for _, e := range c.Events {
		if e.Sender == me && e.Control != 0 && (e.Control != tagMTU || !slices.Contains(want, hex.EncodeToString([]byte{e.Control})+e.Body)) {
			want = append(want, hex.EncodeToString([]byte{e.Control})+e.Body)
		}
		if e.Sender == me && e.Kind == "heartbeat" && tests == 0 {
			tests++
			if e.Payload == "" || l.frames[0].DF != e.DF || hex.EncodeToString(l.frames[0].Payload) != e.Payload {
				t.Errorf("first heartbeat = %x, want %s", l.frames[0].Payload, e.Payload)
			}
		}
		if e.Sender == me && e.Kind == "fragmentation-test" && e.SHA256 != "" && !slices.ContainsFunc(l.frames, func(d transporttest.Datagram) bool {
			sum := sha256.Sum256(d.Payload)
			return !d.DF && hex.EncodeToString(sum[:]) == e.SHA256
		}) {
			t.Error("the captured fragmentation test was not sent")
		}
	}
	slices.Sort(want)
	got := slices.Clone(l.controls)
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("control messages %q, want %q", got, want)
	}
	if l.controls[0] != "01" {
		t.Errorf("first control message %q, want connection established", l.controls[0])
	}
}
