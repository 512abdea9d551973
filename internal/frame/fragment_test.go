package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// split collects what FragmentIPv4 emits.
func split(b []byte, mtu int) (frags [][]byte, err error) {
	err = FragmentIPv4(b, mtu, nil, func(f []byte) { frags = append(frags, bytes.Clone(f)) })
	return frags, err
}

// reassemble joins fragments into one frame like the first, and checks that each
// is whole, fits and follows the one before.
func reassemble(t *testing.T, frags [][]byte, mtu int) []byte {
	t.Helper()
	var whole []byte
	var l3, hdr, next int
	var first uint16
	for i, f := range frags {
		c := Classify(f)
		if c.Kind != IPv4 || c.L3+c.Len != len(f) || len(f) > mtu+HeaderLen {
			t.Fatalf("fragment %d of %d bytes at MTU %d is %+v", i, len(f), mtu, c)
		}
		h := int(f[c.L3]&0xf) * 4
		if Checksum(f[c.L3:c.L3+h]) != 0 {
			t.Fatalf("fragment %d has a wrong checksum", i)
		}
		flags := binary.BigEndian.Uint16(f[c.L3+ipv4Frag:])
		offset := int(flags&ipv4OffMask) * 8
		if i == 0 {
			l3, hdr, next, first = c.L3, h, offset, flags&ipv4OffMask
			whole = bytes.Clone(f[:l3+hdr])
		}
		if offset != next {
			t.Fatalf("fragment %d is at %d, want %d", i, offset, next)
		}
		if last := i == len(frags)-1; !last && flags&ipv4MF == 0 {
			t.Fatalf("fragment %d of %d has no MF", i, len(frags))
		} else if last {
			first |= flags &^ ipv4OffMask
		}
		whole = append(whole, f[l3+hdr:]...)
		next = offset + len(f) - l3 - hdr
	}
	p := whole[l3:]
	binary.BigEndian.PutUint16(p[ipv4Len:], uint16(len(p)))
	binary.BigEndian.PutUint16(p[ipv4Frag:], first)
	putIPv4Checksum(p[:hdr])
	return whole
}

// TestFragmentCaptured: a stock router made the same of the same packet.
func TestFragmentCaptured(t *testing.T) {
	const mtu = 1438
	want := hexLines(t, "testdata/inner-fragments.txt")
	got, err := split(reassemble(t, want, mtu), mtu)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) || len(want) != 3 {
		t.Fatalf("%d fragments, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("fragment %d = %x, want %x", i, got[i], want[i])
		}
	}
}

func TestFragmentRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		options := count(4 * rng.IntN(11))
		payload := count(rng.IntN(9000))
		flags := uint16(rng.IntN(2)) * ipv4MF
		flags |= uint16(rng.IntN(6000))
		var tags [][]byte
		for range rng.IntN(3) {
			tags = append(tags, tag(EtherTypeVLAN, 7))
		}
		b := ethernet(EtherTypeIPv4, ipv4(flags, options, payload), tags...)
		mtu := 84 + rng.IntN(2000)
		frags, err := split(append(b, count(rng.IntN(9))...), mtu)
		if err != nil {
			t.Fatalf("FragmentIPv4(%d bytes, %d) = %v", len(b), mtu, err)
		}
		if got := reassemble(t, frags, mtu); !bytes.Equal(got, b) {
			t.Fatalf("%x was split at %d and is %x", b, mtu, got)
		}
		// Splitting fragments again at a smaller MTU must lose nothing either.
		smaller := 84 + rng.IntN(max(mtu-84, 1))
		var again [][]byte
		for _, f := range frags {
			fs, err := split(f, smaller)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, fs...)
		}
		if got := reassemble(t, again, smaller); !bytes.Equal(got, b) {
			t.Fatalf("%x was split at %d and %d and is %x", b, mtu, smaller, got)
		}
	}
}

func TestFragmentFits(t *testing.T) {
	b := ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(100)))
	got, err := split(append(bytes.Clone(b), 0, 0, 0), 120)
	if err != nil || len(got) != 1 || !bytes.Equal(got[0], b) {
		t.Errorf("a packet that fits gave %x, %v", got, err)
	}
}

func TestFragmentRefuses(t *testing.T) {
	p := ipv4(0, nil, count(3000))
	tests := []struct {
		name  string
		frame []byte
		mtu   int
		want  error
	}{
		{"claims a byte more than there is", ethernet(EtherTypeIPv4, p[:len(p)-1]), 1400, ErrNotIPv4},
		{"claims 65535 bytes", ethernet(EtherTypeIPv4, with(p, 2, 0xff, 0xff)), 1400, ErrNotIPv4},
		{"header cut", ethernet(EtherTypeIPv4, p[:10]), 1400, ErrNotIPv4},
		{"ARP", ethernet(EtherTypeARP, p), 1400, ErrNotIPv4},
		{"IPv6", ethernet(EtherTypeIPv6, ipv6(17, count(3000))), 1400, ErrNotIPv4},
		{"empty", nil, 1400, ErrNotIPv4},
		{"DF", ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(3000))), 1400, ErrDontFragment},
		{"ends beyond 65535", ethernet(EtherTypeIPv4, ipv4(8000, nil, count(3000))), 1400, ErrNotIPv4},
		{"room for 7 bytes", ethernet(EtherTypeIPv4, p), 27, ErrSmallMTU},
		{"room for no tag", ethernet(EtherTypeIPv4, p, tag(EtherTypeVLAN, 7)), 28, ErrSmallMTU},
		{"MTU 0", ethernet(EtherTypeIPv4, p), 0, ErrSmallMTU},
		{"negative MTU", ethernet(EtherTypeIPv4, p), -100, ErrSmallMTU},
		{"least MTU", ethernet(EtherTypeIPv4, p), math.MinInt, ErrSmallMTU},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := split(tt.frame, tt.mtu); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("%d fragments, %v; want none, %v", len(got), err, tt.want)
			}
		})
	}
}

func TestFragmentAllocations(t *testing.T) {
	b := ethernet(EtherTypeIPv4, ipv4(0, nil, count(8000)))
	scratch, n := make([]byte, len(b)), 0
	emit := func(f []byte) { n += len(f) }
	if got := testing.AllocsPerRun(100, func() {
		if err := FragmentIPv4(b, 1376, scratch, emit); err != nil {
			t.Fatal(err)
		}
	}); got != 0 || n == 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func FuzzFragmentIPv4(f *testing.F) {
	for _, b := range append(captured(f), hexLines(f, "testdata/inner-fragments.txt")...) {
		f.Add(b, 1438)
		f.Add(b, 552)
	}
	f.Add(ethernet(EtherTypeIPv4, ipv4(8000, count(40), count(3000))), 68)
	f.Add(ethernet(EtherTypeIPv4, ipv4(0, nil, count(3000))), math.MaxInt)
	f.Fuzz(func(t *testing.T, b []byte, mtu int) {
		before := bytes.Clone(b)
		frags, err := split(b, mtu)
		if !bytes.Equal(b, before) {
			t.Fatal("the frame was changed")
		}
		if err != nil {
			if len(frags) != 0 {
				t.Fatalf("%d fragments with %v", len(frags), err)
			}
			return
		}
		c := Classify(b)
		if len(frags) == 1 {
			if !bytes.Equal(frags[0], b[:c.L3+c.Len]) {
				t.Fatalf("%x became %x", b, frags[0])
			}
			return
		}
		got := reassemble(t, frags, min(mtu, 1<<16))
		hdr := int(b[c.L3]&0xf) * 4
		if !bytes.Equal(got[c.L3+hdr:], b[c.L3+hdr:c.L3+c.Len]) {
			t.Fatalf("%x at %d has another payload: %x", b, mtu, got)
		}
	})
}

func BenchmarkFragmentIPv4(b *testing.B) {
	for _, n := range []int{1480, 8000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := ethernet(EtherTypeIPv4, ipv4(0, nil, count(n)))
			scratch, emitted := make([]byte, len(f)), 0
			emit := func(f []byte) { emitted += len(f) }
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if err := FragmentIPv4(f, 1376, scratch, emit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
