package signal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"meshd/internal/frame"
	"meshd/internal/identity"
)

// An announcement. Numbers are big-endian.
//
//	0         1      2     10         42         74     76      78     79
//	+---------+------+-----+----------+----------+------+-------+------+-------- -- +-----------+
//	| version | kind | UID | X25519   | identity | port | other | MACs | 16 bytes…  | signature |
//	+---------+------+-----+----------+----------+------+-------+------+-------- -- +-----------+
//
// port is the UDP port of native datagrams, QUIC and STUN, other a second one that
// answers STUN, 0 where there is none. There is one MAC for each password that the
// peer accepts: HMAC-SHA256 with the mesh key, cut to 16 bytes. MACs and signature are
// over a label, the name of who announces, and all that stands before them but the kind.
const (
	offKind     = 1
	offUID      = 2
	offKey      = 10
	offIdentity = 42
	offPort     = 74
	offOther    = 76
	offMACs     = 78
	offProofs   = 79

	version  = 1
	macLen   = 16
	maxMACs  = 4
	announce = "meshd announcement v1"
)

// kind is what a message of the channel is.
type kind byte

const (
	kindAnnounce kind = 1 // an announcement
	kindAsk      kind = 2 // the same, from who does not know the receiver's
	kindSealed   kind = 3
)

// Ports are the UDP ports that a peer answers STUN at.
type Ports struct {
	Data  uint16 // of native datagrams and QUIC too
	Other uint16 // 0: there is none
}

// announcement is what a peer says of itself.
type announcement struct {
	uid      uint64
	key      [32]byte // X25519
	identity identity.Key
	ports    Ports
}

var (
	errShort     = errors.New("the message is cut short")
	errSignature = errors.New("the signature is not that of the identity")
	errPassword  = errors.New("it does not prove the mesh's password")
)

// appendAnnouncement writes an announcement with the proofs of who makes it.
func appendAnnouncement(k kind, name frame.PeerName, a announcement, keys []*[32]byte, id *identity.Identity) []byte {
	b := []byte{version, byte(k)}
	b = binary.BigEndian.AppendUint64(b, a.uid)
	b = append(b, a.key[:]...)
	b = append(b, a.identity[:]...)
	b = binary.BigEndian.AppendUint16(b, a.ports.Data)
	b = binary.BigEndian.AppendUint16(b, a.ports.Other)
	keys = keys[:min(len(keys), maxMACs)]
	b = append(b, byte(len(keys)))
	signed := bound(name, b)
	for _, key := range keys {
		b = append(b, mac(key, signed)...)
	}
	return append(b, id.Sign(bound(name, b))...)
}

// bound is what proofs are over: not the kind, which says only what is asked.
func bound(name frame.PeerName, b []byte) []byte {
	out := make([]byte, 0, len(announce)+8+len(b))
	out = append(out, announce...)
	out = binary.BigEndian.AppendUint64(out, uint64(name))
	out = append(out, b[0])
	return append(out, b[offUID:]...)
}

func mac(key *[32]byte, signed []byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(signed)
	return h.Sum(nil)[:macLen]
}

// parseAnnouncement reads an announcement and checks who made it. with is the one of
// keys that both ends have, nil where there are none.
func parseAnnouncement(name frame.PeerName, b []byte, keys []*[32]byte) (a announcement, with *[32]byte, err error) {
	if len(b) < offProofs+ed25519.SignatureSize {
		return a, nil, errShort
	}
	macs := int(b[offMACs])
	end := offProofs + macs*macLen
	if macs > maxMACs || len(b) != end+ed25519.SignatureSize {
		return a, nil, errShort
	}
	a.uid = binary.BigEndian.Uint64(b[offUID:])
	copy(a.key[:], b[offKey:])
	copy(a.identity[:], b[offIdentity:])
	a.ports = Ports{binary.BigEndian.Uint16(b[offPort:]), binary.BigEndian.Uint16(b[offOther:])}
	if with = proved(bound(name, b[:offProofs]), b[offProofs:end], keys); with == nil && len(keys) > 0 {
		return a, nil, errPassword
	}
	if a.identity.Weak() || !a.identity.Verify(bound(name, b[:end]), b[end:]) {
		return a, nil, fmt.Errorf("%w %v", errSignature, a.identity)
	}
	return a, with, nil
}

// proved is the key that one of the MACs is made with; nil: none. Of several, as in
// the midst of a change of passwords, it is the one that both ends choose, in whatever
// order they have them.
func proved(signed, macs []byte, keys []*[32]byte) (with *[32]byte) {
	for _, key := range keys {
		want := mac(key, signed)
		for rest := macs; len(rest) >= macLen; rest = rest[macLen:] {
			if hmac.Equal(want, rest[:macLen]) && (with == nil || bytes.Compare(key[:], with[:]) < 0) {
				with = key
			}
		}
	}
	return with
}

// same reports whether two announcements say the same, but for what is asked.
func same(a, b []byte) bool {
	return len(a) == len(b) && len(a) > offUID && bytes.Equal(a[offUID:], b[offUID:])
}
