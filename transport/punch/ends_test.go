package punch

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"meshd/internal/encap"
	"meshd/internal/frame"
	"meshd/internal/mux"
	"meshd/internal/udp"
	"meshd/transport"
)

const (
	nameA = frame.PeerName(0x02000000000a)
	nameB = frame.PeerName(0x02000000000b)
)

var (
	addrA = netip.MustParseAddrPort("10.9.9.1:6785")
	addrB = netip.MustParseAddrPort("10.9.9.2:6785")
)

// wire is a socket that keeps what is written, and takes only some of it.
type wire struct {
	local   netip.AddrPort
	out     []udp.Message
	refuse  func(i int, m udp.Message) error // nil: nothing; i counts all that was offered
	offered int
	verdict udp.Verdict
	mtu     int
	discard bool
	tooBig  func(netip.AddrPort, int)
}

var _ mux.Socket = (*wire)(nil)

func (w *wire) ReadBatch([]udp.Message) (int, error) { panic("not read from") }

func (w *wire) WriteBatch(ms []udp.Message, df bool) (int, error) {
	for i, m := range ms {
		w.offered++
		if w.refuse != nil {
			if err := w.refuse(w.offered-1, m); err != nil {
				return i, err
			}
		}
		if !df {
			panic("written without DF")
		}
		if !w.discard {
			m.Buf = bytes.Clone(m.Buf[:m.N])
			w.out = append(w.out, m)
		}
	}
	return len(ms), nil
}

func (w *wire) LocalAddr() netip.AddrPort                    { return w.local }
func (w *wire) PathMTU(netip.AddrPort) (int, error)          { return w.mtu, nil }
func (w *wire) Judge(_ time.Time, v udp.Verdict)             { w.verdict = v }
func (w *wire) OnTooBig(f func(dst netip.AddrPort, mtu int)) { w.tooBig = f }
func (w *wire) Close() error                                 { return nil }

// take returns what was written since the last call.
func (w *wire) take() []udp.Message {
	out := w.out
	w.out = nil
	return out
}

// end is one of two ends that the test moves by hand: no goroutine runs.
type end struct {
	name frame.PeerName
	addr netip.AddrPort
	wire *wire
	tr   *Transport
	path *path
	read mux.Handler
	got  []frame.Packet
	sess transport.Session
}

// newEnds makes two ends that have met. a dialled.
func newEnds(t testing.TB, configA, configB Config) (a, b *end) {
	t.Helper()
	a, b = newEnd(t, nameA, addrA, configA), newEnd(t, nameB, addrB, configB)
	a.open(t, b, true)
	b.open(t, a, false)
	now := time.Now()
	a.path.step(now)
	b.path.step(now)
	a.path.HandleControl(tagHello, b.path.hello)
	b.path.HandleControl(tagHello, a.path.hello)
	for _, e := range []*end{a, b} {
		e.path.lookAtRoute(now)
		if o := e.path.step(now); e.path.readyAt.IsZero() || o.state.Addr == (netip.AddrPort{}) {
			t.Fatalf("the ends have not met: %+v", o.state)
		}
	}
	return a, b
}

func newEnd(t testing.TB, name frame.PeerName, addr netip.AddrPort, c Config) *end {
	t.Helper()
	e := &end{name: name, addr: addr, wire: &wire{local: addr, mtu: 1500}}
	m, err := mux.New([]mux.Socket{e.wire}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Mux, c.Local = m, name
	if c.Deliver == nil {
		c.Deliver = func(batch []frame.Packet) {
			for _, p := range batch {
				p.Frame.Data = bytes.Clone(p.Frame.Data)
				e.got = append(e.got, p)
			}
		}
	}
	if e.tr, err = New(c); err != nil {
		t.Fatal(err)
	}
	e.read = e.tr.newReader(e.wire)
	return e
}

// open gives the end a path to another one.
func (e *end) open(t testing.TB, to *end, dialled bool) {
	t.Helper()
	e.sess = transport.Session{
		Local: transport.Peer{Name: e.name, UID: 1}, Remote: transport.Peer{Name: to.name, UID: 2}, UID: 77,
		Dialled: dialled, RemoteAddr: netip.AddrPortFrom(to.addr.Addr(), 6783), Secret: &[32]byte{1, 2, 3},
		SendControl: func(byte, []byte) error { return nil }, Done: make(chan struct{}), Counters: &transport.Counters{},
	}
	p, err := e.tr.Open(e.sess)
	if err != nil {
		t.Fatal(err)
	}
	e.path = p.(*path)
	e.path.index = e.tr.paths.Add(to.name, e.path)
}

// send sends frames to the other end in one batch and returns the datagrams.
func (e *end) send(t testing.TB, to *end, frames ...frame.Frame) []udp.Message {
	t.Helper()
	for _, f := range frames {
		if err := e.path.Send(frame.Packet{Src: e.name, Dst: to.name, Frame: f}); err != nil {
			t.Fatalf("Send of %d bytes: %v", len(f.Data), err)
		}
	}
	if err := e.path.Flush(); err != nil {
		t.Fatal(err)
	}
	return e.wire.take()
}

// feed hands datagrams from an address to the end, and returns the packets that
// come out.
func (e *end) feed(from netip.AddrPort, ms ...udp.Message) []frame.Packet {
	e.got = nil
	for i := range ms {
		ms[i] = udp.Message{Buf: bytes.Clone(ms[i].Buf[:ms[i].N]), N: ms[i].N, Addr: from, Segment: max(ms[i].Segment, 0)}
	}
	e.read(ms)
	return e.got
}

// asRuns joins datagrams to runs as a kernel does: those of one size that lie
// behind each other, and a shorter one.
func asRuns(ms []udp.Message) (runs []udp.Message) {
	for len(ms) > 0 {
		run := udp.Message{}
		n := 0
		for n < len(ms) && ms[n].N <= ms[0].N && (n == 0 || ms[n-1].N == ms[0].N) {
			run.Buf = append(run.Buf, ms[n].Buf[:ms[n].N]...)
			n++
		}
		if run.N = len(run.Buf); n > 1 {
			run.Segment = ms[0].N
		}
		runs, ms = append(runs, run), ms[n:]
	}
	return runs
}

// sealed makes a datagram of items, as the end would.
func (e *end) sealed(t testing.TB, items []byte) udp.Message {
	t.Helper()
	b := append(make([]byte, encap.NativeHeaderLen, encap.NativeOverhead+len(items)), items...)
	d, err := e.path.tx.seal.Seal(b)
	if err != nil {
		t.Fatal(err)
	}
	return udp.Message{Buf: d, N: len(d)}
}

func plain(data []byte) frame.Frame { return frame.Frame{Data: data} }

// drops reads the counters of one direction.
func drops(f *transport.Flow) map[string]uint64 { return f.Stats().Drops }
