package encap

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// NativeSuite is the cipher of native datagrams.
type NativeSuite uint8

const (
	// NativeChaCha is ChaCha20-Poly1305 (RFC 8439), fast everywhere.
	NativeChaCha NativeSuite = iota
	// NativeAES is AES-128-GCM (NIST SP 800-38D), faster with hardware for it.
	NativeAES
)

// String returns the cipher's name.
func (s NativeSuite) String() string {
	if s == NativeAES {
		return "AES-128-GCM"
	}
	return "ChaCha20-Poly1305"
}

// AESHardware reports whether this machine computes AES-GCM in hardware.
func AESHardware() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	}
	return false
}

// NativeSpent is how many datagrams one key seals at most. A sender changes keys
// long before: for 2^23 datagrams of any size an attacker's advantage stays below
// 2^-57 (RFC 9001, section 6.6 and appendix B).
const NativeSpent = 1 << 24

// ErrSpent says that a key has sealed as much as it may.
var ErrSpent = errors.New("key has sealed all it may")

// Labels of the derivation of keys.
const (
	nativeKeyLabel  = "meshd native v1 key"
	nativeNextLabel = "meshd native v1 next"
)

// nativeSecret is what an epoch's key and the next epoch's secret come from, by
// HKDF-Expand with SHA-256 (RFC 5869). There is no way back from a secret to
// those before.
//
//	secret 0 ── next ──► secret 1 ── next ──► …
//	   │ key                │ key
//	   ▼                    ▼
//	key 0                key 1
type nativeSecret struct {
	suite  NativeSuite
	secret [32]byte
}

// aead makes the epoch's cipher.
func (s *nativeSecret) aead() (cipher.AEAD, error) {
	size := chacha20poly1305.KeySize
	if s.suite == NativeAES {
		size = 16
	}
	key, err := hkdf.Expand(sha256.New, s.secret[:], nativeKeyLabel, size)
	if err != nil {
		return nil, fmt.Errorf("derive a key: %w", err)
	}
	if s.suite != NativeAES {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// next goes on to the next epoch.
func (s *nativeSecret) next() error {
	secret, err := hkdf.Expand(sha256.New, s.secret[:], nativeNextLabel, len(s.secret))
	if err != nil {
		return fmt.Errorf("derive the next secret: %w", err)
	}
	s.secret = [32]byte(secret)
	return nil
}

// NativeSeal seals the datagrams of one direction of one path. It must not be
// used concurrently.
type NativeSeal struct {
	secret  nativeSecret // of the epoch
	aead    cipher.AEAD
	index   uint32
	epoch   uint64
	counter uint64 // of the next datagram
	began   uint64 // counter of the epoch's first datagram
	nonce   [nativeNonceLen]byte
}

// NewNativeSeal returns a seal for datagrams to the path that the receiver calls
// index. The secret must be that of one path and direction only: counters begin
// at 0.
func NewNativeSeal(secret *[32]byte, suite NativeSuite, index uint32) (*NativeSeal, error) {
	s := &NativeSeal{secret: nativeSecret{suite, *secret}, index: index}
	aead, err := s.secret.aead()
	if err != nil {
		return nil, err
	}
	s.aead = aead
	return s, nil
}

// Seal seals a datagram in place: NativeHeaderLen bytes of room, then items. It
// returns the whole datagram, NativeTagLen bytes longer, for which there must be
// capacity. It does not allocate. ErrSpent: nothing was done.
func (s *NativeSeal) Seal(datagram []byte) ([]byte, error) {
	if s.counter-s.began >= NativeSpent || s.counter >= nativeCounterLimit {
		return nil, ErrSpent
	}
	header := datagram[:NativeHeaderLen]
	header[0] = NativeKind | byte(s.epoch&nativeEpoch)
	binary.BigEndian.PutUint32(header[offNativeIndex:], s.index)
	binary.BigEndian.PutUint64(header[offNativeCounter:], s.counter)
	binary.BigEndian.PutUint64(s.nonce[offNonceCounter:], s.counter)
	s.counter++
	return s.aead.Seal(header, s.nonce[:], datagram[NativeHeaderLen:], header), nil
}

// Used is how many datagrams the epoch's key has sealed.
func (s *NativeSeal) Used() uint64 { return s.counter - s.began }

// Epoch is the number of the key in use, from 0.
func (s *NativeSeal) Epoch() uint64 { return s.epoch }

// Advance goes on to the next epoch. The receiver must have opened a datagram of
// this one: it knows no more than one key ahead. On an error nothing changes.
func (s *NativeSeal) Advance() error {
	next := s.secret
	if err := next.next(); err != nil {
		return err
	}
	aead, err := next.aead()
	if err != nil {
		return err
	}
	s.secret, s.aead = next, aead
	s.epoch++
	s.began = s.counter
	return nil
}

// NativeOpen opens the datagrams of one direction of one path. It has the keys of
// three epochs: the one in use, the one before for datagrams that were overtaken,
// and the next one, of which the first authentic datagram makes it the one in
// use. It must not be used concurrently.
type NativeOpen struct {
	secret              nativeSecret // of the next epoch
	previous, use, next cipher.AEAD  // the first and the last may be nil
	epoch               uint64       // of use
	window              Window
	nonce               [nativeNonceLen]byte
}

// NewNativeOpen returns what opens the datagrams of NewNativeSeal with the same
// secret and suite.
func NewNativeOpen(secret *[32]byte, suite NativeSuite) (*NativeOpen, error) {
	o := &NativeOpen{secret: nativeSecret{suite, *secret}}
	aead, err := o.secret.aead()
	if err != nil {
		return nil, err
	}
	o.use = aead
	o.prepare()
	return o, nil
}

// prepare derives the next epoch's key. What cannot fail for the first key cannot
// fail for another; if it did, there would be no next one.
func (o *NativeOpen) prepare() {
	o.next = nil
	if o.secret.next() == nil {
		o.next, _ = o.secret.aead()
	}
}

// Open opens a datagram in place, whatever its index, and returns its items,
// which lie in it, and its counter. Errors: ErrShort, ErrKind, ErrAuth, ErrReplay;
// the datagram's bytes may be destroyed by then, and nothing else has changed. It
// does not allocate, except for a change of keys.
func (o *NativeOpen) Open(datagram []byte) (items []byte, counter uint64, err error) {
	if _, err := NativeIndex(datagram); err != nil {
		return nil, 0, err
	}
	counter = binary.BigEndian.Uint64(datagram[offNativeCounter:])
	ahead := (datagram[0] - byte(o.epoch)) & nativeEpoch
	key := o.key(ahead)
	if key == nil || counter >= nativeCounterLimit {
		return nil, 0, ErrAuth
	}
	binary.BigEndian.PutUint64(o.nonce[offNonceCounter:], counter)
	header, body := datagram[:NativeHeaderLen], datagram[NativeHeaderLen:]
	items, err = key.Open(body[:0], o.nonce[:], body, header)
	if err != nil {
		return nil, 0, ErrAuth
	}
	if !o.window.Accept(counter) {
		return nil, 0, ErrReplay
	}
	if ahead == 1 {
		o.advance()
	}
	return items, counter, nil
}

// key finds the key of the epoch that is so many ahead of the one in use, modulo
// 16; nil: we have none.
func (o *NativeOpen) key(ahead byte) cipher.AEAD {
	switch ahead {
	case 0:
		return o.use
	case 1:
		return o.next
	case nativeEpoch:
		return o.previous
	}
	return nil
}

func (o *NativeOpen) advance() {
	o.previous, o.use = o.use, o.next
	o.epoch++
	o.prepare()
}

// Epoch is the number of the key in use, from 0.
func (o *NativeOpen) Epoch() uint64 { return o.epoch }

// Forget gives up the key of the previous epoch.
func (o *NativeOpen) Forget() { o.previous = nil }
