package identity

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"math/big"
	"slices"
)

// KeyLen is the length of a public key in bytes.
const KeyLen = ed25519.PublicKeySize

// textLen is the length of a public key's text.
const textLen = 44

var (
	// ErrKeyText says that a text is not a public key.
	ErrKeyText = errors.New("not a public key: wanted 44 characters of base64, as `meshd identity` prints it")
	// ErrWeakKey says that a public key is of low order: anybody can sign for it.
	ErrWeakKey = errors.New("the public key is of low order: anybody can sign for it")
)

// Key is a host's public Ed25519 key, RFC 8032. Its text is the base64 of its 32
// bytes, 44 characters, as WireGuard writes keys.
type Key [KeyLen]byte

// ParseKey reads the text that Key.String gives, and nothing else: no spaces, no
// other alphabet, no stray bits. Errors: ErrKeyText, ErrWeakKey.
func ParseKey(text string) (k Key, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(text) != textLen || len(b) != KeyLen {
		return Key{}, ErrKeyText
	}
	k = Key(b)
	if k.Weak() {
		return Key{}, ErrWeakKey
	}
	return k, nil
}

// String is the key's text.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText is String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParseKey.
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

// Verify reports whether signature is one of message by the key's holder. A weak
// key has none.
func (k Key) Verify(message, signature []byte) bool {
	return len(signature) == ed25519.SignatureSize && !k.Weak() && ed25519.Verify(k[:], message, signature)
}

// Weak reports whether the key is a point of low order, in any encoding: for such
// keys Ed25519 accepts signatures that anybody can make. The point's u coordinate
// on the birationally equivalent curve (RFC 7748, section 4.1) is tried with
// X25519, which finds those of low order.
func (k Key) Weak() bool {
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	little := slices.Clone(k[:])
	little[KeyLen-1] &= 0x7f // the sign of x
	slices.Reverse(little)
	y := new(big.Int).SetBytes(little)
	one := big.NewInt(1)
	below := new(big.Int).Sub(one, y)
	below.Mod(below, prime)
	u := new(big.Int)
	if below.Sign() != 0 { // else y = 1, the neutral element: u stays 0
		u.Add(one, y).Mul(u, below.ModInverse(below, prime)).Mod(u, prime)
	}
	point := u.FillBytes(make([]byte, KeyLen))
	slices.Reverse(point)
	public, err := ecdh.X25519().NewPublicKey(point)
	if err != nil {
		return true
	}
	any, err := ecdh.X25519().NewPrivateKey(slices.Repeat([]byte{0x42}, KeyLen))
	if err != nil {
		return true
	}
	_, err = any.ECDH(public)
	return err != nil
}
