package control

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"testing"
)

// pathEnds are both ends of a connection between meshd peers, as a handshake
// leaves them, with the private keys of their Ephemeral features.
func pathEnds(t *testing.T, key *[32]byte, changeDialler func(map[string]string)) (dialler, acceptor *Conn, keys [2]*ecdh.PrivateKey) {
	t.Helper()
	var maps [2]map[string]string
	for i := range keys {
		private, err := NewEphemeral(bytes.NewReader(bytes.Repeat([]byte{byte(i + 1)}, 32)).Read)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = private
		maps[i] = Features{
			Name: 0x020000000001, NickName: "n", UID: 7, ConnID: uint64(1000 + i),
			Overlays: []string{"sleeve"}, HasOverlays: true, Native: true, Abilities: []string{AbilityProbe},
			Ephemeral: (*[32]byte)(private.PublicKey().Bytes()),
		}.FeatureMap(2)
	}
	changeDialler(maps[0])
	end := func(i int) *Conn {
		remote, err := ParseFeatures(maps[1-i], 2)
		if err != nil {
			t.Fatal(err)
		}
		return &Conn{
			Version: 2, Dialled: i == 0, Key: key, Features: remote,
			LocalFeatures: maps[i], RemoteFeatures: maps[1-i],
		}
	}
	return end(0), end(1), keys
}

func unchanged(map[string]string) {}

func TestPathSecretIsEqualAtBothEnds(t *testing.T) {
	seen := map[[32]byte]string{}
	for _, tt := range []struct {
		name   string
		key    *[32]byte
		change func(map[string]string)
	}{
		{"no password", nil, unchanged},
		{"password", &[32]byte{1}, unchanged},
		{"another password", &[32]byte{2}, unchanged},
		{"another ConnID", nil, func(m map[string]string) { m["ConnID"] = "1" }},
		{"another name", nil, func(m map[string]string) { m["Name"] = "02:00:00:00:00:09" }},
		{"another nickname", nil, func(m map[string]string) { m["NickName"] = "x" }},
		{"an unknown feature", nil, func(m map[string]string) { m["Unknown"] = "x" }},
		{"an overlay less", nil, func(m map[string]string) { m["Overlays"] = "" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dialler, acceptor, keys := pathEnds(t, tt.key, tt.change)
			a, err := dialler.PathSecret(keys[0])
			if err != nil {
				t.Fatal(err)
			}
			b, err := acceptor.PathSecret(keys[1])
			if err != nil || *a != *b {
				t.Fatalf("PathSecret = %x and %x, %v, want the same", *a, b, err)
			}
			if other, dup := seen[*a]; dup {
				t.Errorf("the same secret as with %s", other)
			}
			seen[*a] = tt.name
		})
	}
}

// TestPathSecretConstruction computes the secret as the documentation says it,
// written out by hand: other implementations must come to the same.
func TestPathSecretConstruction(t *testing.T) {
	session := &[32]byte{0xaa}
	dialler, acceptor, keys := pathEnds(t, session, unchanged)
	ecdh, err := keys[0].ECDH(keys[1].PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	info := []byte("meshd path secret v1")
	info = append(info, unhex("020000000001 00000000000003e8 020000000001 00000000000003e9")...)
	for _, m := range []map[string]string{dialler.LocalFeatures, acceptor.LocalFeatures} {
		hash := HashFeatures(m)
		info = append(info, hash[:]...)
	}
	want, err := hkdf.Key(sha256.New, append(ecdh, session[:]...), nil, string(info), 32)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := acceptor.PathSecret(keys[1]); err != nil || !bytes.Equal(got[:], want) {
		t.Errorf("PathSecret = %x, %v, want %x", got, err, want)
	}
}

func TestPathSecretRefuses(t *testing.T) {
	for _, public := range lowOrderKeys {
		_, acceptor, keys := pathEnds(t, nil, func(m map[string]string) { m["Ephemeral"] = hex.EncodeToString(public) })
		if got, err := acceptor.PathSecret(keys[1]); !errors.Is(err, ErrLowOrder) {
			t.Errorf("ephemeral key %x: PathSecret = %x, %v, want %v", public, got, err, ErrLowOrder)
		}
	}
	_, acceptor, keys := pathEnds(t, nil, func(m map[string]string) { delete(m, "Ephemeral") })
	if _, err := acceptor.PathSecret(keys[1]); !errors.Is(err, ErrNoEphemeral) {
		t.Errorf("no ephemeral key: %v, want %v", err, ErrNoEphemeral)
	}
	if _, err := acceptor.PathSecret(keys[0]); err == nil {
		t.Error("PathSecret took a private key that is not the one of our feature")
	}
}

func TestHashFeatures(t *testing.T) {
	if got, want := HashFeatures(nil), sha256.Sum256(nil); got != want {
		t.Errorf("HashFeatures of nothing = %x, want %x", got, want)
	}
	got := HashFeatures(map[string]string{"b": "", "a": "xy"})
	want := sha256.Sum256(unhex("00000001 61 00000002 7879 00000001 62 00000000"))
	if got != want {
		t.Errorf("HashFeatures = %x, want %x", got, want)
	}
	// Moving bytes between keys and values changes the hash.
	base := map[string]string{"ab": "c", "d": ""}
	for _, other := range []map[string]string{{"a": "bc", "d": ""}, {"ab": "cd", "": ""}, {"ab": "c"}, {"ab": "c", "d": "", "e": ""}} {
		if !maps.Equal(base, other) && HashFeatures(base) == HashFeatures(other) {
			t.Errorf("HashFeatures(%v) = HashFeatures(%v)", base, other)
		}
	}
}
