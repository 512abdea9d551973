package control

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
)

// Over a secure stream a password is proved in the features, bound to the TLS
// connection (design, section 5):
//
//	Proof = hex of HMAC-SHA256(mesh key, exporter || role)
//
// The exporter gives 32 bytes, different for each TLS connection: who sits between
// two of them cannot pass a proof on. The acceptor answers only to a proof that
// holds, so a dialler gets nothing to test guesses on. A refusal is a features
// message with one feature, Proof, which is no proof: proofRefused, or proofNone if
// the acceptor has no password.

// Labels of a TLS exporter, one for each use.
const (
	exportProof      = "EXPORTER-meshd-proof-v1"
	exportIdentity   = "EXPORTER-meshd-identity-v1"
	exportPathSecret = "EXPORTER-meshd-path-secret-v1"
)

// exportLen is how much is exported, in bytes.
const exportLen = 32

// role says which end signs or proves.
type role byte

const (
	roleDialler  role = 1
	roleAcceptor role = 2
)

func roleOf(dialler bool) role {
	if dialler {
		return roleDialler
	}
	return roleAcceptor
}

// What an acceptor answers in place of a proof.
const (
	proofRefused = "refused"
	proofNone    = "none"
)

// exporter gives exportLen bytes for a label.
type exporter func(label string) ([]byte, error)

// exporterOf returns the exporter of a stream, and whether it is a secure one.
func exporterOf(conn net.Conn) (exporter, bool) {
	secure, ok := conn.(interface {
		ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error)
	})
	if !ok {
		return nil, false
	}
	return func(label string) ([]byte, error) {
		b, err := secure.ExportKeyingMaterial(label, nil, exportLen)
		if err == nil && len(b) != exportLen {
			err = fmt.Errorf("%d bytes, not %d", len(b), exportLen)
		}
		if err != nil {
			return nil, fmt.Errorf("export from the carrier's TLS: %w", err)
		}
		return b, nil
	}, true
}

// proof makes the Proof of one end.
func (p Password) proof(exported []byte, of role) string {
	h := hmac.New(sha256.New, p.key()[:])
	h.Write(exported)
	h.Write([]byte{byte(of)})
	return hex.EncodeToString(h.Sum(nil))
}

// proves reports whether a Proof of one end was made with the password.
func (p Password) proves(proof string, exported []byte, by role) bool {
	return hmac.Equal([]byte(p.proof(exported, by)), []byte(proof))
}

// introSecure is the introduction over a secure stream: version 2 without weave's
// encryption, features with proofs.
func (h *handshake) introSecure() error {
	if err := h.keysV2(); err != nil {
		return err
	}
	exported, err := h.c.exporter(exportProof)
	if err != nil {
		return err
	}
	if h.c.Dialled {
		return h.proveFirst(exported)
	}
	return h.proveSecond(exported)
}

// proveFirst is the dialler's part.
func (h *handshake) proveFirst(exported []byte) error {
	ours := len(h.cfg.Passwords) > 0
	if ours {
		h.c.LocalFeatures[featureProof] = h.cfg.Passwords[0].proof(exported, roleDialler)
	}
	if err := h.exchange("exchange features", h.writeFeatures, h.readFeatures); err != nil {
		return err
	}
	theirs, has := h.c.RemoteFeatures[featureProof]
	switch {
	case ours && (!has || theirs == proofNone):
		return &PasswordMismatch{Ours: true}
	case !ours && has:
		return &PasswordMismatch{}
	case ours && !h.cfg.Passwords[0].proves(theirs, exported, roleAcceptor):
		return ErrWrongPassword
	}
	h.c.Proved = ours
	return nil
}

// proveSecond is the acceptor's part.
func (h *handshake) proveSecond(exported []byte) error {
	if err := h.readFeatures(); err != nil {
		return fmt.Errorf("read features: %w", err)
	}
	theirs, has := h.c.RemoteFeatures[featureProof]
	ours := len(h.cfg.Passwords) > 0
	switch {
	case has && !ours:
		return h.refuseProof(proofNone, &PasswordMismatch{})
	case ours && !has:
		return h.refuseProof(proofRefused, &PasswordMismatch{Ours: true})
	}
	for _, p := range h.cfg.Passwords {
		if !p.proves(theirs, exported, roleDialler) {
			continue
		}
		h.c.LocalFeatures[featureProof] = p.proof(exported, roleAcceptor)
		h.c.Proved = true
	}
	if ours && !h.c.Proved {
		return h.refuseProof(proofRefused, ErrWrongPassword)
	}
	if err := h.writeFeatures(); err != nil {
		return fmt.Errorf("write features: %w", err)
	}
	return nil
}

// refuseProof tells the dialler why the connection ends.
func (h *handshake) refuseProof(answer string, why error) error {
	h.c.LocalFeatures = map[string]string{featureProof: answer}
	return cmp.Or(errors.Join(why, h.writeFeatures()), why)
}
