package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/nacl/secretbox"

	"meshd/internal/identity"
)

// Limits of one message on the wire in bytes, encryption included, weave
// protocol sections 1.5 and 9.2.
const (
	maxMessage          = 10 << 20
	maxHandshakeMessage = 64 << 10
)

// readAhead is how many bytes a connection reads at once; larger messages bypass
// that buffer. A thousand idle connections should not cost much.
const readAhead = 4 << 10

// Buffers have at least minBuffer bytes; those of more than keptBuffer are given
// back after use.
const (
	minBuffer  = 512
	keptBuffer = 64 << 10
)

var (
	// ErrMessageTooLong says that a message exceeds what one may have: 10 MiB,
	// or 64 KiB before the features are accepted.
	ErrMessageTooLong = errors.New("control message is too long")
	// ErrDecrypt says that a message does not open under the session key.
	ErrDecrypt = errors.New("control message cannot be decrypted")
	errV1Gob   = errors.New("message is not a gob byte string")
)

// Message is one control message, weave protocol section 2.
type Message struct {
	Tag  byte
	Body []byte
}

// Conn is a control connection after its handshake. One goroutine may read
// while others write.
type Conn struct {
	// Net is the connection below; deadlines are set on it.
	Net     net.Conn
	Version int  // protocol version, 1 or 2
	Dialled bool // we opened it
	// Encrypted: by a password that is configured at both ends, or by the carrier.
	// Key is the session key of the password; nil without one, and over a secure
	// stream.
	Encrypted bool
	Key       *[32]byte
	// Proved: the peer knows the mesh's password. Under protocol 1 only its first
	// message shows it, but nothing is taken before that.
	Proved bool
	// PeerKey is the key that the peer signed with; nil: none.
	PeerKey *identity.Key
	// UID is the connection UID, equal at both ends, weave protocol section 1.7.
	UID            uint64
	Features       Features // of the peer
	LocalFeatures  map[string]string
	RemoteFeatures map[string]string

	exporter exporter // of a secure stream, else nil
	in       messageReader
	out      messageWriter
}

func newConn(conn net.Conn, dialled bool) *Conn {
	c := &Conn{
		Net:     conn,
		Dialled: dialled,
		in:      messageReader{r: bufio.NewReaderSize(conn, readAhead), limit: maxHandshakeMessage},
		out:     messageWriter{w: conn},
	}
	c.exporter, c.Encrypted = exporterOf(conn)
	return c
}

// encrypt seals all further messages with key.
func (c *Conn) encrypt(key *[32]byte) {
	c.expect([]*[32]byte{key})
	c.in.settle(key)
	c.seal(key)
}

// expect takes messages under one of keys: the one that opens the first of them.
// Nothing may be sent before seal.
func (c *Conn) expect(keys []*[32]byte) {
	c.Encrypted = true
	c.in.candidates, c.in.nonces = keys, messageNonces{senderDialled: !c.Dialled}
}

// seal seals all further messages that we send.
func (c *Conn) seal(key *[32]byte) {
	c.Key = key
	c.out.key, c.out.nonces = key, messageNonces{senderDialled: c.Dialled}
}

// setVersion fixes the framing.
func (c *Conn) setVersion(version int) {
	c.Version = version
	c.in.v1, c.out.v1 = version == 1, version == 1
}

// Close closes the connection below.
func (c *Conn) Close() error { return c.Net.Close() }

// ReadMessage waits for the next message; messages without a tag are skipped.
// body is borrowed: valid until the next call. After an error the connection is
// of no further use. One goroutine reads at a time.
func (c *Conn) ReadMessage() (tag byte, body []byte, err error) {
	for {
		b, err := c.in.next()
		if err != nil {
			return 0, nil, fmt.Errorf("read control message: %w", err)
		}
		if len(b) > 0 {
			return b[0], b[1:], nil
		}
	}
}

// WriteMessage writes one message. body is borrowed. It may be called
// concurrently, and waits for the connection as its write deadline allows.
// ErrMessageTooLong leaves the connection as it was; after other errors it is of
// no further use.
func (c *Conn) WriteMessage(tag byte, body []byte) error {
	return c.WriteMessages([]Message{{Tag: tag, Body: body}})
}

// WriteMessages writes several messages, one after the other, with one call to
// the connection. As WriteMessage else; it writes all of them or none.
func (c *Conn) WriteMessages(messages []Message) error {
	if err := c.out.write(messages); err != nil {
		return fmt.Errorf("write control message: %w", err)
	}
	return nil
}

// messageReader takes messages off a connection, weave protocol section 1.5:
//
//	version 2:  | length, 4 bytes | message |
//	version 1:  | gob count | 0a 00 | gob count | message |
//
// With a key each message is a secretbox.
type messageReader struct {
	r      *bufio.Reader
	v1     bool
	limit  int
	key    *[32]byte
	nonces messageNonces
	wire   []byte // the message as it came
	plain  []byte

	candidates []*[32]byte // keys, while it is not known which holds
	peeked     []byte      // what next returns again; nil: nothing
}

// peek waits for the next message and leaves it to next.
func (m *messageReader) peek() (err error) {
	m.peeked, err = m.next()
	return err
}

// settle fixes the key.
func (m *messageReader) settle(key *[32]byte) { m.key, m.candidates = key, nil }

// next returns a message, which may be empty. It is borrowed until the next call.
func (m *messageReader) next() ([]byte, error) {
	if b := m.peeked; b != nil {
		m.peeked = nil
		return b, nil
	}
	n, err := m.length()
	if err != nil {
		return nil, err
	}
	if n > uint64(m.limit) {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrMessageTooLong, n, m.limit)
	}
	if m.wire, err = readInto(m.wire, m.r, int(n)); err != nil {
		return nil, err
	}
	m.tryCandidates()
	switch {
	case len(m.candidates) > 0:
		return nil, ErrWrongPassword
	case m.key == nil:
		return m.wire, nil
	}
	if cap(m.plain) > keptBuffer {
		m.plain = nil
	}
	first := m.nonces.sequence == 0
	plain, ok := secretbox.Open(m.plain[:0], m.wire, m.nonces.next(), m.key)
	if !ok && first {
		return nil, ErrWrongPassword
	}
	if !ok {
		return nil, ErrDecrypt
	}
	m.plain = plain
	return plain, nil
}

// tryCandidates settles for the key that opens the message, the first sealed one.
func (m *messageReader) tryCandidates() {
	for _, key := range m.candidates {
		nonces := m.nonces
		if _, ok := secretbox.Open(nil, m.wire, nonces.next(), key); ok {
			m.settle(key)
			return
		}
	}
}

// length reads what precedes a message.
func (m *messageReader) length() (uint64, error) {
	if m.v1 {
		return m.lengthV1()
	}
	b, err := m.r.Peek(4)
	if err != nil && len(b) > 0 {
		return 0, unexpected(err)
	}
	if err != nil {
		return 0, err
	}
	n := uint64(binary.BigEndian.Uint32(b))
	m.r.Discard(len(b))
	return n, nil
}

// lengthV1 reads the head of a gob message that holds a []byte.
func (m *messageReader) lengthV1() (uint64, error) {
	count, _, err := readGobUint(m.r)
	if err != nil {
		return 0, err
	}
	id, idLen, err := readGobUint(m.r)
	if err != nil {
		return 0, unexpected(err)
	}
	zero, zeroLen, err := readGobUint(m.r)
	if err != nil {
		return 0, unexpected(err)
	}
	if id != gobBytes<<1 || zero != 0 {
		return 0, errV1Gob
	}
	n, nLen, err := readGobUint(m.r)
	if err != nil {
		return 0, unexpected(err)
	}
	if head := uint64(idLen + zeroLen + nLen); count < head || n != count-head {
		return 0, errV1Gob
	}
	return n, nil
}

// readGobUint reads an unsigned integer and says how many bytes it took.
func readGobUint(r *bufio.Reader) (u uint64, length int, err error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	if first < 0x80 {
		return uint64(first), 1, nil
	}
	n := -int(int8(first))
	if n > 8 {
		return 0, 0, errGobUint
	}
	for range n {
		b, err := r.ReadByte()
		if err != nil {
			return 0, 0, unexpected(err)
		}
		u = u<<8 | uint64(b)
	}
	return u, 1 + n, nil
}

// readInto reads n bytes into buf, or into a new buffer where buf is too small.
// That one grows as bytes arrive, not as the sender promises.
func readInto(buf []byte, r io.Reader, n int) ([]byte, error) {
	if cap(buf) > keptBuffer && n <= keptBuffer {
		buf = nil
	}
	buf = buf[:0]
	for len(buf) < n {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(max(n, minBuffer), max(2*cap(buf), keptBuffer)))
			copy(grown, buf)
			buf = grown
		}
		start := len(buf)
		buf = buf[:min(n, cap(buf))]
		if _, err := io.ReadFull(r, buf[start:]); err != nil {
			return buf[:0], unexpected(err)
		}
	}
	return buf, nil
}

// unexpected marks an end of the stream inside a message.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// messageWriter puts messages onto a connection.
type messageWriter struct {
	w   io.Writer
	v1  bool
	key *[32]byte

	mu     sync.Mutex // guards what follows; held while writing
	nonces messageNonces
	wire   []byte // framed messages
	plain  []byte // a message that is to be sealed
	err    error  // the first error of w: part of a message may be out
}

func (m *messageWriter) write(messages []Message) error {
	for _, message := range messages {
		if n := m.wireLen(1 + len(message.Body)); n > maxMessage {
			return fmt.Errorf("%w: %d bytes", ErrMessageTooLong, n)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wire = m.wire[:0]
	for _, message := range messages {
		m.plain = append(append(m.plain[:0], message.Tag), message.Body...)
		m.appendLocked(m.plain)
	}
	return m.flushLocked()
}

// writeRaw writes one message that has no tag.
func (m *messageWriter) writeRaw(message []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wire = m.wire[:0]
	m.appendLocked(message)
	return m.flushLocked()
}

// wireLen is what a message of n bytes has on the wire, its length apart.
func (m *messageWriter) wireLen(n int) int {
	if m.key != nil {
		return n + secretbox.Overhead
	}
	return n
}

// appendLocked frames a message and seals it where there is a key.
func (m *messageWriter) appendLocked(message []byte) {
	n := m.wireLen(len(message))
	if m.v1 {
		m.wire = appendV1Length(m.wire, n)
	} else {
		m.wire = binary.BigEndian.AppendUint32(m.wire, uint32(n))
	}
	if m.key != nil {
		m.wire = secretbox.Seal(m.wire, message, m.nonces.next(), m.key)
	} else {
		m.wire = append(m.wire, message...)
	}
}

func appendV1Length(dst []byte, n int) []byte {
	dst = appendGobUint(dst, uint64(2+gobUintLen(uint64(n))+n))
	dst = append(dst, gobBytes<<1, 0)
	return appendGobUint(dst, uint64(n))
}

func (m *messageWriter) flushLocked() error {
	if m.err != nil {
		return m.err
	}
	_, m.err = m.w.Write(m.wire)
	if cap(m.wire) > keptBuffer {
		m.wire = nil
	}
	if cap(m.plain) > keptBuffer {
		m.plain = nil
	}
	return m.err
}
