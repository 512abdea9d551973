package frame

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// plainSum is RFC 1071 word by word.
func plainSum(sum uint16, b []byte) uint16 {
	acc := uint32(sum)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		acc += word
		acc = acc>>16 + acc&0xffff
	}
	return uint16(acc)
}

func TestSumExample(t *testing.T) {
	// RFC 1071, section 3.
	if got, want := Sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}), uint16(0xddf2); got != want {
		t.Errorf("Sum = %#x, want %#x", got, want)
	}
}

func TestSumAllLengths(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	b := make([]byte, 200)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	ones := make([]byte, 200)
	for i := range ones {
		ones[i] = 0xff // a carry at every step
	}
	for n := range 200 {
		for _, data := range [][]byte{b, ones} {
			start := uint16(rng.Uint32())
			if got, want := Sum(start, data[:n]), plainSum(start, data[:n]); got != want {
				t.Errorf("Sum(%#x, %d bytes) = %#x, want %#x", start, n, got, want)
			}
		}
	}
	if got := Sum(0, make([]byte, 100)); got != 0 {
		t.Errorf("Sum of zeros = %#x, want 0", got)
	}
}

// TestChecksumCaptured: what kernels computed is right by our reckoning.
func TestChecksumCaptured(t *testing.T) {
	checked := 0
	for _, f := range captured(t) {
		c := Classify(f)
		if c.Kind == Other {
			continue
		}
		p := f[c.L3 : c.L3+c.Len]
		hdr, total, ok := ipv4Header(p)
		if !ok || p[ipv4Proto] != protoICMP {
			t.Fatalf("unexpected packet %x", p[:20])
		}
		if got := Checksum(p[:hdr]); got != 0 {
			t.Errorf("Checksum of a header = %#x, want 0", got)
		}
		if got := Checksum(p[hdr:total]); got != 0 {
			t.Errorf("Checksum of an ICMP message = %#x, want 0", got)
		}
		checked++
	}
	if checked != 6 {
		t.Errorf("%d packets were checked", checked)
	}
}

func TestPseudoSum(t *testing.T) {
	v4 := binary.BigEndian.AppendUint16(append(append(append([]byte{}, ipA...), ipB...), 0, 17), 1000)
	if got, want := PseudoSum(append(append([]byte{}, ipA...), ipB...), 17, 1000), plainSum(0, v4); got != want {
		t.Errorf("IPv4: PseudoSum = %#x, want %#x", got, want)
	}
	v6 := binary.BigEndian.AppendUint32(append(append([]byte{}, ip6A...), ip6B...), 70000)
	v6 = append(v6, 0, 0, 0, protoICMPv6)
	if got, want := PseudoSum(append(append([]byte{}, ip6A...), ip6B...), protoICMPv6, 70000), plainSum(0, v6); got != want {
		t.Errorf("IPv6: PseudoSum = %#x, want %#x", got, want)
	}
}

func FuzzSum(f *testing.F) {
	f.Add(uint16(0), []byte{})
	f.Add(uint16(0xffff), count(77))
	f.Fuzz(func(t *testing.T, start uint16, b []byte) {
		if got, want := Sum(start, b), plainSum(start, b); got != want {
			t.Fatalf("Sum(%#x, %x) = %#x, want %#x", start, b, got, want)
		}
	})
}

func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{20, 1500, 65535} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			data, sum := count(n), uint16(0)
			b.SetBytes(int64(n))
			for b.Loop() {
				sum += Checksum(data)
			}
			_ = sum
		})
	}
}
