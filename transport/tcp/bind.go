package tcp

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A connection is bound to a path by its first bytes. The session's dialler begins
// with an opening, whose header stands where sessions have weave's:
//
//	0       5         6         7       15              47
//	+-------+---------+---------+-------+---------------+
//	|"meshd"| version | purpose | index | nonce         |
//	+-------+---------+---------+-------+---------------+
//
// The control port sends weave's header to everybody, and the acceptor then its
// answer. The dialler ends with its proof, behind which records may follow at once:
//
//	          0      7       39                 71         0                   32
//	          +------+-------+------------------+          +-------------------+
//	answer:   |weave | nonce | acceptor's proof |   proof: | dialler's proof   |
//	          +------+-------+------------------+          +-------------------+
//
// index is the acceptor's, from its hello. The nonces are random. Before it has
// verified the other's proof an end takes no record of the connection.
const (
	version     = 1
	purposePath = 1

	headerLen  = 7
	nonceLen   = 32
	openingLen = headerLen + 8 + nonceLen
	offNonce   = headerLen + 8
	answerLen  = nonceLen + sha256.Size

	weaveMagic = "weave"
)

// header is what connections begin with that carry a path's frames.
var header = [headerLen]byte{'m', 'e', 's', 'h', 'd', version, purposePath}

// Labels that separate uses of a path's key.
const (
	byDialler   = "d"
	byAcceptor  = "a"
	recordLabel = "meshd tcp v1 records"
)

var (
	errProof    = errors.New("the other end does not know the session's secret")
	errNotWeave = errors.New("what answers is no control port")
)

// transcript is what both ends have said before their proofs: the opening and the
// acceptor's nonce.
type transcript [openingLen + nonceLen]byte

// prove makes an end's proof for a connection: HMAC-SHA256 of who makes it and the
// transcript. Both nonces are in that, so that a proof holds for one connection.
func (t *transcript) prove(key []byte, who string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(who))
	m.Write(t[:])
	return m.Sum(nil)
}

// secrets are what the keys of a connection's two directions come from.
type secrets struct {
	fromDialler, fromAcceptor *[32]byte
}

// secrets derives them: HKDF-SHA256 of the path's key without salt, with the label,
// the transcript and who sends as info.
func (t *transcript) secrets(key []byte) (secrets, error) {
	var keys [2]*[32]byte
	for i, who := range []string{byDialler, byAcceptor} {
		k, err := hkdf.Key(sha256.New, key, nil, recordLabel+string(t[:])+who, 32)
		if err != nil {
			return secrets{}, fmt.Errorf("derive the keys of the connection: %w", err)
		}
		keys[i] = (*[32]byte)(k)
	}
	return secrets{keys[0], keys[1]}, nil
}

// offer is the dialler's side of binding.
func offer(c io.ReadWriter, key []byte, index uint64) (secrets, error) {
	var t transcript
	copy(t[:], header[:])
	binary.BigEndian.PutUint64(t[headerLen:], index)
	if _, err := rand.Read(t[offNonce:openingLen]); err != nil {
		return secrets{}, fmt.Errorf("make a nonce: %w", err)
	}
	if _, err := c.Write(t[:openingLen]); err != nil {
		return secrets{}, fmt.Errorf("send the opening: %w", err)
	}
	var answer [headerLen + answerLen]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return secrets{}, fmt.Errorf("read the neighbour's answer: %w", err)
	}
	if !bytes.HasPrefix(answer[:], []byte(weaveMagic)) {
		return secrets{}, errNotWeave
	}
	copy(t[openingLen:], answer[headerLen:])
	if !hmac.Equal(answer[headerLen+nonceLen:], t.prove(key, byAcceptor)) {
		return secrets{}, errProof
	}
	if _, err := c.Write(t.prove(key, byDialler)); err != nil {
		return secrets{}, fmt.Errorf("send our proof: %w", err)
	}
	return t.secrets(key)
}

// opening is the acceptor's side of binding after the header, which the control port
// has read, and sent its own.
type opening struct {
	t     transcript
	index uint64
}

// readOpening reads which path a connection is for.
func readOpening(c io.Reader) (*opening, error) {
	o := &opening{}
	copy(o.t[:], header[:])
	if _, err := io.ReadFull(c, o.t[headerLen:openingLen]); err != nil {
		return nil, fmt.Errorf("read an opening: %w", err)
	}
	o.index = binary.BigEndian.Uint64(o.t[headerLen:])
	return o, nil
}

// answer proves that we know the path's key and has the dialler prove it.
func (o *opening) answer(c io.ReadWriter, key []byte) (secrets, error) {
	nonce := o.t[openingLen:]
	if _, err := rand.Read(nonce); err != nil {
		return secrets{}, fmt.Errorf("make a nonce: %w", err)
	}
	answer := append(make([]byte, 0, answerLen), nonce...)
	if _, err := c.Write(append(answer, o.t.prove(key, byAcceptor)...)); err != nil {
		return secrets{}, fmt.Errorf("answer an opening: %w", err)
	}
	var proof [sha256.Size]byte
	if _, err := io.ReadFull(c, proof[:]); err != nil {
		return secrets{}, fmt.Errorf("read the neighbour's proof: %w", err)
	}
	if !hmac.Equal(proof[:], o.t.prove(key, byDialler)) {
		return secrets{}, errProof
	}
	return o.t.secrets(key)
}
