package control

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"meshd/internal/identity"
)

// TagIdentity is the tag of the message in which a meshd peer shows its identity.
// Where both ends announce AbilityIdentity it is the first message after the
// features in both directions:
//
//	| public key, 32 bytes | Ed25519 signature, 64 bytes |
//
// The signature is over
//
//	identityLabel || role of who signs, 1 byte
//	|| HashFeatures(dialler's) || HashFeatures(acceptor's)
//	|| 32 bytes of the TLS exporter, over a secure stream
//
// The features hold both ends' fresh ephemeral keys, so the signature is good for
// this connection only, and so are the path's keys, which are made of them.
const TagIdentity = 97

const identityLabel = "meshd identity v1"

// identityLen is the length of the message's body in bytes.
const identityLen = identity.KeyLen + ed25519.SignatureSize

// ErrIdentity says that a peer did not prove its identity.
var ErrIdentity = errors.New("the peer did not prove its identity")

// identify exchanges the identity messages.
func (h *handshake) identify() error {
	id, ours := h.cfg.Identity, h.ours.Can(AbilityIdentity)
	switch {
	case ours && id == nil:
		return errors.New("our own features: no identity for the ability of that name")
	case ours && !h.c.Features.Can(AbilityIdentity) && h.c.exporter != nil:
		return fmt.Errorf("%w: a peer over this carrier must", ErrIdentity)
	case !ours || !h.c.Features.Can(AbilityIdentity):
		return nil
	}
	signed, err := h.signedBy(h.c.Dialled)
	if err != nil {
		return err
	}
	key := id.Public()
	body := append(key[:], id.Sign(signed)...)
	return h.exchange("exchange identities",
		func() error { return h.c.WriteMessage(TagIdentity, body) },
		h.readIdentity)
}

// signedBy is what the dialler's or the acceptor's signature is over.
func (h *handshake) signedBy(dialler bool) ([]byte, error) {
	first, second := HashFeatures(h.c.LocalFeatures), HashFeatures(h.c.RemoteFeatures)
	if !h.c.Dialled {
		first, second = second, first
	}
	b := append([]byte(identityLabel), byte(roleOf(dialler)))
	b = append(append(b, first[:]...), second[:]...)
	if h.c.exporter == nil {
		return b, nil
	}
	exported, err := h.c.exporter(exportIdentity)
	return append(b, exported...), err
}

func (h *handshake) readIdentity() error {
	tag, body, err := h.c.ReadMessage()
	if err != nil {
		return err
	}
	if tag != TagIdentity {
		return fmt.Errorf("%w: its first message has the tag %d", ErrIdentity, tag)
	}
	key, signature, err := parseIdentity(body)
	if err != nil {
		return err
	}
	signed, err := h.signedBy(!h.c.Dialled)
	if err != nil {
		return err
	}
	if !key.Verify(signed, signature) {
		return fmt.Errorf("%w: the signature of %v does not fit this connection", ErrIdentity, key)
	}
	if err := h.sameAsTLS(key); err != nil {
		return err
	}
	h.c.PeerKey = &key
	return nil
}

// sameAsTLS compares the key with the one of the peer's certificate.
func (h *handshake) sameAsTLS(key identity.Key) error {
	s, ok := h.c.Net.(interface{ PeerKey() ed25519.PublicKey })
	if ok && !s.PeerKey().Equal(ed25519.PublicKey(key[:])) {
		return fmt.Errorf("%w: its key %v is not its certificate's", ErrIdentity, key)
	}
	return nil
}

// parseIdentity reads the body of an identity message; signature points into it.
func parseIdentity(body []byte) (key identity.Key, signature []byte, err error) {
	if len(body) != identityLen {
		return key, nil, fmt.Errorf("%w: its message has %d bytes, not %d", ErrIdentity, len(body), identityLen)
	}
	key = identity.Key(body[:identity.KeyLen])
	if key.Weak() {
		return key, nil, fmt.Errorf("%w: %w", ErrIdentity, identity.ErrWeakKey)
	}
	return key, body[identity.KeyLen:], nil
}
