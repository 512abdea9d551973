package tcp

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
//	0         1       9     11          13
//	+---------+-------+-----+-----------+------
//	| version | index | MTU | abilities | …
//	+---------+-------+-----+-----------+------
//
// index is what connections to the sender of the hello name its path by, MTU the
// largest IP packet in bytes that its port on the bridge carries.
const (
	tagHello = 1

	helloVersion = 1
	helloLen     = 13
	maxHello     = 512 // bytes
	offIndex     = 1
	offMTU       = 9
	offAbilities = 11
)

// minMTU is what every IPv4 link carries (RFC 791), in bytes.
const minMTU = 68

// abilities are what a peer can; both must have one for it to be used.
type abilities uint16

// canAES: has AES hardware, for AES-128-GCM instead of ChaCha20-Poly1305.
const canAES abilities = 1

// hello is what a hello says.
type hello struct {
	index uint64
	mtu   int
	can   abilities
}

var (
	errHello        = errors.New("the neighbour's hello is cut short or says nonsense")
	errHelloVersion = errors.New("the neighbour speaks another version of paths over TCP")
)

func (h hello) append(b []byte) []byte {
	b = append(b, helloVersion)
	b = binary.BigEndian.AppendUint64(b, h.index)
	b = binary.BigEndian.AppendUint16(b, uint16(h.mtu))
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
		index: binary.BigEndian.Uint64(b[offIndex:]),
		mtu:   int(binary.BigEndian.Uint16(b[offMTU:])),
		can:   abilities(binary.BigEndian.Uint16(b[offAbilities:])),
	}
	if h.mtu < minMTU {
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
const secretLabel = "meshd tcp v1 path"

// pathKey derives what both ends prove on a connection that they know, and what its
// keys come from:
//
//	HKDF-SHA256, no salt
//	  secret: the session's
//	  info:   label
//	          || length of the dialler's hello, 2 bytes  || the hello
//	          || length of the acceptor's hello, 2 bytes || the hello
func pathKey(secret *[32]byte, dialler, acceptor []byte) ([]byte, error) {
	info := []byte(secretLabel)
	for _, h := range [][]byte{dialler, acceptor} {
		info = binary.BigEndian.AppendUint16(info, uint16(len(h)))
		info = append(info, h...)
	}
	key, err := hkdf.Key(sha256.New, secret[:], nil, string(info), sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive the key of the path: %w", err)
	}
	return key, nil
}
