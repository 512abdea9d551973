package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"meshd/transport"
	"meshd/transport/transporttest"
)

// A proof holds for one connection, one end and one path; so do keys.
func TestProofs(t *testing.T) {
	one, two := hello{index: 1, mtu: 1500}.append(nil), hello{index: 3, mtu: 1500}.append(nil)
	key := func(secret byte, d, a []byte) []byte {
		k, err := pathKey(&[32]byte{secret}, d, a)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	seen := map[string]string{}
	note := func(what string, b []byte) {
		if other, ok := seen[string(b)]; ok {
			t.Errorf("%s is that of %s", what, other)
		}
		seen[string(b)] = what
	}
	for name, k := range map[string][]byte{
		"secret 1": key(1, one, two), "secret 2": key(2, one, two), "other way round": key(1, two, one),
	} {
		for at := range len(transcript{}) {
			var tr transcript
			tr[at] = 1
			note(name, tr.prove(k, byDialler))
			note(name, tr.prove(k, byAcceptor))
			s, err := tr.secrets(k)
			if err != nil {
				t.Fatal(err)
			}
			note(name, s.fromDialler[:])
			note(name, s.fromAcceptor[:])
		}
	}
}

// Both ends of one binding agree, and behind the proof nothing was read.
func TestBinding(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	key := []byte("a key")
	type result struct {
		s   secrets
		err error
	}
	dialler := make(chan result, 1)
	go func() {
		s, err := offer(a, key, 7)
		dialler <- result{s, err}
		a.Write([]byte("records"))
	}()
	var h [headerLen]byte
	if _, err := io.ReadFull(b, h[:]); err != nil || h != header {
		t.Fatalf("the dialler begins with %q, %v", h, err)
	}
	o, err := readOpening(b)
	if err != nil || o.index != 7 {
		t.Fatalf("readOpening = %+v, %v", o, err)
	}
	b.Write([]byte("weave\x01\x02"))
	s, err := o.answer(b, key)
	if err != nil {
		t.Fatal(err)
	}
	if d := <-dialler; d.err != nil || *d.s.fromDialler != *s.fromDialler || *d.s.fromAcceptor != *s.fromAcceptor {
		t.Errorf("the ends have different keys, or %v", d.err)
	}
	rest := make([]byte, 7)
	if _, err := io.ReadFull(b, rest); string(rest) != "records" {
		t.Errorf("what follows is %q, %v", rest, err)
	}
}

// Who does not know the session's secret, and who says what was said on another
// connection, gets none into a path, and disturbs none that is there.
func TestOpeningsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSolo(t, false)
		good := s.bind(t)
		good.live(t)
		s.up(t)
		index := s.path.index

		// What the path's neighbour said on its connection, for replays.
		var said recorder
		c := s.connect(t)
		said.ReadWriter = c
		if _, err := offer(&said, s.key(t, secret), index); err != nil {
			t.Fatal(err)
		}
		c.Close()
		time.Sleep(time.Second)
		again := s.bind(t) // so that there is a connection to disturb
		again.live(t)
		time.Sleep(time.Second)
		want := s.last().Handshakes

		opening := append(header[:], make([]byte, 8+nonceLen)...)
		to := func(i uint64) []byte {
			b := bytes.Clone(opening)
			binary.BigEndian.PutUint64(b[headerLen:], i)
			return b
		}
		for name, b := range map[string][]byte{
			"nothing":             nil,
			"garbage":             bytes.Repeat([]byte{0x5a}, 500),
			"half a header":       header[:4],
			"another version":     append([]byte("meshd\x02\x01"), opening[headerLen:]...),
			"another purpose":     append([]byte("meshd\x01\x02"), opening[headerLen:]...),
			"half an opening":     to(index)[:30],
			"another index":       append(to(index+1), make([]byte, 32)...),
			"no proof":            to(index),
			"a proof of zeros":    append(to(index), make([]byte, 32)...),
			"records at once":     append(to(index), newNeighbour(t, nil, &secret, &secret).sealed(t, item(1, 100))...),
			"replay":              said.wrote,
			"replay of the proof": append(to(index), said.wrote[openingLen:]...),
		} {
			c := s.connect(t)
			c.Write(b)
			c.SetDeadline(time.Now().Add(time.Minute))
			start := time.Now()
			answer, err := io.ReadAll(c)
			if errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) > 11*time.Second {
				t.Errorf("%s: open for %v", name, time.Since(start))
			}
			if len(answer) > headerLen+answerLen {
				t.Errorf("%s: answered with %d bytes", name, len(answer))
			}
			c.Close()
		}
		// Another secret.
		if _, err := offer(s.connect(t), s.key(t, [32]byte{1}), index); !errors.Is(err, errProof) {
			t.Errorf("another secret: %v, want %v", err, errProof)
		}
		time.Sleep(time.Second)
		if st := s.last(); !st.Up || st.Handshakes != want {
			t.Errorf("state %+v, want up with %d handshakes", st, want)
		}
		if got := s.take(); len(got) != 0 {
			t.Errorf("%d packets were delivered", len(got))
		}
		again.say(t, item(1, 100))
		time.Sleep(time.Second)
		if got := s.take(); len(got) != 1 {
			t.Errorf("%d packets came over the path's connection, want 1", len(got))
		}
	})
}

// recorder notes what is written.
type recorder struct {
	io.ReadWriter
	wrote []byte
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = append(r.wrote, b...)
	return r.ReadWriter.Write(b)
}

// The dialler takes no connection of an acceptor that does not know the secret, that
// is no control port, or that repeats what another one said.
func TestAnswersRefused(t *testing.T) {
	for _, tt := range []struct {
		name, why string
		answer    func(o *opening, c net.Conn, key []byte)
	}{
		{"closed", "EOF", func(*opening, net.Conn, []byte) {}},
		{"no control port", errNotWeave.Error(), func(_ *opening, c net.Conn, _ []byte) { c.Write(bytes.Repeat([]byte("HTTP"), 100)) }},
		{"another secret", errProof.Error(), func(o *opening, c net.Conn, _ []byte) { o.answer(c, []byte("another")) }},
		{"for another opening", errProof.Error(), func(o *opening, c net.Conn, key []byte) { o.t[offNonce]++; o.answer(c, key) }},
		{"our own proof", errProof.Error(), func(o *opening, c net.Conn, key []byte) {
			c.Write(append(make([]byte, nonceLen), o.t.prove(key, byDialler)...))
		}},
		{"silent", "timeout", func(_ *opening, c net.Conn, _ []byte) { io.ReadAll(c) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSolo(t, true)
				l, err := s.a.ListenStream(addrA)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						var h [headerLen]byte
						if _, err := io.ReadFull(c, h[:]); err != nil || h != header {
							t.Errorf("the path begins with %q, %v", h, err)
							return
						}
						o, err := readOpening(c)
						if err != nil {
							t.Error(err)
							return
						}
						if tt.why != errNotWeave.Error() {
							c.Write([]byte("weave\x01\x02"))
						}
						tt.answer(o, c, s.key(t, secret))
						c.Close()
					}
				}()
				time.Sleep(2500 * time.Millisecond)
				if st := s.last(); st.Up || !strings.Contains(st.Why, tt.why) || st.Handshakes != 0 {
					t.Errorf("state = %+v, want down for %q", st, tt.why)
				}
				if s.path.bound != nil {
					t.Error("the path has a connection")
				}
				s.stop()
				time.Sleep(time.Second) // its connections end
			})
		})
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		remote string
		port   uint16
		want   string
	}{
		{"10.0.0.1:6783", 0, "10.0.0.1:6783"},
		{"10.0.0.1:7000", 0, "10.0.0.1:7000"},
		{"10.0.0.1:6785", 6783, "10.0.0.1:6783"},
		{"[::ffff:10.0.0.1]:6785", 6783, "10.0.0.1:6783"},
		{"[fd00::1]:6785", 6790, "[fd00::1]:6790"},
	} {
		p := &path{session: transport.Session{RemoteAddr: netip.MustParseAddrPort(tt.remote), ControlPort: tt.port}}
		if got := p.target().String(); got != tt.want {
			t.Errorf("target of %s, control port %d = %s, want %s", tt.remote, tt.port, got, tt.want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := transporttest.NewPair(t, factory(nil), transporttest.Options{Seed: 1})
		s := transport.Session{
			Remote: p.B.Peer, Secret: &secret, SendControl: func(byte, []byte) error { return nil },
			Done: make(chan struct{}), Counters: &transport.Counters{}, RemoteAddr: addrB,
		}
		if _, err := p.A.Transport.Open(s); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*transport.Session){
			"no name":   func(s *transport.Session) { s.Remote.Name = 0 },
			"no secret": func(s *transport.Session) { s.Secret = nil },
			"no done":   func(s *transport.Session) { s.Done = nil },
		} {
			bad := s
			change(&bad)
			if _, err := p.A.Transport.Open(bad); err == nil {
				t.Errorf("%s: opened", name)
			}
		}
	})
}
