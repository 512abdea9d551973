package control

import (
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/nacl/box"
)

const keyLen = 32 // bytes of an X25519 key and of a session key

// ErrLowOrder says that a peer's public key makes the shared secret a constant
// that anyone knows. Stock routers accept it, weave protocol section 9.1.
var ErrLowOrder = errors.New("the peer's public key is of low order: somebody may be tampering with the connection")

// newKeyPair makes an X25519 key pair from 32 bytes of random.
func newKeyPair(random io.Reader) (*ecdh.PrivateKey, error) {
	var seed [keyLen]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return nil, fmt.Errorf("make a key pair: %w", err)
	}
	return ecdh.X25519().NewPrivateKey(seed[:])
}

// exchangeKeys is X25519; an all-zero result is ErrLowOrder.
func exchangeKeys(private *ecdh.PrivateKey, remote []byte) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(remote)
	if err != nil {
		return nil, fmt.Errorf("read the peer's public key: %w", err)
	}
	secret, err := private.ECDH(public)
	if err != nil {
		return nil, ErrLowOrder
	}
	return secret, nil
}

// sessionKey is the key of control connection and sleeve, weave protocol
// section 1.6: SHA-256(HSalsa20(X25519) || password). NaCl calls the inner part
// box precomputation.
func sessionKey(private *ecdh.PrivateKey, remote, password []byte) (*[keyLen]byte, error) {
	if _, err := exchangeKeys(private, remote); err != nil { // Precompute checks nothing
		return nil, err
	}
	var shared [keyLen]byte
	box.Precompute(&shared, (*[keyLen]byte)(remote), (*[keyLen]byte)(private.Bytes()))

	h := sha256.New()
	h.Write(shared[:])
	h.Write(password)
	return (*[keyLen]byte)(h.Sum(nil)), nil
}

// nonceLen is the length of a secretbox nonce in bytes.
const nonceLen = 24

// messageNonces counts the control messages of one direction, weave protocol
// section 1.5:
//
//	byte 0      0x40, and 0x80 if the sender dialled
//	bytes 1-15  0
//	bytes 16-23 sequence number, from 0
type messageNonces struct {
	senderDialled bool
	sequence      uint64
}

// next gives the nonce of the next message.
func (m *messageNonces) next() *[nonceLen]byte {
	var nonce [nonceLen]byte
	nonce[0] = 0x40
	if m.senderDialled {
		nonce[0] |= 0x80
	}
	binary.BigEndian.PutUint64(nonce[16:], m.sequence)
	m.sequence++
	return &nonce
}
