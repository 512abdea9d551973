package mux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"meshd/internal/udp"
)

var (
	local4 = netip.MustParseAddrPort("10.0.0.1:6785")
	local6 = netip.MustParseAddrPort("[fd00::1]:6785")
	from   = netip.MustParseAddrPort("10.0.0.2:9")
)

// socket is a socket whose reads the test makes.
type socket struct {
	local  netip.AddrPort
	reads  chan read
	ended  chan struct{} // closed by Close
	once   sync.Once
	tooBig func(netip.AddrPort, int) // called by ReadBatch
}

type read struct {
	ms  []udp.Message
	err error
	mtu int // not 0: something to from was too big for it
}

func newSocket(local netip.AddrPort) *socket {
	return &socket{local: local, reads: make(chan read, 1000), ended: make(chan struct{})}
}

func (s *socket) ReadBatch(ms []udp.Message) (int, error) {
	select {
	case <-s.ended:
		return 0, net.ErrClosed
	case r := <-s.reads:
		if r.mtu != 0 {
			s.tooBig(from, r.mtu)
		}
		for i, m := range r.ms {
			copy(ms[i].Buf, m.Buf)
			ms[i].N, ms[i].Addr, ms[i].Segment = len(m.Buf), from, m.Segment
		}
		return len(r.ms), r.err
	}
}

func (s *socket) WriteBatch([]udp.Message, bool) (int, error) { return 0, errors.New("not written to") }
func (s *socket) LocalAddr() netip.AddrPort                   { return s.local }
func (s *socket) PathMTU(netip.AddrPort) (int, error)         { return 1500, nil }
func (s *socket) Judge(time.Time, udp.Verdict)                { panic("the mux does not judge") }
func (s *socket) OnTooBig(f func(netip.AddrPort, int))        { s.tooBig = f }
func (s *socket) Close() error                                { s.once.Do(func() { close(s.ended) }); return nil }

// stun is a STUN binding request.
var stun = append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)

func TestClassify(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want Kind
	}{
		{"empty", nil, Stray},
		{"first native", []byte{0x80}, Native}, {"last native", []byte{0xbf}, Native},
		{"QUIC short header", []byte{0x40}, QUIC}, {"QUIC short header, last", []byte{0x7f}, QUIC},
		{"QUIC long header", []byte{0xc0}, QUIC}, {"QUIC long header, last", []byte{0xff}, QUIC},
		{"STUN", stun, STUN}, {"STUN answer", append([]byte{1, 1}, stun[2:]...), STUN},
		{"STUN without cookie", append([]byte{0, 1, 0, 0, 0}, stun[5:]...), Stray},
		{"cut STUN", stun[:19], Stray}, {"no STUN type", append([]byte{4}, stun[1:]...), Stray},
		{"DTLS", []byte{22}, Stray}, {"below native", []byte{0x3f}, Stray},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Classify(tt.b); got != tt.want {
				t.Errorf("Classify(%x) = %v, want %v", tt.b, got, tt.want)
			}
		})
	}
}

// handed is what handlers got: one line per message, a dash per call.
type handed struct {
	mu    sync.Mutex
	lines []string
}

func (h *handed) open(k Kind) func(Socket) Handler {
	return func(s Socket) Handler {
		return func(batch []udp.Message) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.lines = append(h.lines, "-")
			for _, m := range batch {
				h.lines = append(h.lines, fmt.Sprintf("%v %d/%d %x %v", k, m.N, m.Segment, m.Buf[:m.N:m.N], m.Addr == from))
				clear(m.Buf) // it may
			}
		}
	}
}

func (h *handed) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := h.lines
	h.lines = nil
	return lines
}

// start runs a mux of both families in a bubble.
func start(t *testing.T, take ...Kind) (*Mux, *socket, *handed) {
	t.Helper()
	s, h := newSocket(local4), &handed{}
	m, err := New([]Socket{s, newSocket(local6)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range take {
		m.Handle(k, h.open(k))
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil after cancel", err)
		}
	})
	return m, s, h
}

func datagrams(bs ...string) (ms []udp.Message) {
	for _, b := range bs {
		ms = append(ms, udp.Message{Buf: []byte(b)})
	}
	return ms
}

func TestSort(t *testing.T) {
	run := func(segment int, b string) udp.Message { return udp.Message{Buf: []byte(b), Segment: segment} }
	for _, tt := range []struct {
		name   string
		read   []udp.Message
		want   []string
		strays uint64
	}{
		{"one kind is one batch", datagrams("\x80a", "\x81b"), []string{"-", "native 2/0 8061 true", "native 2/0 8162 true"}, 0},
		{"kinds keep their order", datagrams("\x80a", "\x40q", "\x80b"),
			[]string{"-", "native 2/0 8061 true", "-", "quic 2/0 4071 true", "-", "native 2/0 8062 true"}, 0},
		{"strays do not part a batch", datagrams("\x80a", "", "\x00", string(stun), "\x80b"),
			[]string{"-", "native 2/0 8061 true", "native 2/0 8062 true"}, 3},
		{"a run stays one", []udp.Message{run(2, "\x80a\x80b\x80")}, []string{"-", "native 5/2 8061806280 true"}, 0},
		{"a run of several kinds", []udp.Message{run(2, "\x80a\x80b\x40q\x00s\x80c\x40")},
			[]string{"-", "native 4/2 80618062 true", "-", "quic 2/0 4071 true", "-", "native 2/0 8063 true", "-", "quic 1/0 40 true"}, 1},
		{"strays of a run are counted each", []udp.Message{run(2, "\x00a\x00b\x00")}, nil, 3},
		{"a run of one", []udp.Message{run(9, "\x80a"), run(2, "\x80a")}, []string{"-", "native 2/0 8061 true", "native 2/0 8061 true"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, s, h := start(t, Native, QUIC)
				s.reads <- read{ms: tt.read}
				synctest.Wait()
				if got := h.take(); !slices.Equal(got, tt.want) {
					t.Errorf("handed over %q, want %q", got, tt.want)
				}
				if m.Strays() != tt.strays {
					t.Errorf("%d strays, want %d", m.Strays(), tt.strays)
				}
			})
		})
	}
}

// A run that falls apart into more messages than a batch has is handed over in
// parts, all of it.
func TestSortManyParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, h := start(t, Native)
		s.reads <- read{ms: []udp.Message{{Buf: bytes.Repeat([]byte{0x80, 0, 0, 0}, 3*handMax), Segment: 2}}}
		synctest.Wait()
		got := h.take()
		if calls := len(slices.DeleteFunc(slices.Clone(got), func(l string) bool { return l != "-" })); calls != 3 || len(got) != 3+3*handMax {
			t.Errorf("%d calls, %d lines; want 3 and %d", calls, len(got), 3+3*handMax)
		}
	})
}

func TestTooBig(t *testing.T) {
	s := newSocket(local4)
	m, err := New([]Socket{s}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 2)
	for i := range 2 {
		m.OnTooBig(func(dst netip.AddrPort, mtu int) { got <- fmt.Sprint(i, dst, mtu) })
	}
	s.reads <- read{mtu: 1400}
	ended := make(chan error, 1)
	go func() { ended <- m.Run(t.Context()) }()
	for i := range 2 {
		if got, want := <-got, fmt.Sprint(i, from, 1400); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	s.Close()
	<-ended
}

func TestReadErrorsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, h := start(t, Native)
		for range readErrors {
			s.reads <- read{err: errors.New("network is down")}
		}
		s.reads <- read{ms: datagrams("\x80")}
		for range readErrors {
			s.reads <- read{err: errors.New("network is down")}
		}
		s.reads <- read{ms: datagrams("\x81")}
		for len(s.reads) > 0 {
			synctest.Wait()
			<-time.After(readErrPause)
		}
		synctest.Wait()
		if got, want := h.take(), []string{"-", "native 1/0 80 true", "-", "native 1/0 81 true"}; !slices.Equal(got, want) {
			t.Errorf("handed over %q, want %q", got, want)
		}
	})
}

func TestRunEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(*socket)
	}{
		{"errors that stay", func(s *socket) {
			for range readErrors + 1 {
				s.reads <- read{err: errors.New("no such device")}
			}
		}},
		{"a socket that is closed", func(s *socket) { s.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad, good := newSocket(local4), newSocket(local6)
				m, err := New([]Socket{bad, good}, nil)
				if err != nil {
					t.Fatal(err)
				}
				tt.fail(bad)
				if err := m.Run(t.Context()); err == nil {
					t.Error("Run = nil, want why it ended")
				}
				select {
				case <-good.ended:
				default:
					t.Error("the other socket is still open")
				}
			})
		})
	}
}

func TestSocket(t *testing.T) {
	if _, err := New(nil, nil); err == nil {
		t.Error("a mux without sockets was made")
	}
	m, err := New([]Socket{newSocket(local4)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Socket(from); got == nil || got.LocalAddr() != local4 {
		t.Errorf("Socket(%v) = %v", from, got)
	}
	if got := m.Socket(local6); got != nil {
		t.Errorf("Socket(%v) = %v, want none", local6, got.LocalAddr())
	}
	if m.Port() != 6785 {
		t.Errorf("Port() = %d", m.Port())
	}
}

// Real sockets: datagrams of two kinds reach two handlers, until the end.
func TestLoopback(t *testing.T) {
	conn, err := udp.Listen(netip.MustParseAddrPort("127.0.0.1:0"), udp.Offload{GSO: true, GRO: true})
	if err != nil {
		t.Fatal(err)
	}
	m, err := New([]Socket{conn}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const each = 50
	got := make(chan string, 2*each)
	for _, k := range []Kind{Native, STUN} {
		m.Handle(k, func(Socket) Handler {
			return func(batch []udp.Message) {
				for _, msg := range batch {
					for b := msg.Buf[:msg.N]; len(b) > 0; {
						n := len(b)
						if msg.Segment > 0 {
							n = min(n, msg.Segment)
						}
						got <- fmt.Sprint(k, binary.BigEndian.Uint16(b[n-2:]))
						b = b[n:]
					}
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	out, err := net.Dial("udp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	want := map[string]bool{}
	for i := range each {
		a, b := bytes.Clone(stun), append([]byte{0x80}, make([]byte, 40)...)
		binary.BigEndian.PutUint16(a[len(a)-2:], uint16(i))
		binary.BigEndian.PutUint16(b[len(b)-2:], uint16(i))
		for _, d := range [][]byte{a, b} {
			if _, err := out.Write(d); err != nil {
				t.Fatal(err)
			}
		}
		want[fmt.Sprint(STUN, i)], want[fmt.Sprint(Native, i)] = true, true
	}
	for len(want) > 0 {
		delete(want, <-got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil after cancel", err)
	}
}

func TestSortDoesNotAllocate(t *testing.T) {
	m, err := New([]Socket{newSocket(local4)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	m.Handle(Native, func(Socket) Handler { return func(batch []udp.Message) { seen += len(batch) } })
	r := newReader(m, m.sockets[0])
	ms := []udp.Message{{Buf: bytes.Repeat([]byte{0x80, 1, 0, 1}, 100), N: 400, Segment: 2}, {Buf: []byte{0x80}, N: 1}}
	if n := testing.AllocsPerRun(100, func() { r.sort(ms) }); n != 0 || seen == 0 {
		t.Errorf("%v allocations per batch, want 0; %d messages handed over", n, seen)
	}
}

func FuzzSort(f *testing.F) {
	f.Add([]byte("\x80a\x80b\x40q\x00s\x80c\x40"), 2)
	f.Add(stun, 20)
	f.Fuzz(func(t *testing.T, b []byte, segment int) {
		m, err := New([]Socket{newSocket(local4)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		bytesSeen := 0
		for _, k := range []Kind{Stray, Native, STUN, QUIC} {
			m.Handle(k, func(Socket) Handler {
				return func(batch []udp.Message) {
					for _, msg := range batch {
						bytesSeen += msg.N
						for d := msg.Buf[:msg.N]; len(d) > 0; {
							n := len(d)
							if msg.Segment > 0 {
								n = min(n, msg.Segment)
							}
							if Classify(d[:n]) != k {
								t.Fatalf("%x was handed to %v", d[:n], k)
							}
							d = d[n:]
						}
					}
				}
			})
		}
		newReader(m, m.sockets[0]).sort([]udp.Message{{Buf: b, N: len(b), Segment: segment}})
		if bytesSeen != len(b) {
			t.Fatalf("%d of %d bytes were handed over", bytesSeen, len(b))
		}
	})
}
