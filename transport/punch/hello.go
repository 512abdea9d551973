package punch

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"meshd/internal/encap"
)

// A hello is the one overlay control message of a path, tagHello. Numbers are
// big-endian; what follows the abilities is for later versions.
//
//	0         1       5      7           9
//	+---------+-------+------+-----------+------
//	| version | index | port | abilities | …
//	+---------+-------+------+-----------+------
//
// index is what the datagrams to the sender of the hello shall begin with, port
// the UDP port that it listens on.
const (
	tagHello = 1

	helloVersion = 1
	helloLen     = 9
	maxHello     = 512 // bytes
	offIndex     = 1
	offPort      = 5
	offAbilities = 7
)

// abilities are what a peer can; both must have one for it to be used.
type abilities uint16

// canAES: has AES hardware, for AES-128-GCM instead of ChaCha20-Poly1305.
const canAES abilities = 1

// hello is what a hello says.
type hello struct {
	index uint32
	port  uint16
	can   abilities
}

var (
	errHello        = errors.New("the neighbour's hello is cut short or says nonsense")
	errHelloVersion = errors.New("the neighbour speaks another version of native datagrams")
)

func (h hello) append(b []byte) []byte {
	b = append(b, helloVersion)
	b = binary.BigEndian.AppendUint32(b, h.index)
	b = binary.BigEndian.AppendUint16(b, h.port)
	return binary.BigEndian.AppendUint16(b, uint16(h.can))
}

func parseHello(b []byte) (hello, error) {
	if len(b) == 0 || len(b) > maxHello {
		return hello{}, errHello
	}
	if b[0] != helloVersion {
		return hello{}, fmt.Errorf("%w: %d, not %d", errHelloVersion, b[0], helloVersion)
	}
	if len(b) < helloLen {
		return hello{}, errHello
	}
	h := hello{
		index: binary.BigEndian.Uint32(b[offIndex:]),
		port:  binary.BigEndian.Uint16(b[offPort:]),
		can:   abilities(binary.BigEndian.Uint16(b[offAbilities:])),
	}
	if h.port == 0 {
		return hello{}, errHello
	}
	return h, nil
}

// suite is the cipher that two peers with these abilities in common use.
func (a abilities) suite() encap.NativeSuite {
	if a&canAES != 0 {
		return encap.NativeAES
	}
	return encap.NativeChaCha
}

// secretLabel separates this use of a session's secret from all others.
const secretLabel = "meshd native v1 path"

// pathSecrets derives what the keys of the two directions come from:
//
//	HKDF-SHA256, no salt
//	  secret: the session's
//	  info:   label
//	          || length of the dialler's hello, 2 bytes  || the hello
//	          || length of the acceptor's hello, 2 bytes || the hello
//	          || "d" for what the dialler sends, "a" for what the acceptor sends
func pathSecrets(secret *[32]byte, dialler, acceptor []byte) (fromDialler, fromAcceptor *[32]byte, err error) {
	info := []byte(secretLabel)
	for _, h := range [][]byte{dialler, acceptor} {
		info = binary.BigEndian.AppendUint16(info, uint16(len(h)))
		info = append(info, h...)
	}
	var keys [2]*[32]byte
	for i, direction := range []string{"d", "a"} {
		key, err := hkdf.Key(sha256.New, secret[:], nil, string(info)+direction, 32)
		if err != nil {
			return nil, nil, fmt.Errorf("derive path secrets: %w", err)
		}
		keys[i] = (*[32]byte)(key)
	}
	return keys[0], keys[1], nil
}
