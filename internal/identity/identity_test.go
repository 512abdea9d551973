package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestKeyText(t *testing.T) {
	id, err := New()
	if err != nil {
		t.Fatal(err)
	}
	text := id.Public().String()
	if k, err := ParseKey(text); err != nil || k != id.Public() || len(text) != 44 {
		t.Errorf("ParseKey(%q) = %v, %v, want %v", text, k, err, id.Public())
	}
	stray := []byte(text) // the last digit has two bits that no byte needs
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	stray[42] = digits[strings.IndexByte(digits, stray[42])|1]
	for _, bad := range []string{
		"", text[:43], text + "=", " " + text, text + "\n", text[:20] + "\n" + text[20:], string(stray), strings.Repeat("!", 44),
		hex.EncodeToString(make([]byte, 32)), base64.StdEncoding.EncodeToString(make([]byte, 31)), base64.StdEncoding.EncodeToString(make([]byte, 33)),
	} {
		if k, err := ParseKey(bad); !errors.Is(err, ErrKeyText) {
			t.Errorf("ParseKey(%q) = %v, %v, want %v", bad, k, err, ErrKeyText)
		}
	}
}

// lowOrder are all encodings of points of low order, those that are not canonical
// too.
var lowOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000080",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0000000000000000000000000000000000000000000000000000000000000080",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

func TestWeakKeys(t *testing.T) {
	forged := make([]byte, 64) // R is the neutral element, S is 0: fits every message under the key 01 00 …
	forged[0] = 1
	if !ed25519.Verify(append([]byte{1}, make([]byte, 31)...), []byte("anything"), forged) {
		t.Error("Ed25519 refuses the forged signature: is Weak still needed?")
	}
	for _, text := range lowOrder {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		k := Key(b)
		if !k.Weak() || k.Verify([]byte("anything"), forged) {
			t.Errorf("the key %s of low order is taken", text)
		}
		if _, err := ParseKey(k.String()); !errors.Is(err, ErrWeakKey) {
			t.Errorf("ParseKey(%v) = %v, want %v", k, err, ErrWeakKey)
		}
	}
	for range 20 {
		id, err := New()
		if err != nil {
			t.Fatal(err)
		}
		k := id.Public()
		if k.Weak() || !k.Verify([]byte("m"), id.Sign([]byte("m"))) {
			t.Errorf("the good key %v is refused", k)
		}
		if k.Verify([]byte("n"), id.Sign([]byte("m"))) || k.Verify([]byte("m"), nil) {
			t.Error("a signature of something else is taken")
		}
	}
}

func TestOpenMakesAndKeeps(t *testing.T) {
	dir := t.TempDir()
	id, made, err := Open(dir)
	if err != nil || !made {
		t.Fatalf("Open = %v, %v, want a new identity", made, err)
	}
	again, made, err := Open(dir)
	if err != nil || made || again.Public() != id.Public() {
		t.Errorf("Open again = %v, %v, %v, want the same", again, made, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("the directory has %v, %v, want the identity only", files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestOpenAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	keys := make(chan Key, 16)
	for range cap(keys) {
		wg.Go(func() {
			id, _, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			keys <- id.Public()
		})
	}
	wg.Wait()
	close(keys)
	want := <-keys
	for k := range keys {
		if k != want {
			t.Fatal("two identities were made")
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	id, err := New()
	if err != nil {
		t.Fatal(err)
	}
	good, err := id.encode()
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
		mode os.FileMode
		want string
	}{
		{"empty", nil, 0o600, "torn"},
		{"torn", good[:len(good)/2], 0o600, "torn"},
		{"two keys", append(good[:len(good):len(good)], good...), 0o600, "torn"},
		{"another file", []byte("PrivateKey = abc\n"), 0o600, "not a private key"},
		{"broken inside", pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte{1, 2}}), 0o600, "torn"},
		{"another kind", pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), 0o600, "another kind"},
		{"huge", make([]byte, maxFile+1), 0o600, "too many"},
		{"readable by others", good, 0o640, "chmod 600"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, fileName)
			if err := errors.Join(os.WriteFile(path, tt.data, 0o600), os.Chmod(path, tt.mode)); err != nil {
				t.Fatal(err)
			}
			_, _, err := Open(dir)
			if _, ok := errors.AsType[*FileError](err); !ok || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: %v, want a *FileError with %q and the path", err, tt.want)
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != string(tt.data) {
				t.Error("the file was changed")
			}
		})
	}
	if _, _, err := Open(filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("Open in no directory: %v, want a word on state_dir", err)
	}
}

// TestCertificate has two hosts talk TLS with their certificates.
func TestCertificate(t *testing.T) {
	id, err := New()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if k, ok := cert.Leaf.PublicKey.(ed25519.PublicKey); !ok || Key(k) != id.Public() {
		t.Errorf("the certificate's key is %v, want %v", cert.Leaf.PublicKey, id.Public())
	}
	a, b := net.Pipe()
	server := tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})
	client := tls.Client(b, &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true})
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(context.Background()) }()
	if err := errors.Join(client.HandshakeContext(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	if got := server.ConnectionState().PeerCertificates[0]; !got.Equal(cert.Leaf) {
		t.Error("the server saw another certificate")
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(strings.Repeat("A", 43) + "=")
	f.Add("y6mHxZ0yZ4dYp1m2tW8m0mH0w1yJmXg2sG6c8m4kS0A=")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseKey(text); err == nil && k.String() != text {
			t.Fatalf("ParseKey(%q).String() = %q", text, k)
		}
	})
}

// A secret is the key's and the label's.
func TestSecret(t *testing.T) {
	secret := func(id *Identity, label string) [32]byte {
		s, err := id.Secret(label)
		if err != nil {
			t.Fatal(err)
		}
		return *s
	}
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	b, err := New()
	if err != nil {
		t.Fatal(err)
	}
	one := secret(a, "one")
	if one != secret(a, "one") || one == secret(a, "two") || one == secret(b, "one") || one == [32]byte{} {
		t.Error("the secret does not depend on key and label alone")
	}
}
