package frame

import (
	"testing"
)

func TestAddresses(t *testing.T) {
	b := ethernet(EtherTypeARP, nil)
	if Dst(b) != macB || Src(b) != macA {
		t.Errorf("Dst, Src = %v, %v; want %v, %v", Dst(b), Src(b), macB, macA)
	}
}

func TestEtherType(t *testing.T) {
	inner := []byte("payload")
	tests := []struct {
		name  string
		frame []byte
		typ   uint16
		l3    int
	}{
		{"untagged", ethernet(EtherTypeARP, inner), EtherTypeARP, 14},
		{"no payload", ethernet(EtherTypeARP, nil), EtherTypeARP, 14},
		{"802.1Q", ethernet(EtherTypeIPv6, inner, tag(EtherTypeVLAN, 7)), EtherTypeIPv6, 18},
		{"802.1ad", ethernet(EtherTypeIPv4, inner, tag(EtherTypeQinQ, 5), tag(EtherTypeVLAN, 7)), EtherTypeIPv4, 22},
		{"three tags", ethernet(EtherTypeIPv4, inner, tag(EtherTypeQinQ, 5), tag(EtherTypeVLAN, 7), tag(EtherTypeVLAN, 8)), EtherTypeVLAN, 22},
		{"802.3 length", ethernet(7, inner), 7, 14},
		{"empty", nil, 0, 0},
		{"short", make([]byte, 13), 0, 13},
		{"cut tag", ethernet(EtherTypeVLAN, []byte{0, 7, 8}), 0, 17},
		{"cut second tag", ethernet(EtherTypeVLAN, []byte{0, 7, 8}, tag(EtherTypeQinQ, 5)), 0, 21},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if typ, l3 := EtherType(tt.frame); typ != tt.typ || l3 != tt.l3 {
				t.Errorf("EtherType = %#x, %d; want %#x, %d", typ, l3, tt.typ, tt.l3)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	vlan := tag(EtherTypeVLAN, 7)
	plain, df := ipv4(0, nil, count(30)), ipv4(ipv4DF, nil, count(30))
	v6 := ipv6(17, count(30))
	eth4 := func(p []byte) []byte { return ethernet(EtherTypeIPv4, p) }
	eth6 := func(p []byte) []byte { return ethernet(EtherTypeIPv6, p) }
	tests := []struct {
		name  string
		frame []byte
		want  Class
	}{
		{"IPv4", eth4(plain), Class{IPv4, false, 14, 50}},
		{"IPv4 with DF", eth4(df), Class{IPv4DF, false, 14, 50}},
		{"DF and more fragments", eth4(ipv4(ipv4DF|ipv4MF, nil, nil)), Class{IPv4DF, false, 14, 20}},
		{"options", eth4(ipv4(ipv4DF, count(40), nil)), Class{IPv4DF, false, 14, 60}},
		{"padded", append(eth4(df), 0, 0, 0), Class{IPv4DF, false, 14, 50}},
		{"tagged", ethernet(EtherTypeIPv4, df, vlan), Class{IPv4DF, true, 18, 50}},
		{"IPv6", eth6(v6), Class{IPv6, false, 14, 70}},
		{"tagged IPv6", ethernet(EtherTypeIPv6, v6, vlan, vlan), Class{IPv6, true, 22, 70}},
		{"ARP", ethernet(EtherTypeARP, count(28)), Class{Other, false, 14, 28}},
		{"one byte missing", eth4(df[:49]), Class{Other, false, 14, 49}},
		{"header cut", eth4(df[:19]), Class{Other, false, 14, 19}},
		{"version 6 in IPv4", eth4(with(df, 0, 0x65)), Class{Other, false, 14, 50}},
		{"header of 16 bytes", eth4(with(df, 0, 0x44)), Class{Other, false, 14, 50}},
		{"header longer than packet", eth4(with(df, 0, 0x4f)), Class{Other, false, 14, 50}},
		{"length below header", eth4(with(df, 2, 0, 19)), Class{Other, false, 14, 50}},
		{"length 65535", eth4(with(df, 2, 0xff, 0xff)), Class{Other, false, 14, 50}},
		{"IPv6 one byte missing", eth6(v6[:69]), Class{Other, false, 14, 69}},
		{"IPv6 header cut", eth6(v6[:39]), Class{Other, false, 14, 39}},
		{"version 4 in IPv6", eth6(with(v6, 0, 0x45)), Class{Other, false, 14, 70}},
		{"special frame", make([]byte, 22), Class{Other, false, 14, 8}},
		{"too short", make([]byte, 5), Class{Other, false, 5, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Classify(tt.frame)
			tt.want.Tagged = tt.want.L3 > HeaderLen
			if got != tt.want {
				t.Errorf("Classify = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestKindString(t *testing.T) {
	for k, want := range map[Kind]string{Other: "other", IPv4: "ipv4", IPv4DF: "ipv4-df", IPv6: "ipv6", 9: "unknown"} {
		if got := k.String(); got != want {
			t.Errorf("Kind(%d) = %q, want %q", k, got, want)
		}
	}
}

// FuzzClassify: what a class says lies within the frame.
func FuzzClassify(f *testing.F) {
	for _, b := range captured(f) {
		f.Add(b)
	}
	f.Add(ethernet(EtherTypeIPv6, ipv6(17, nil), tag(EtherTypeQinQ, 5)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Classify(b)
		if c.L3 < 0 || c.Len < 0 || c.L3+c.Len > len(b) {
			t.Fatalf("Classify(%x) = %+v", b, c)
		}
		if c.Kind == Other && c.L3+c.Len != len(b) {
			t.Fatalf("Classify(%x) = %+v", b, c)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	f := ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(1400)))
	b.ReportAllocs()
	for b.Loop() {
		if Classify(f).Kind != IPv4DF {
			b.Fatal("wrong kind")
		}
	}
}
