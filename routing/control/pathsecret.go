package control

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrNoEphemeral says that the peer sent no ephemeral key: it is not meshd, or
// speaks protocol 1.
var ErrNoEphemeral = errors.New("the peer sent no ephemeral key")

// Labels separate uses of HKDF.
const (
	pathSecretLabel = "meshd path secret v1"
	sleeveKeyLabel  = "meshd sleeve over a secure carrier v1"
)

// sleeveKey is the key of sleeve where the session rides on a secure stream and so
// has none of its own: HKDF-SHA256 of the path secret, without salt.
func sleeveKey(secret *[32]byte) (*[32]byte, error) {
	key, err := hkdf.Key(sha256.New, secret[:], nil, sleeveKeyLabel, keyLen)
	if err != nil {
		return nil, fmt.Errorf("make sleeve's key: %w", err)
	}
	return (*[32]byte)(key), nil
}

// NewEphemeral makes the key pair of one connection. Its public part goes into
// Features.Ephemeral, and the pair into Conn.PathSecret.
func NewEphemeral(random func([]byte) (int, error)) (*ecdh.PrivateKey, error) {
	return newKeyPair(readerFunc(random))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// PathSecret is the root of the keys of native paths, equal at both ends
// (design, section 5):
//
//	HKDF-SHA256, no salt
//	  secret: X25519 of the ephemeral keys || session key, if there is a password,
//	          or over a secure stream 32 bytes of its exporter
//	  info:   label
//	          || name of the dialler, 6 bytes  || ConnID of the dialler, 8 bytes
//	          || name of the acceptor, 6 bytes || ConnID of the acceptor, 8 bytes
//	          || HashFeatures(dialler's) || HashFeatures(acceptor's)
//
// private belongs to the Ephemeral feature that we sent. Errors: ErrNoEphemeral,
// ErrLowOrder.
func (c *Conn) PathSecret(private *ecdh.PrivateKey) (*[32]byte, error) {
	local, err := ParseFeatures(c.LocalFeatures, c.Version)
	if err != nil {
		return nil, fmt.Errorf("our own features: %w", err)
	}
	if local.Ephemeral == nil || [keyLen]byte(private.PublicKey().Bytes()) != *local.Ephemeral {
		return nil, errors.New("make path secret: the key pair is not the one of our Ephemeral feature")
	}
	if c.Features.Ephemeral == nil {
		return nil, ErrNoEphemeral
	}
	secret, err := exchangeKeys(private, c.Features.Ephemeral[:])
	if err != nil {
		return nil, fmt.Errorf("make path secret: %w", err)
	}
	if c.Key != nil {
		secret = append(secret, c.Key[:]...)
	}
	if c.exporter != nil {
		exported, err := c.exporter(exportPathSecret)
		if err != nil {
			return nil, fmt.Errorf("make path secret: %w", err)
		}
		secret = append(secret, exported...)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, c.pathSecretInfo(local), keyLen)
	if err != nil {
		return nil, fmt.Errorf("make path secret: %w", err)
	}
	return (*[32]byte)(key), nil
}

// pathSecretInfo says which connection the secret is for.
func (c *Conn) pathSecretInfo(local Features) string {
	dialler, acceptor := local, c.Features
	diallerMap, acceptorMap := c.LocalFeatures, c.RemoteFeatures
	if !c.Dialled {
		dialler, acceptor = acceptor, dialler
		diallerMap, acceptorMap = acceptorMap, diallerMap
	}
	info := []byte(pathSecretLabel)
	for _, f := range []Features{dialler, acceptor} {
		var name [6]byte
		f.Name.Put(name[:])
		info = append(info, name[:]...)
		info = binary.BigEndian.AppendUint64(info, f.ConnID)
	}
	for _, m := range []map[string]string{diallerMap, acceptorMap} {
		h := HashFeatures(m)
		info = append(info, h[:]...)
	}
	return string(info)
}

// HashFeatures is SHA-256 of a feature map in canonical form: for each key, in
// byte order, length and bytes of the key, then length and bytes of its value;
// lengths have 4 bytes, big-endian. Keys that we do not know count too.
func HashFeatures(m map[string]string) [sha256.Size]byte {
	var b []byte
	for _, key := range slices.Sorted(maps.Keys(m)) {
		for _, s := range []string{key, m[key]} {
			b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
			b = append(b, s...)
		}
	}
	return sha256.Sum256(b)
}
