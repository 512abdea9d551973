package tcp

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/transport"
	"meshd/transport/transporttest"
)

const (
	nameA = frame.PeerName(0x02000000000a)
	nameB = frame.PeerName(0x02000000000b)
)

var (
	addrA = netip.MustParseAddrPort("10.9.9.1:6783")
	addrB = netip.MustParseAddrPort("10.9.9.2:6783")

	secret = [32]byte{4, 5, 6}
)

// solo is one path, of the host b, whose neighbour the test plays at the host a. It
// belongs in a bubble.
type solo struct {
	net    *transporttest.Network
	a, b   *transporttest.Host
	node   *node
	path   *path
	hello  []byte // of the path
	theirs []byte // ours, which the path has
	count  *transport.Counters
	done   chan struct{}
	stop   context.CancelFunc
	ended  chan error

	mu    sync.Mutex // guards below
	got   []frame.Packet
	state transport.State
}

// newSolo runs a path whose end dialled the session, or did not.
func newSolo(t *testing.T, dialled bool) *solo {
	t.Helper()
	n := transporttest.NewNetwork(1, transporttest.Link{Latency: 5 * time.Millisecond})
	s := &solo{net: n, a: n.Host(addrA.Addr()), b: n.Host(addrB.Addr()), count: &transport.Counters{}, done: make(chan struct{}), ended: make(chan error, 1)}
	tr, err := factory(nil)(transporttest.Node{
		Local: transport.Peer{Name: nameB}, Deliver: s.deliver, Host: s.b, Addrs: []netip.AddrPort{addrB}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.node = tr.(*node)
	said := make(chan []byte, 1)
	p, err := s.node.Open(transport.Session{
		Local: transport.Peer{Name: nameB, UID: 2}, Remote: transport.Peer{Name: nameA, UID: 1}, UID: 7, Dialled: dialled,
		LocalAddr: addrB, RemoteAddr: addrA, Secret: &secret, Native: true,
		SendControl: func(_ byte, msg []byte) error { said <- bytes.Clone(msg); return nil },
		Done:        s.done, Counters: s.count,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.path = p.(*path)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	var wg sync.WaitGroup
	wg.Go(func() { s.node.Run(ctx) })
	wg.Go(func() { s.ended <- s.path.Run(ctx, s.report) })
	t.Cleanup(func() { stop(); wg.Wait() })
	s.hello = <-said
	s.theirs = hello{index: 99, mtu: testMTU, can: canAES}.append(nil)
	s.path.HandleControl(tagHello, s.theirs)
	return s
}

func (s *solo) deliver(batch []frame.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range batch {
		p.Frame.Data = bytes.Clone(p.Frame.Data)
		s.got = append(s.got, p)
	}
}

func (s *solo) report(st transport.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = st
}

// last is what the path reported last.
func (s *solo) last() transport.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// take returns what was delivered since the last call.
func (s *solo) take() []frame.Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

// key is the path's, from the session's secret or another one.
func (s *solo) key(t *testing.T, secret [32]byte) []byte {
	t.Helper()
	hellos := [][]byte{s.theirs, s.hello}
	if s.path.session.Dialled {
		slices.Reverse(hellos)
	}
	key, err := pathKey(&secret, hellos[0], hellos[1])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// connect opens a connection to the path's control port.
func (s *solo) connect(t *testing.T) net.Conn {
	t.Helper()
	c, err := s.a.DialStream(t.Context(), addrB)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// neighbour is the test's end of a bound connection.
type neighbour struct {
	net.Conn
	open *encap.NativeOpen

	mu   sync.Mutex // guards seal, and keeps records in their order
	seal *encap.NativeSeal
	over bool // a record was only begun
}

// bestSuite is the cipher of two ends on this machine.
func bestSuite() encap.NativeSuite {
	if encap.AESHardware() {
		return encap.NativeAES
	}
	return encap.NativeChaCha
}

// newNeighbour makes its ciphers.
func newNeighbour(t testing.TB, c net.Conn, out, in *[32]byte) *neighbour {
	t.Helper()
	seal, err := encap.NewNativeSeal(out, bestSuite(), 0)
	if err != nil {
		t.Fatal(err)
	}
	open, err := encap.NewNativeOpen(in, bestSuite())
	if err != nil {
		t.Fatal(err)
	}
	return &neighbour{Conn: c, seal: seal, open: open}
}

// bind opens a connection and binds it, as the session's dialler.
func (s *solo) bind(t *testing.T) *neighbour {
	t.Helper()
	c := s.connect(t)
	parsed, err := parseHello(s.hello)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := offer(c, s.key(t, secret), parsed.index)
	if err != nil {
		t.Fatal(err)
	}
	return newNeighbour(t, c, keys.fromDialler, keys.fromAcceptor)
}

// sealed makes a record of items.
func (n *neighbour) sealed(t testing.TB, items []byte) []byte {
	t.Helper()
	b := append(make([]byte, beforeItems, beforeItems+len(items)+encap.NativeTagLen), items...)
	r, err := sealRecord(n.seal, b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// say sends a record of items.
func (n *neighbour) say(t *testing.T, items []byte) { n.begin(t, items, 1<<20) }

// begin sends the first bytes of a record. If that is not all, nothing follows.
func (n *neighbour) begin(t *testing.T, items []byte, bytes int) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over {
		return
	}
	r := n.sealed(t, items)
	n.over = bytes < len(r)
	_, _ = n.Write(r[:min(bytes, len(r))]) // the path may have ended the connection
}

// read reads the items of one record.
func (n *neighbour) read() ([]byte, error) {
	var b [lengthLen]byte
	if _, err := io.ReadFull(n, b[:]); err != nil {
		return nil, err
	}
	_, total, err := cutRecord(b[:])
	if err != nil {
		return nil, err
	}
	d := make([]byte, total-lengthLen)
	if _, err := io.ReadFull(n, d); err != nil {
		return nil, err
	}
	items, _, err := n.open.Open(d)
	return items, err
}

// live answers probes until the connection ends, and asks that the path be up.
func (n *neighbour) live(t *testing.T) {
	n.say(t, encap.AppendNativeProbe(nil, encap.NativeQuestion{Heard: 0}))
	go func() {
		for {
			items, err := n.read()
			if err != nil {
				return
			}
			r := encap.NewNativeReader(items)
			for {
				i, ok := r.Next()
				if !ok {
					break
				}
				if q, ok := i.Question(); ok {
					n.say(t, encap.AppendNativeReply(nil, encap.NativeAnswer{Sequence: q.Sequence}))
				}
			}
		}
	}()
}

// item is a frame from the neighbour.
func item(number uint64, size int) []byte {
	return encap.AppendNativePacket(nil, &frame.Packet{Src: nameA, Dst: nameB, Hops: 1, Frame: frame.Frame{Data: transporttest.Frame(number, size)}})
}

// up waits until the path is up.
func (s *solo) up(t *testing.T) {
	t.Helper()
	transporttest.Eventually(t, 3*time.Second, "path is up", func() bool { return s.last().Up })
}
