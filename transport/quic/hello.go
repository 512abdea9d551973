package quic

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// A hello is the one overlay control message of a path, tagHello. Numbers are
// big-endian; what follows the flags is for later versions.
//
//	0         1       9      11      13
//	+---------+-------+------+-------+------
//	| version | index | port | flags | …
//	+---------+-------+------+-------+------
//
// index is what connections to the sender of the hello name its path by, port the
// UDP port where it speaks QUIC. There are no flags yet: they are sent as 0 and
// ignored.
const (
	tagHello = 1

	helloVersion = 1
	helloLen     = 13
	maxHello     = 512 // bytes
	offIndex     = 1
	offPort      = 9
)

// hello is what a hello says.
type hello struct {
	index uint64
	port  uint16
}

var (
	errHello        = errors.New("the neighbour's hello is cut short or says nonsense")
	errHelloVersion = errors.New("the neighbour speaks another version of paths over QUIC")
)

func (h hello) append(b []byte) []byte {
	b = append(b, helloVersion)
	b = binary.BigEndian.AppendUint64(b, h.index)
	b = binary.BigEndian.AppendUint16(b, h.port)
	return binary.BigEndian.AppendUint16(b, 0)
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
	h := hello{index: binary.BigEndian.Uint64(b[offIndex:]), port: binary.BigEndian.Uint16(b[offPort:])}
	if h.port == 0 {
		return hello{}, errHello
	}
	return h, nil
}

// Labels that separate these uses of a session's secret, and of a connection's,
// from all others.
const (
	secretLabel   = "meshd quic v1 path"
	exporterLabel = "EXPORTER-meshd-quic-path"
	exportedLen   = 32
)

// bindKey derives what both ends prove that they know:
//
//	HKDF-SHA256, no salt
//	  secret: the session's
//	  info:   label
//	          || length of the dialler's hello, 2 bytes  || the hello
//	          || length of the acceptor's hello, 2 bytes || the hello
func bindKey(secret *[32]byte, dialler, acceptor []byte) ([]byte, error) {
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

// Who makes a proof.
const (
	byDialler  = "d"
	byAcceptor = "a"
)

// prove makes an end's proof for a connection: HMAC-SHA256 of who makes it and
// what the connection exports.
func prove(key []byte, who string, exported []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(who))
	m.Write(exported)
	return m.Sum(nil)
}
