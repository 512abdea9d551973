package control

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// unhex reads hex digits, spaces between them allowed.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// lowOrderKeys are public keys whose X25519 result is zero whatever the other
// key is (curve25519, "how do I validate Curve25519 public keys"), and one with
// the unused top bit set.
var lowOrderKeys = [][]byte{
	make([]byte, 32),
	unhex("0100000000000000000000000000000000000000000000000000000000000000"),
	unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
	unhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
	unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
	unhex("0000000000000000000000000000000000000000000000000000000000000080"),
}

func TestSessionKey(t *testing.T) {
	tried := map[string]bool{}
	for name, c := range capturedConns(t) {
		if c.Crypto == nil {
			continue
		}
		for _, end := range []struct {
			who             string
			private, remote []byte
		}{
			{"client", c.Crypto.ClientPrivate, c.Crypto.ServerPublic},
			{"server", c.Crypto.ServerPrivate, c.Crypto.ClientPublic},
		} {
			private, err := ecdh.X25519().NewPrivateKey(end.private)
			if err != nil {
				t.Fatalf("%s: %s: %v", name, end.who, err)
			}
			got, err := sessionKey(private, end.remote, []byte(c.Crypto.Password))
			if err != nil || !bytes.Equal(got[:], c.Crypto.SessionKey) {
				t.Errorf("%s: sessionKey of the %s = %x, %v, want %x", name, end.who, got, err, c.Crypto.SessionKey)
			}
			tried[name[:2]] = true
		}
	}
	for _, capture := range []string{"13", "21"} {
		if !tried[capture] {
			t.Errorf("no session key of capture %s", capture)
		}
	}
}

func TestSessionKeyRefusesLowOrder(t *testing.T) {
	private, err := newKeyPair(bytes.NewReader(bytes.Repeat([]byte{0x42}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range lowOrderKeys {
		if got, err := sessionKey(private, key, []byte("secret")); !errors.Is(err, ErrLowOrder) {
			t.Errorf("sessionKey(%x) = %x, %v, want %v", key, got, err, ErrLowOrder)
		}
	}
	if _, err := sessionKey(private, make([]byte, 31), nil); err == nil {
		t.Error("sessionKey took a public key of 31 bytes")
	}
	if _, err := newKeyPair(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("newKeyPair made a key of 31 random bytes")
	}
}

func TestMessageNonces(t *testing.T) {
	dialler, acceptor := messageNonces{senderDialled: true}, messageNonces{}
	for _, tt := range []struct {
		nonces *messageNonces
		want   string
	}{
		{&dialler, "c00000000000000000000000000000000000000000000000"},
		{&dialler, "c00000000000000000000000000000000000000000000001"},
		{&acceptor, "400000000000000000000000000000000000000000000000"},
		{&acceptor, "400000000000000000000000000000000000000000000001"},
		{&acceptor, "400000000000000000000000000000000000000000000002"},
	} {
		if got := hex.EncodeToString(tt.nonces.next()[:]); got != tt.want {
			t.Errorf("nonce = %s, want %s", got, tt.want)
		}
	}
}
