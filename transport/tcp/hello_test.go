package tcp

import (
	"errors"
	"testing"

	"meshd/internal/encap"
)

func TestHello(t *testing.T) {
	h := hello{index: 0x0102030405060708, mtu: 1376, can: canAES}
	b := h.append(nil)
	if got, err := parseHello(append(b, 1, 2, 3)); got != h || err != nil {
		t.Errorf("parseHello = %+v, %v; want %+v", got, err, h)
	}
	for n := range b {
		if _, err := parseHello(b[:n]); err == nil {
			t.Errorf("a hello of %d bytes was taken", n)
		}
	}
	b[0] = 2
	if _, err := parseHello(b); !errors.Is(err, errHelloVersion) {
		t.Errorf("version 2: %v, want %v", err, errHelloVersion)
	}
	if _, err := parseHello(hello{index: 1, mtu: minMTU - 1}.append(nil)); err == nil {
		t.Error("an MTU that no IPv4 link has was taken")
	}
	if _, err := parseHello(make([]byte, maxHello+1)); err == nil {
		t.Error("too long a hello was taken")
	}
}

// Both ends must have hardware for a cipher that needs it.
func TestSuite(t *testing.T) {
	for _, tt := range []struct {
		a, b abilities
		want encap.NativeSuite
	}{{canAES, canAES, encap.NativeAES}, {canAES, 0, encap.NativeChaCha}, {0, 0xffff, encap.NativeChaCha}, {0xffff, canAES, encap.NativeAES}} {
		if got := (tt.a & tt.b).suite(); got != tt.want {
			t.Errorf("abilities %x and %x: %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add(hello{index: 7, mtu: 1500}.append(nil))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		if again := h.append(nil); string(again) != string(b[:helloLen]) {
			t.Fatalf("%x reads as %+v, which is %x", b, h, again)
		}
	})
}
