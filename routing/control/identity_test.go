package control

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	crand "crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"testing"

	"meshd/internal/identity"
)

func signingEphemeral(t testing.TB, i int) (func(version int) map[string]string, *ecdh.PrivateKey) {
	t.Helper()
	private, err := NewEphemeral(crand.Read)
	if err != nil {
		t.Fatal(err)
	}
	return Features{
		Name: 0x020000000000 + 1, NickName: fmt.Sprint("host", i), UID: uint64(100 + i), ConnID: uint64(1)<<63 + uint64(i),
		Overlays: []string{"sleeve"}, HasOverlays: true, Native: true,
		Abilities: []string{AbilityProbe, AbilityLeave, AbilityIdentity},
		Ephemeral: (*[32]byte)(private.PublicKey().Bytes()),
	}.FeatureMap, private
}

// shakeEnds runs a dialler and an acceptor, whatever their features are; an end
// that fails closes.
func shakeEnds(ctx context.Context, a, b net.Conn, dialler, acceptor HandshakeConfig) (conns [2]*Conn, errs [2]error) {
	dialler.Dialled = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conns[1], errs[1] = Handshake(ctx, b, acceptor); errs[1] != nil {
			b.Close()
		}
	}()
	if conns[0], errs[0] = Handshake(ctx, a, dialler); errs[0] != nil {
		a.Close()
	}
	<-done
	return conns, errs
}

func TestIdentity(t *testing.T) {
	one := Passwords([]byte("alpha"))
	for _, tt := range []struct {
		name              string
		secure            bool
		dialler, acceptor HandshakeConfig
		keys              bool // each knows the other's
	}{
		{"plain", false, HandshakeConfig{}, HandshakeConfig{}, true},
		{"password", false, HandshakeConfig{Passwords: one}, HandshakeConfig{Passwords: one}, true},
		{"version 1", false, HandshakeConfig{MaxVersion: 1}, HandshakeConfig{}, false},
		{"secure", true, HandshakeConfig{}, HandshakeConfig{}, true},
		{"secure, password", true, HandshakeConfig{Passwords: one}, HandshakeConfig{Passwords: one}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ids := [2]*identity.Identity{newIdentity(t), newIdentity(t)}
			var private [2]*ecdh.PrivateKey
			tt.dialler.Identity, tt.acceptor.Identity = ids[0], ids[1]
			tt.dialler.Features, private[0] = signingEphemeral(t, 1)
			tt.acceptor.Features, private[1] = signingEphemeral(t, 2)
			a, b := plainPipe()
			var x, y net.Conn = a, b
			if tt.secure {
				x, y = secured(t, a, b, ids[0], ids[1])
			}
			conns, errs := shakeEnds(t.Context(), x, y, tt.dialler, tt.acceptor)
			if err := errors.Join(errs[:]...); err != nil {
				t.Fatal(err)
			}
			for i, c := range conns {
				if got, want := c.PeerKey, ids[1-i].Public(); (got != nil) != tt.keys || got != nil && *got != want {
					t.Errorf("end %d: key of the peer is %v, want %v", i, got, want)
				}
				if c.Encrypted != (tt.secure || tt.dialler.Passwords != nil) || c.Proved != (tt.dialler.Passwords != nil) {
					t.Errorf("end %d: encrypted %v, proved %v", i, c.Encrypted, c.Proved)
				}
				if tt.secure && c.Key != nil {
					t.Error("weave's encryption within TLS")
				}
			}
			if tt.keys {
				checkSecrets(t, conns, private)
			}
			talk(t, conns[0], conns[1])
			talk(t, conns[1], conns[0])
		})
	}
}

// checkSecrets checks that both ends have one path secret, which over a secure
// stream is not what it would be without.
func checkSecrets(t *testing.T, conns [2]*Conn, private [2]*ecdh.PrivateKey) {
	t.Helper()
	x, err := conns[0].PathSecret(private[0])
	if err != nil {
		t.Fatal(err)
	}
	y, err := conns[1].PathSecret(private[1])
	if err != nil || *x != *y {
		t.Fatalf("PathSecret = %x and %x, %v, want the same", x, y, err)
	}
	secure := conns[0].exporter != nil
	conns[0].exporter = nil
	if without, err := conns[0].PathSecret(private[0]); err != nil || (*without != *x) != secure {
		t.Errorf("the exporter is mixed into the path secret: %v, want %v (%v)", *without != *x, secure, err)
	}
	if k, err := sleeveKey(x); err != nil || *k == *x {
		t.Errorf("sleeveKey = %v, want another key than the secret", err)
	}
}

func TestIdentityIsOptional(t *testing.T) {
	id := newIdentity(t)
	silent := func(m func(int) map[string]string) func(int) map[string]string {
		return func(v int) map[string]string {
			out := m(v)
			out[featureMeshd] = "probe leave"
			return out
		}
	}
	for _, secure := range []bool{false, true} {
		a, b := plainPipe()
		var x, y net.Conn = a, b
		if secure {
			x, y = secured(t, a, b, newIdentity(t), id)
		}
		conns, errs := shakeEnds(t.Context(), x, y,
			HandshakeConfig{Features: silent(signing(t, 1))}, HandshakeConfig{Features: signing(t, 2), Identity: id})
		if !secure && (errs[1] != nil || conns[1].PeerKey != nil) {
			t.Errorf("plain: %v, want a connection without a key", errs[1])
		}
		if secure && !errors.Is(errs[1], ErrIdentity) {
			t.Errorf("secure: %v, want %v", errs[1], ErrIdentity)
		}
	}
	_, err := Handshake(t.Context(), newScriptConn([]byte("weave\x01\x02\x00"), framed(appendFeatureGob(nil, signing(t, 1)(2)))),
		HandshakeConfig{Features: signing(t, 2)})
	if err == nil || !strings.Contains(err.Error(), "our own") {
		t.Errorf("the ability without an identity: %v, want an error of our own", err)
	}
}

// liar shakes hands as a dialler up to its identity message, which forge makes.
func liar(t *testing.T, conn net.Conn, forge func(h *handshake) Message) *Conn {
	t.Helper()
	h := handshake{c: newConn(conn, true)}
	h.cfg = HandshakeConfig{Dialled: true, Features: signing(t, 1)}
	version, err := h.header()
	if err != nil {
		t.Fatal(err)
	}
	h.c.setVersion(version)
	h.c.LocalFeatures = h.cfg.Features(version)
	if h.ours, err = ParseFeatures(h.c.LocalFeatures, version); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.introV2(), h.accept()); err != nil {
		t.Fatal(err)
	}
	m := forge(&h)
	if err := h.c.WriteMessage(m.Tag, m.Body); err != nil {
		t.Fatal(err)
	}
	return h.c
}

func TestForgedIdentities(t *testing.T) {
	victim, own := newIdentity(t), newIdentity(t)
	signed := func(h *handshake, dialler bool) []byte {
		b, err := h.signedBy(dialler)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	message := func(key identity.Key, signature []byte) Message {
		return Message{TagIdentity, append(key[:], signature...)}
	}
	var recorded Message // of the victim, on another connection
	weak := identity.Key(unhex("0100000000000000000000000000000000000000000000000000000000000000"))
	for _, tt := range []struct {
		name  string
		forge func(h *handshake) Message
		ok    bool
	}{
		{"true", func(h *handshake) Message {
			recorded = message(victim.Public(), victim.Sign(signed(h, true)))
			return recorded
		}, true},
		{"replayed", func(*handshake) Message { return recorded }, false},
		{"another's key", func(h *handshake) Message { return message(victim.Public(), own.Sign(signed(h, true))) }, false},
		{"the other role", func(h *handshake) Message { return message(victim.Public(), victim.Sign(signed(h, false))) }, false},
		{"ours, sent back", func(h *handshake) Message {
			tag, body, err := h.c.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			return Message{tag, bytes.Clone(body)}
		}, false},
		{"weak key", func(*handshake) Message { return message(weak, append([]byte{1}, make([]byte, 63)...)) }, false},
		{"short", func(*handshake) Message { return Message{TagIdentity, make([]byte, identityLen-1)} }, false},
		{"long", func(*handshake) Message { return Message{TagIdentity, make([]byte, identityLen+1)} }, false},
		{"empty", func(*handshake) Message { return Message{Tag: TagIdentity} }, false},
		{"another message", func(*handshake) Message { return Message{Tag: TagHeartbeat} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := plainPipe()
			done := make(chan struct{})
			var conn *Conn
			var err error
			go func() {
				defer close(done)
				conn, err = Handshake(t.Context(), b, HandshakeConfig{Features: signing(t, 2), Identity: newIdentity(t)})
			}()
			liar(t, a, tt.forge)
			<-done
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrIdentity) || tt.ok && *conn.PeerKey != victim.Public() {
				t.Errorf("Handshake = %v, want accepted: %v", err, tt.ok)
			}
		})
	}
}

// TestTamperedFeatures: who changes a feature on the way breaks the signatures,
// unless it takes the whole ability away, which pins find.
func TestTamperedFeatures(t *testing.T) {
	for key, value := range map[string]string{featureOverlays: "", featureMeshd: "probe identity", featureNickName: "x", "New": "1"} {
		ids := [2]*identity.Identity{newIdentity(t), newIdentity(t)}
		a, b := plainPipe()
		theirs := signing(t, 1)
		wire := func(v int) map[string]string { m := theirs(v); m[key] = value; return m }
		done := make(chan error, 1)
		go func() {
			_, err := Handshake(t.Context(), b, HandshakeConfig{Features: signing(t, 2), Identity: ids[1]})
			b.Close()
			done <- err
		}()
		liar(t, a, func(h *handshake) Message {
			m := wire(2)
			if maps.Equal(m, h.c.LocalFeatures) {
				t.Fatal("nothing is changed")
			}
			h.c.LocalFeatures = m // the honest end signs what it sent, the acceptor had something else
			text, err := h.signedBy(true)
			if err != nil {
				t.Fatal(err)
			}
			k := ids[0].Public()
			return Message{TagIdentity, append(k[:], ids[0].Sign(text)...)}
		})
		if err := <-done; !errors.Is(err, ErrIdentity) {
			t.Errorf("%s changed on the way: %v, want %v", key, err, ErrIdentity)
		}
	}
}

// TestManInTheMiddle passes everything on between two TLS connections.
func TestManInTheMiddle(t *testing.T) {
	one := Passwords([]byte("alpha"))
	for _, tt := range []struct {
		name      string
		passwords []Password
		ids       bool
		want      error
	}{
		{"identities", nil, true, ErrIdentity},
		{"password", one, false, ErrWrongPassword},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ids := [3]*identity.Identity{newIdentity(t), newIdentity(t), newIdentity(t)}
			a, m1 := plainPipe()
			m2, b := plainPipe()
			x, mid1 := secured(t, a, m1, ids[0], ids[2])
			mid2, y := secured(t, m2, b, ids[2], ids[1])
			go func() { io.Copy(mid1, mid2); mid1.Close() }()
			go func() { io.Copy(mid2, mid1); mid2.Close() }()
			dialler := HandshakeConfig{Features: featuresOf(1), Passwords: tt.passwords}
			acceptor := HandshakeConfig{Features: featuresOf(2), Passwords: tt.passwords}
			if tt.ids {
				dialler.Features, dialler.Identity = signing(t, 1), ids[0]
				acceptor.Features, acceptor.Identity = signing(t, 2), ids[1]
			}
			_, errs := shakeEnds(t.Context(), x, y, dialler, acceptor)
			for i, err := range errs {
				if !errors.Is(err, tt.want) && !closedByPeer(err) && !errors.Is(err, net.ErrClosed) {
					t.Errorf("end %d: %v, want %v or the end", i, err, tt.want)
				}
			}
			if !errors.Is(errors.Join(errs[:]...), tt.want) {
				t.Errorf("%v, want %v at one end at least", errs, tt.want)
			}
		})
	}
}

// TestOtherCertificate: the key that signs must be the certificate's.
func TestOtherCertificate(t *testing.T) {
	a, b := plainPipe()
	x, y := secured(t, a, b, newIdentity(t), newIdentity(t))
	_, errs := shakeEnds(t.Context(), x, y,
		HandshakeConfig{Features: signing(t, 1), Identity: newIdentity(t)}, HandshakeConfig{Features: signing(t, 2), Identity: newIdentity(t)})
	if !errors.Is(errors.Join(errs[:]...), ErrIdentity) || !strings.Contains(errors.Join(errs[:]...).Error(), "certificate") {
		t.Errorf("%v, want a word on the certificate", errs)
	}
}

// TestIdentityConstruction computes the signed text as the documentation has it.
func TestIdentityConstruction(t *testing.T) {
	h := handshake{c: &Conn{LocalFeatures: map[string]string{"a": "b"}, RemoteFeatures: map[string]string{"c": "d"}}}
	h.c.exporter = func(label string) ([]byte, error) { return []byte(fmt.Sprintf("%-32s", label)), nil }
	first, second := HashFeatures(h.c.RemoteFeatures), HashFeatures(h.c.LocalFeatures) // the other end dialled
	want := "meshd identity v1" + "\x01" + string(first[:]) + string(second[:]) + "EXPORTER-meshd-identity-v1      "
	if got, err := h.signedBy(true); err != nil || string(got) != want {
		t.Errorf("signedBy = %x, %v, want %x", got, err, want)
	}
}

func FuzzParseIdentity(f *testing.F) {
	_, private, err := ed25519.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	if err != nil {
		f.Fatal(err)
	}
	good := append(bytes.Clone(private.Public().(ed25519.PublicKey)), ed25519.Sign(private, nil)...)
	f.Add(good)
	f.Add(good[:95])
	f.Add(make([]byte, 96))
	f.Fuzz(func(t *testing.T, body []byte) {
		key, signature, err := parseIdentity(body)
		if err != nil {
			if !errors.Is(err, ErrIdentity) {
				t.Fatalf("%s: %v", hex.EncodeToString(body), err)
			}
			return
		}
		if len(signature) != 64 || key.Weak() || !bytes.Equal(append(key[:], signature...), body) {
			t.Fatalf("parseIdentity(%x) = %v, %x", body, key, signature)
		}
	})
}
