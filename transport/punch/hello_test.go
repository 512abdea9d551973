package punch

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"meshd/internal/encap"
)

func TestParseHello(t *testing.T) {
	good := []byte{1, 1, 2, 3, 4, 0x1a, 0x81, 0, 3}
	for _, tt := range []struct {
		name string
		b    []byte
		want hello
		err  error
	}{
		{"good", good, hello{0x01020304, 6785, canAES | 2}, nil},
		{"with what comes later", append(bytes.Clone(good), 9, 9, 9), hello{0x01020304, 6785, canAES | 2}, nil},
		{"unknown abilities", []byte{1, 1, 2, 3, 4, 0x1a, 0x81, 0x80, 1}, hello{0x01020304, 6785, canAES | 0x8000}, nil},
		{"empty", nil, hello{}, errHello},
		{"cut short", good[:8], hello{}, errHello},
		{"no port", []byte{1, 1, 2, 3, 4, 0, 0, 0, 3}, hello{}, errHello},
		{"too long", append(bytes.Clone(good), make([]byte, maxHello)...), hello{}, errHello},
		{"another version", []byte{2}, hello{}, errHelloVersion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseHello(tt.b)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("parseHello(%x) = %+v, %v; want %+v, %v", tt.b, got, err, tt.want, tt.err)
			}
		})
	}
}

func FuzzParseHello(f *testing.F) {
	f.Add(hello{7, 6785, canAES}.append(nil))
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		if again := h.append(nil); !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%x was read as %+v", b, h)
		}
	})
}

// The secrets that another implementation derived.
func TestPathSecrets(t *testing.T) {
	var secret [32]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	dialler := []byte{1, 1, 2, 3, 4, 0x12, 0x34, 0, 3}
	acceptor := []byte{1, 0xa1, 0xa2, 0xa3, 0xa4, 0x1a, 0x81, 0, 1, 0xff, 0xee}
	d, a, err := pathSecrets(&secret, dialler, acceptor)
	if err != nil {
		t.Fatal(err)
	}
	const wantD = "6a1e17eb50516b4e6e5937d207af817a9615727567dd63bef6f789c979d3ddf7"
	const wantA = "57a80b0da7f321834cb74f4cfc96a94630fd07172a3341ec524085b1410bc470"
	if got := hex.EncodeToString(d[:]); got != wantD {
		t.Errorf("the dialler's secret is %s, want %s", got, wantD)
	}
	if got := hex.EncodeToString(a[:]); got != wantA {
		t.Errorf("the acceptor's secret is %s, want %s", got, wantA)
	}
	for i := range dialler {
		changed := bytes.Clone(dialler)
		changed[i] ^= 1
		if x, y, _ := pathSecrets(&secret, changed, acceptor); *x == *d || *y == *a {
			t.Errorf("byte %d of a hello does not matter", i)
		}
	}
	if x, _, _ := pathSecrets(&secret, acceptor, dialler); *x == *d || *x == *a {
		t.Error("it does not matter who dialled")
	}
}

func TestSuiteNeedsBoth(t *testing.T) {
	for _, tt := range []struct {
		a, b bool // no AES
		want encap.NativeSuite
	}{{true, true, encap.NativeChaCha}, {true, false, encap.NativeChaCha}, {false, true, encap.NativeChaCha}} {
		a, b := newEnds(t, Config{NoAES: tt.a}, Config{NoAES: tt.b})
		if got := (a.tr.can & b.tr.can).suite(); got != tt.want {
			t.Errorf("no AES %v and %v: %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
	if got := canAES.suite(); got != encap.NativeAES {
		t.Errorf("both have AES hardware: %v", got)
	}
}
