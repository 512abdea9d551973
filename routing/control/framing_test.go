package control

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
)

func newMessageReader(wire []byte, version int) *messageReader {
	return &messageReader{
		r: bufio.NewReader(bytes.NewReader(wire)), v1: version == 1, limit: maxMessage,
	}
}

// connOver is a connection after its handshake.
func connOver(conn net.Conn, version int, dialled bool, key *[32]byte) *Conn {
	c := newConn(conn, dialled)
	c.setVersion(version)
	c.in.limit = maxMessage
	if key != nil {
		c.encrypt(key)
	}
	return c
}

// TestConversations reads both directions of every captured connection, checks
// what was said, and writes it again: the bytes must be the same, sealing
// included.
func TestConversations(t *testing.T) {
	for name, c := range capturedConns(t) {
		t.Run(name, func(t *testing.T) {
			replay(t, c, true)
			replay(t, c, false)
		})
	}
}

func replay(t *testing.T, c capturedConn, dialler bool) {
	t.Helper()
	var stream []byte
	for _, m := range c.Messages {
		if m.dialler() == dialler {
			stream = append(stream, m.Wire...)
		}
	}
	var again bytes.Buffer
	r := newMessageReader(stream, c.Version)
	w := messageWriter{w: &again, v1: c.Version == 1}
	if c.Crypto != nil {
		key := (*[32]byte)(c.Crypto.SessionKey)
		r.key, r.nonces.senderDialled = key, dialler
		w.key, w.nonces.senderDialled = key, dialler
	}
	for _, m := range c.Messages {
		if m.dialler() != dialler {
			continue
		}
		if m.Features != nil && c.Version == 1 {
			plain, err := readGobValue(r.r, maxHandshakeMessage)
			if err != nil || !bytes.Equal(plain, m.Wire) {
				t.Fatalf("readGobValue = %x, %v, want %x", plain, err, m.Wire)
			}
			again.Write(plain)
			checkCaptured(t, m, plain)
			continue
		}
		plain, err := r.next()
		if m.DecryptFailed {
			if !errors.Is(err, ErrWrongPassword) {
				t.Fatalf("read = %v, want %v", err, ErrWrongPassword)
			}
			return
		}
		if err != nil {
			t.Fatalf("read %s: %v", m.Kind, err)
		}
		if m.Plaintext != nil && !bytes.Equal(plain, m.Plaintext) {
			t.Fatalf("read %x, want %x", plain, m.Plaintext)
		}
		if m.Features == nil && plain[0] != m.Tag {
			t.Fatalf("tag = %d, want %d", plain[0], m.Tag)
		}
		checkCaptured(t, m, plain)
		if err := w.writeRaw(plain); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.next(); err != io.EOF {
		t.Errorf("read after the last message = %v, want %v", err, io.EOF)
	}
	if !bytes.Equal(again.Bytes(), stream) {
		t.Errorf("written again, the messages of dialler=%v differ from what was captured", dialler)
	}
}

// checkCaptured decodes a message and compares with how it was decoded when it
// was captured.
func checkCaptured(t *testing.T, m capturedMessage, plain []byte) {
	t.Helper()
	if m.Features != nil {
		got, err := parseFeatureGob(plain)
		if err != nil || !reflect.DeepEqual(got, m.Features) {
			t.Errorf("parseFeatureGob = %v, %v, want %v", got, err, m.Features)
		}
		return
	}
	if m.Gossip == nil {
		return
	}
	g, err := ParseGossip(m.Tag, plain[1:])
	want := Gossip{Channel: m.Gossip.Channel, Src: m.Gossip.Source, Dst: m.Gossip.Destination, Payload: m.Gossip.Payload}
	if err != nil || !reflect.DeepEqual(g, want) {
		t.Errorf("ParseGossip = %+v, %v, want %+v", g, err, want)
	}
	if again := AppendGossip(m.Tag, g); !bytes.Equal(again, plain[1:]) {
		t.Errorf("AppendGossip = %x, want %x", again, plain[1:])
	}
	if g.Channel == "topology" {
		checkTopology(t, g.Payload, m.Gossip.Topology)
	}
}

func TestGoldenControlMessages(t *testing.T) {
	seen := map[string]int{}
	for _, m := range goldenMessages(t) {
		seen[m.Kind]++
		if m.Nonce != nil || m.Plaintext != nil {
			continue // sealed: TestConversations has the connection they belong to
		}
		version := 2
		if len(m.Wire) < 4 || binary.BigEndian.Uint32(m.Wire) != uint32(len(m.Wire)-4) {
			version = 1
		}
		if m.Features != nil && version == 1 {
			checkCaptured(t, m, m.Wire)
			continue
		}
		plain, err := newMessageReader(m.Wire, version).next()
		if err != nil {
			t.Errorf("read %x: %v", m.Wire, err)
			continue
		}
		checkCaptured(t, m, plain)
		if m.Features != nil {
			continue
		}
		conn := newScriptConn()
		if err := connOver(conn, version, true, nil).WriteMessage(plain[0], plain[1:]); err != nil {
			t.Fatal(err)
		}
		if got := conn.out.Bytes(); !bytes.Equal(got, m.Wire) {
			t.Errorf("version %d: wrote %x, want %x", version, got, m.Wire)
		}
	}
	for _, kind := range []string{"features", "heartbeat", "overlay-control", "gossip", "gossip-unicast", "gossip-broadcast"} {
		if seen[kind] == 0 {
			t.Errorf("golden.json has no %s", kind)
		}
	}
}

// TestWireExamples has the examples of weave protocol section 2.1.
func TestWireExamples(t *testing.T) {
	tests := []struct {
		version int
		message Message
		want    []byte
	}{
		{2, Message{Tag: TagHeartbeat}, unhex("0000000100")},
		{2, Message{Tag: TagOverlay, Body: unhex("0001")}, unhex("00000003070001")},
		{2, Message{Tag: TagOverlay, Body: unhex("0003059e")}, unhex("0000000507 0003059e")},
		{1, Message{Tag: TagHeartbeat}, unhex("040a000100")},
		{1, Message{Tag: 1}, unhex("040a000101")},
		{1, Message{Tag: 3, Body: unhex("059e")}, unhex("060a000303059e")},
	}
	for _, tt := range tests {
		conn := newScriptConn()
		if err := connOver(conn, tt.version, true, nil).WriteMessage(tt.message.Tag, tt.message.Body); err != nil {
			t.Fatal(err)
		}
		if got := conn.out.Bytes(); !bytes.Equal(got, tt.want) {
			t.Errorf("version %d, %+v: wrote %x, want %x", tt.version, tt.message, got, tt.want)
		}
	}
}

// TestV1IsGob checks our version 1 messages against encoding/gob, both ways.
func TestV1IsGob(t *testing.T) {
	var theirs bytes.Buffer
	enc := gob.NewEncoder(&theirs)
	ours := newScriptConn()
	c := connOver(ours, 1, true, nil)
	for _, n := range []int{0, 1, 100, 122, 123, 124, 125, 126, 127, 128, 250, 255, 256, 65530, 65536, 1 << 20} {
		body := bytes.Repeat([]byte{0xa5}, n)
		if err := enc.Encode(append([]byte{9}, body...)); err != nil {
			t.Fatal(err)
		}
		if err := c.WriteMessage(9, body); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(theirs.Bytes(), ours.out.Bytes()) {
		t.Fatal("our version 1 messages differ from encoding/gob's")
	}
	r := connOver(newScriptConn(theirs.Bytes()), 1, false, nil)
	for _, n := range []int{0, 1, 100} {
		tag, body, err := r.ReadMessage()
		if err != nil || tag != 9 || len(body) != n {
			t.Errorf("ReadMessage = %d, %d bytes, %v, want 9, %d bytes", tag, len(body), err, n)
		}
	}
}

func TestReadMessageRefuses(t *testing.T) {
	key := &[32]byte{1}
	sealed := newScriptConn()
	if err := connOver(sealed, 2, true, key).WriteMessages([]Message{{Tag: 4, Body: []byte("one")}, {Tag: 4, Body: []byte("two")}}); err != nil {
		t.Fatal(err)
	}
	one, two := sealed.out.Bytes()[:4+4+16], sealed.out.Bytes()[4+4+16:]
	flipped := bytes.Clone(two)
	flipped[len(flipped)-1] ^= 1
	tests := []struct {
		name    string
		version int
		key     *[32]byte
		wire    []byte
		skip    int // messages that are read before
		want    error
	}{
		{"nothing", 2, nil, nil, 0, io.EOF},
		{"half a length", 2, nil, unhex("0000"), 0, io.ErrUnexpectedEOF},
		{"half a message", 2, nil, unhex("00000005 0001"), 0, io.ErrUnexpectedEOF},
		{"no message", 2, nil, unhex("00000005"), 0, io.ErrUnexpectedEOF},
		{"too long", 2, nil, unhex("00a00001 00"), 0, ErrMessageTooLong},
		{"all ones", 2, nil, unhex("ffffffff 00"), 0, ErrMessageTooLong},
		{"longest, cut", 2, nil, unhex("00a00000 00"), 0, io.ErrUnexpectedEOF},
		{"sealed, shorter than its tag", 2, key, unhex("0000000f 000102030405060708090a0b0c0d0e"), 0, ErrWrongPassword},
		{"sealed, empty", 2, key, unhex("00000000"), 0, ErrWrongPassword},
		{"sealed, changed", 2, key, slices.Concat(one, flipped), 1, ErrDecrypt},
		{"sealed, replayed", 2, key, slices.Concat(one, one), 1, ErrDecrypt},
		{"sealed, out of order", 2, key, slices.Concat(two, one), 0, ErrWrongPassword},
		{"version 1, nothing", 1, nil, nil, 0, io.EOF},
		{"version 1, cut in the head", 1, nil, unhex("04"), 0, io.ErrUnexpectedEOF},
		{"version 1, cut in a number", 1, nil, unhex("fe01"), 0, io.ErrUnexpectedEOF},
		{"version 1, cut", 1, nil, unhex("040a0001"), 0, io.ErrUnexpectedEOF},
		{"version 1, number of 9 bytes", 1, nil, unhex("f7 010101010101010101"), 0, errGobUint},
		{"version 1, string", 1, nil, unhex("04 0c00 01 00"), 0, errV1Gob},
		{"version 1, definition", 1, nil, featureTypeDef, 0, errV1Gob},
		{"version 1, count too large", 1, nil, unhex("05 0a00 01 00 00"), 0, errV1Gob},
		{"version 1, count too small", 1, nil, unhex("03 0a00 01 00 00"), 0, errV1Gob},
		{"version 1, count below its head", 1, nil, unhex("00 0a00 01 00 00"), 0, errV1Gob},
		{"version 1, huge", 1, nil, unhex("f8 8000000000000009 0a00 f8 7fffffffffffffff"), 0, errV1Gob},
		{"version 1, huge and consistent", 1, nil, unhex("f8 800000000000000a 0a00 f8 7fffffffffffffff"), 0, ErrMessageTooLong},
		{"version 1, too long", 1, nil, unhex("fd a00007 0a00 fd a00001"), 0, ErrMessageTooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := connOver(newScriptConn(tt.wire), tt.version, false, tt.key)
			for range tt.skip {
				if _, _, err := c.ReadMessage(); err != nil {
					t.Fatalf("ReadMessage = %v, want the error one message later", err)
				}
			}
			if _, _, err := c.ReadMessage(); !errors.Is(err, tt.want) {
				t.Errorf("ReadMessage = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestEmptyMessagesAreSkipped(t *testing.T) {
	sealer := newScriptConn()
	key := &[32]byte{7}
	c := connOver(sealer, 2, true, key)
	if err := c.out.writeRaw(nil); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteMessage(6, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Conn{
		connOver(newScriptConn(unhex("00000000 00000000 00000001 06")), 2, false, nil),
		connOver(newScriptConn(unhex("030a0000 040a000106")), 1, false, nil),
		connOver(newScriptConn(sealer.out.Bytes()), 2, false, key),
	} {
		tag, body, err := r.ReadMessage()
		if err != nil || tag != 6 || len(body) != 0 {
			t.Errorf("ReadMessage = %d, %x, %v, want 6 and no body", tag, body, err)
		}
	}
}

func TestLongestMessage(t *testing.T) {
	key := &[32]byte{3}
	for _, tt := range []struct {
		name    string
		version int
		key     *[32]byte
		body    int
	}{
		{"plain", 2, nil, maxMessage - 1},
		{"sealed", 2, key, maxMessage - 1 - secretbox.Overhead},
		{"version 1", 1, nil, maxMessage - 1},
		{"version 1, sealed", 1, key, maxMessage - 1 - secretbox.Overhead},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := newScriptConn()
			w := connOver(out, tt.version, true, tt.key)
			if err := w.WriteMessage(4, make([]byte, tt.body+1)); !errors.Is(err, ErrMessageTooLong) {
				t.Fatalf("WriteMessage = %v, want %v", err, ErrMessageTooLong)
			}
			if err := w.WriteMessage(4, make([]byte, tt.body)); err != nil {
				t.Fatalf("WriteMessage after one that was too long: %v", err)
			}
			if err := w.WriteMessage(5, []byte("next")); err != nil {
				t.Fatal(err)
			}
			r := connOver(newScriptConn(out.out.Bytes()), tt.version, false, tt.key)
			for _, want := range []int{tt.body, 4} {
				if _, body, err := r.ReadMessage(); err != nil || len(body) != want {
					t.Errorf("ReadMessage = %d bytes, %v, want %d", len(body), err, want)
				}
			}
			if cap(r.in.wire) > keptBuffer || cap(r.in.plain) > keptBuffer {
				t.Errorf("buffers of %d and %d bytes are kept", cap(r.in.wire), cap(r.in.plain))
			}
		})
	}
}

// TestPromisesReserveNothing: a length costs no memory before its bytes come.
func TestPromisesReserveNothing(t *testing.T) {
	for version, wire := range map[int][]byte{
		2: unhex("00a00000 0000"),
		1: unhex("fd a00006 0a00 fd a00000 0000"),
	} {
		got := allocated(func() {
			for range 16 {
				c := connOver(newScriptConn(wire), version, false, nil)
				if _, _, err := c.ReadMessage(); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("version %d: ReadMessage = %v, want %v", version, err, io.ErrUnexpectedEOF)
				}
			}
		})
		if limit := uint64(16 * 2 * keptBuffer); got > limit {
			t.Errorf("version %d: %d bytes allocated for 16 messages that did not come, want at most %d", version, got, limit)
		}
	}
}

// allocated is how many bytes f allocates, what other goroutines do included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestConcurrentWriters: messages of several goroutines stay whole, and sealed
// in the order in which they are on the wire.
func TestConcurrentWriters(t *testing.T) {
	const writers, each = 8, 50
	for _, version := range []int{1, 2} {
		out := newScriptConn()
		key := &[32]byte{9}
		c := connOver(out, version, true, key)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				for range each {
					body := bytes.Repeat([]byte{byte(i)}, 10*i)
					if err := c.WriteMessages([]Message{{Tag: byte(i), Body: body}, {Tag: byte(i), Body: body}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		r := connOver(newScriptConn(out.out.Bytes()), version, false, key)
		for range writers * each * 2 {
			tag, body, err := r.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if want := bytes.Repeat([]byte{tag}, 10*int(tag)); !bytes.Equal(body, want) {
				t.Fatalf("message %d = %x, want %x", tag, body, want)
			}
		}
	}
}

// brokenWriter takes a few bytes of the first write.
type brokenWriter struct{ writes int }

func (b *brokenWriter) Write(p []byte) (int, error) {
	b.writes++
	return min(3, len(p)), io.ErrShortWrite
}

func TestWriterStaysBroken(t *testing.T) {
	broken := &brokenWriter{}
	w := messageWriter{w: broken}
	for range 3 {
		if err := w.write([]Message{{Tag: 1}}); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("write = %v, want %v", err, io.ErrShortWrite)
		}
	}
	if broken.writes != 1 {
		t.Errorf("%d writes after part of a message was lost, want none", broken.writes-1)
	}
}

func BenchmarkReadMessage(b *testing.B) {
	key := &[32]byte{5}
	for name, key := range map[string]*[32]byte{"plain": nil, "sealed": key} {
		b.Run(name, func(b *testing.B) {
			out := newScriptConn()
			w := connOver(out, 2, true, key)
			const batch = 1000
			for range batch {
				w.WriteMessage(4, make([]byte, 400))
			}
			wire := out.out.Bytes()
			b.SetBytes(400)
			var r *Conn
			for i := 0; b.Loop(); i++ {
				if i%batch == 0 {
					r = connOver(newScriptConn(wire), 2, false, key)
				}
				if _, _, err := r.ReadMessage(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzReadMessageV2(f *testing.F) { fuzzReadMessage(f, 2) }

func FuzzReadMessageV1(f *testing.F) { fuzzReadMessage(f, 1) }

// fuzzReadMessage: whatever bytes come, what is read is within the limit, and
// written again it is read the same.
func fuzzReadMessage(f *testing.F, version int) {
	for _, c := range capturedConns(f) {
		if c.Version != version || c.Crypto != nil {
			continue
		}
		_, _, incoming := c.end(f, true)
		f.Add(incoming[HeaderLen:])
		for _, m := range c.Messages {
			f.Add([]byte(m.Wire))
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		c := connOver(newScriptConn(wire), version, false, nil)
		var messages []Message
		for {
			tag, body, err := c.ReadMessage()
			if err != nil {
				break
			}
			if len(body)+1 > len(wire) {
				t.Fatalf("message of %d bytes out of %d", len(body)+1, len(wire))
			}
			messages = append(messages, Message{Tag: tag, Body: bytes.Clone(body)})
		}
		out := newScriptConn()
		if err := connOver(out, version, true, nil).WriteMessages(messages); err != nil {
			t.Fatal(err)
		}
		again := connOver(newScriptConn(out.out.Bytes()), version, false, nil)
		for _, want := range messages {
			tag, body, err := again.ReadMessage()
			if err != nil || tag != want.Tag || !bytes.Equal(body, want.Body) {
				t.Fatalf("read again = %d, %x, %v, want %+v", tag, body, err, want)
			}
		}
	})
}
