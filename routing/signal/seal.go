package signal

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"meshd/internal/frame"
)

// A sealed message.
//
//	0         1      2         10
//	+---------+------+---------+-------------------------------------+
//	| version | kind | counter | ChaCha20-Poly1305 (RFC 8439): body  |
//	+---------+------+---------+-------------------------------------+
//
// The counter, the nonce's last 8 bytes, is never used twice. What stands before the
// body is authenticated too. The body:
//
//	0      1    9
//	+------+----+------- - -
//	| verb | ID | payload
//	+------+----+------- - -
const (
	offCounter = 2
	offSealed  = 10
	offID      = 1
	offPayload = 9

	// MaxPayload is how long the payload of a request or reply may be, in bytes.
	MaxPayload = 4096

	sealLabel = "meshd signal v1"
)

// verb is what a sealed message is for.
type verb byte

const (
	verbRequest verb = 1
	verbReply   verb = 2
	verbNotice  verb = 3 // wants no reply
)

var (
	errSeal = errors.New("it was not sealed by the peer for us")
)

// end is one of the two ends that share keys.
type end struct {
	name frame.PeerName
	uid  uint64
	key  [32]byte // public
}

// append writes the end for the derivation of keys.
func (e end) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(e.name))
	b = binary.BigEndian.AppendUint64(b, e.uid)
	return append(b, e.key[:]...)
}

// pairKeys are the ciphers of both directions between us and a peer, and a secret
// that both share.
type pairKeys struct {
	seal, open cipher.AEAD
	secret     [32]byte
}

// newPairKeys derives the keys:
//
//	HKDF-SHA256, no salt
//	  secret: X25519 of both keys || mesh key, where there is a password
//	  info:   label || the end with the lower name || the other end || use
func newPairKeys(private *ecdh.PrivateKey, us, them end, meshKey *[32]byte) (*pairKeys, error) {
	public, err := ecdh.X25519().NewPublicKey(them.key[:])
	if err != nil {
		return nil, err
	}
	shared, err := private.ECDH(public) // refuses all-zero results
	if err != nil {
		return nil, fmt.Errorf("the key of %v: %w", them.name, err)
	}
	if meshKey != nil {
		shared = append(shared, meshKey[:]...)
	}
	first, second := us, them
	if them.name < us.name {
		first, second = them, us
	}
	info := string(second.append(first.append([]byte(sealLabel))))
	var keys [3][]byte
	for i, use := range []string{"from the first", "from the second", "secret"} {
		if keys[i], err = hkdf.Key(sha256.New, shared, nil, info+use, 32); err != nil {
			return nil, err
		}
	}
	k := &pairKeys{secret: [32]byte(keys[2])}
	out, in := keys[0], keys[1]
	if us.name != first.name {
		out, in = in, out
	}
	if k.seal, err = chacha20poly1305.New(out); err != nil {
		return nil, err
	}
	k.open, err = chacha20poly1305.New(in)
	return k, err
}

func nonce(counter uint64) []byte {
	n := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(n[len(n)-8:], counter)
	return n
}

// sealed is a message with that counter.
func (k *pairKeys) sealed(counter uint64, v verb, id uint64, payload []byte) []byte {
	b := []byte{version, byte(kindSealed)}
	b = binary.BigEndian.AppendUint64(b, counter)
	body := binary.BigEndian.AppendUint64([]byte{byte(v)}, id)
	body = append(body, payload...)
	return k.seal.Seal(b, nonce(counter), body, b)
}

// opened reads a message. The payload is the caller's.
func (k *pairKeys) opened(b []byte) (counter uint64, v verb, id uint64, payload []byte, err error) {
	if len(b) < offSealed+offPayload+chacha20poly1305.Overhead {
		return 0, 0, 0, nil, errShort
	}
	counter = binary.BigEndian.Uint64(b[offCounter:])
	body, err := k.open.Open(nil, nonce(counter), b[offSealed:], b[:offSealed])
	if err != nil {
		return 0, 0, 0, nil, errSeal
	}
	return counter, verb(body[0]), binary.BigEndian.Uint64(body[offID:]), body[offPayload:], nil
}

// window remembers the last 64 counters that came.
type window struct {
	next uint64 // one more than the highest
	seen uint64 // bit i: next-1-i came
}

// take reports whether a counter is new, and remembers it.
func (w *window) take(counter uint64) bool {
	if counter >= w.next {
		shift := counter - w.next + 1
		w.next = counter + 1
		if shift >= 64 {
			w.seen = 1
		} else {
			w.seen = w.seen<<shift | 1
		}
		return true
	}
	back := w.next - 1 - counter
	if back >= 64 || w.seen&(1<<back) != 0 {
		return false
	}
	w.seen |= 1 << back
	return true
}
