package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"testing"
)

// TestFragNeeded writes out the frame of weave protocol, section 6.8.
func TestFragNeeded(t *testing.T) {
	orig := ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(1420)))
	got, ok := AppendFragNeeded([]byte("before"), orig, 1438)
	want, err := hex.DecodeString("" +
		"02000000000a" + "02000000000b" + "0800" + // swapped
		"4528" + "0038" + "0000" + "0000" + "40" + "01" + "665b" + "0a200002" + "0a200001" +
		"03" + "04" + "eb4d" + "0000" + "059e" + // MTU 1438
		"452805a01234400011113daf0a2000010a200002" + "0001020304050607")
	if err != nil {
		t.Fatal(err)
	}
	if !ok || !bytes.Equal(got, append([]byte("before"), want...)) {
		t.Errorf("AppendFragNeeded = %x, %v; want %x", got[6:], ok, want)
	}
}

// checkFragNeeded checks every field of an answer to orig, and its sums.
func checkFragNeeded(t *testing.T, got, orig []byte, mtu int) {
	t.Helper()
	c, o := Classify(got), Classify(orig)
	p, q := got[c.L3:], orig[o.L3:o.L3+o.Len]
	if c.Kind != IPv4 || c.L3 != o.L3 || c.Len != len(p) {
		t.Fatalf("answer %x is %+v", got, c)
	}
	if Dst(got) != Src(orig) || Src(got) != Dst(orig) || !bytes.Equal(got[12:c.L3], orig[12:c.L3]) {
		t.Errorf("Ethernet header %x answers %x", got[:c.L3], orig[:c.L3])
	}
	if !bytes.Equal(p[ipv4Src:ipv4Src+4], q[ipv4Dst:ipv4Dst+4]) || !bytes.Equal(p[ipv4Dst:ipv4Dst+4], q[ipv4Src:ipv4Src+4]) {
		t.Errorf("addresses %x answer %x", p[ipv4Src:20], q[ipv4Src:20])
	}
	if p[0] != 0x45 || p[ipv4TOS] != q[ipv4TOS] || p[ipv4TTL] != 64 || p[ipv4Proto] != protoICMP ||
		!bytes.Equal(p[ipv4ID:ipv4TTL], make([]byte, 4)) {
		t.Errorf("IPv4 header %x", p[:20])
	}
	if Checksum(p[:20]) != 0 || Checksum(p[20:]) != 0 {
		t.Errorf("a checksum of %x is wrong", p)
	}
	if got := int(binary.BigEndian.Uint16(p[26:])); p[20] != 3 || p[21] != 4 || got != mtu {
		t.Errorf("type %d code %d MTU %d, want 3, 4, %d", p[20], p[21], got, mtu)
	}
	quote := q[:min(int(q[0]&0xf)*4+8, len(q))]
	if !bytes.Equal(p[28:], quote) {
		t.Errorf("quotes %x, want %x", p[28:], quote)
	}
}

func TestFragNeededForms(t *testing.T) {
	vlan, service := tag(EtherTypeVLAN, 7), tag(EtherTypeQinQ, 9)
	tests := []struct {
		name string
		orig []byte
		mtu  int
		want int
	}{
		{"options", ethernet(EtherTypeIPv4, ipv4(ipv4DF, count(40), count(1400))), 1376, 1376},
		{"one tag", ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(1400)), vlan), 1376, 1372},
		{"two tags", ethernet(EtherTypeIPv4, ipv4(ipv4DF, count(4), count(1400)), service, vlan), 1376, 1368},
		{"payload of 3 bytes", ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(3))), 68, 68},
		{"padded", append(ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(3))), count(9)...), 68, 68},
		{"first fragment", ethernet(EtherTypeIPv4, ipv4(ipv4DF|ipv4MF, nil, count(1400))), 1376, 1376},
		{"MTU too large for the field", ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, nil)), 1 << 20, 65535},
		{"negative MTU", ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, nil)), -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := AppendFragNeeded(nil, tt.orig, tt.mtu)
			if !ok || len(got) > MaxFragNeededLen {
				t.Fatalf("AppendFragNeeded = %d bytes, %v", len(got), ok)
			}
			checkFragNeeded(t, got, tt.orig, tt.want)
		})
	}
}

func TestFragNeededSilence(t *testing.T) {
	p := ipv4(ipv4DF, nil, count(1400))
	icmp := func(typ byte) []byte {
		return with(with(p, ipv4Proto, protoICMP), 20, typ)
	}
	eth := func(p []byte) []byte { return ethernet(EtherTypeIPv4, p) }
	tests := []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"UDP", eth(p), true},
		{"echo request", eth(icmp(8)), true},
		{"echo reply", eth(icmp(0)), true},
		{"timestamp", eth(icmp(13)), true},
		{"destination unreachable", eth(icmp(3)), false},
		{"source quench", eth(icmp(4)), false},
		{"redirect", eth(icmp(5)), false},
		{"time exceeded", eth(icmp(11)), false},
		{"parameter problem", eth(icmp(12)), false},
		{"unknown ICMP", eth(icmp(200)), false},
		{"ICMP without a type", eth(with(ipv4(ipv4DF, nil, nil), ipv4Proto, protoICMP)), false},
		{"no DF", eth(ipv4(0, nil, count(1400))), false},
		{"second fragment", eth(ipv4(ipv4DF|1, nil, count(1400))), false},
		{"from multicast", eth(with(p, ipv4Src, 224, 0, 0, 1)), false},
		{"from broadcast", eth(with(p, ipv4Src, 255, 255, 255, 255)), false},
		{"from no address", eth(with(p, ipv4Src, 0, 0, 0, 0)), false},
		{"from loopback", eth(with(p, ipv4Src, 127, 0, 0, 1)), false},
		{"to multicast", eth(with(p, ipv4Dst, 239, 1, 2, 3)), false},
		{"to broadcast", eth(with(p, ipv4Dst, 255, 255, 255, 255)), false},
		{"to a multicast MAC", with(eth(p), 0, 1), false},
		{"to the broadcast MAC", with(eth(p), 0, 255, 255, 255, 255, 255, 255), false},
		{"from a multicast MAC", with(eth(p), 6, 1), false},
		{"claims too much", eth(p[:len(p)-1]), false},
		{"ARP", ethernet(EtherTypeARP, p), false},
		{"IPv6", ethernet(EtherTypeIPv6, ipv6(17, count(1400))), false},
		{"empty", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := AppendFragNeeded([]byte("dst"), tt.frame, 1376)
			if ok != tt.want || !ok && string(got) != "dst" {
				t.Errorf("AppendFragNeeded = %x, %v; want %v", got, ok, tt.want)
			}
		})
	}
}

// checkPacketTooBig checks every field of an answer to orig, and its sum.
func checkPacketTooBig(t *testing.T, got, orig []byte, mtu int) {
	t.Helper()
	c, o := Classify(got), Classify(orig)
	p, q := got[c.L3:], orig[o.L3:o.L3+o.Len]
	if c.Kind != IPv6 || c.L3 != o.L3 || c.Len != len(p) || c.Len > MinMTUIPv6 {
		t.Fatalf("answer %x is %+v", got, c)
	}
	if Dst(got) != Src(orig) || Src(got) != Dst(orig) || !bytes.Equal(got[12:c.L3], orig[12:c.L3]) {
		t.Errorf("Ethernet header %x answers %x", got[:c.L3], orig[:c.L3])
	}
	if !bytes.Equal(p[8:24], q[24:40]) || !bytes.Equal(p[24:40], q[8:24]) {
		t.Errorf("addresses %x answer %x", p[8:40], q[8:40])
	}
	if p[0] != q[0] || p[1] != q[1]&0xf0 || p[2] != 0 || p[3] != 0 || p[6] != 58 || p[7] != 64 {
		t.Errorf("IPv6 header %x answers %x", p[:8], q[:8])
	}
	sum := plainSum(0, p[8:])
	sum = plainSum(sum, []byte{0, 58})
	sum = plainSum(sum, binary.BigEndian.AppendUint32(nil, uint32(len(p)-40)))
	if sum != 0xffff {
		t.Errorf("the checksum of %x is wrong", p)
	}
	if got := binary.BigEndian.Uint32(p[44:]); p[40] != 2 || p[41] != 0 || int(got) != mtu {
		t.Errorf("type %d code %d MTU %d, want 2, 0, %d", p[40], p[41], got, mtu)
	}
	if want := q[:min(MinMTUIPv6-48, len(q))]; !bytes.Equal(p[48:], want) {
		t.Errorf("quotes %x, want %x", p[48:], want)
	}
}

func TestPacketTooBigForms(t *testing.T) {
	vlan := tag(EtherTypeVLAN, 7)
	tests := []struct {
		name string
		orig []byte
		mtu  int
		want int
	}{
		{"large", ethernet(EtherTypeIPv6, ipv6(17, count(1400))), 1376, 1376},
		{"odd", ethernet(EtherTypeIPv6, ipv6(17, count(1001))), 1376, 1376},
		{"tagged", ethernet(EtherTypeIPv6, ipv6(17, count(1400)), vlan, vlan), 1376, 1368},
		{"below the minimum", ethernet(EtherTypeIPv6, ipv6(17, count(1400))), 552, 1280},
		{"tagged, just above it", ethernet(EtherTypeIPv6, ipv6(17, count(1400)), vlan), 1282, 1280},
		{"no payload", ethernet(EtherTypeIPv6, ipv6(59, nil)), 1376, 1376},
		{"65575 bytes", ethernet(EtherTypeIPv6, ipv6(17, count(65535))), 8952, 8952},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := AppendPacketTooBig(nil, tt.orig, tt.mtu)
			if !ok || len(got) > MaxPacketTooBigLen {
				t.Fatalf("AppendPacketTooBig = %d bytes, %v", len(got), ok)
			}
			checkPacketTooBig(t, got, tt.orig, tt.want)
		})
	}
}

func TestPacketTooBigSilence(t *testing.T) {
	body := count(1400)
	icmp := func(typ byte) []byte { return with(body, 0, typ) }
	eth := func(next uint8, payload []byte) []byte { return ethernet(EtherTypeIPv6, ipv6(next, payload)) }
	// An extension header of 16 bytes, then what next says.
	ext := func(next byte, payload []byte) []byte { return append([]byte{next, 1, 15: 0}, payload...) }
	auth := func(next byte, payload []byte) []byte { return append([]byte{next, 4, 23: 0}, payload...) }
	frag := func(next byte, offset uint16, payload []byte) []byte {
		h := binary.BigEndian.AppendUint16([]byte{next, 0}, offset<<3)
		return append(append(h, 1, 2, 3, 4), payload...)
	}
	udp := eth(17, body)
	tests := []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"UDP", udp, true},
		{"echo request", eth(58, icmp(128)), true},
		{"neighbour solicitation", eth(58, icmp(135)), true},
		{"destination unreachable", eth(58, icmp(1)), false},
		{"packet too big", eth(58, icmp(2)), false},
		{"unknown error", eth(58, icmp(127)), false},
		{"redirect", eth(58, icmp(137)), false},
		{"ICMPv6 without a type", eth(58, nil), false},
		{"echo behind options", eth(0, ext(60, ext(58, icmp(128)))), true},
		{"error behind options", eth(0, ext(60, ext(58, icmp(1)))), false},
		{"error behind routing", eth(43, ext(58, icmp(3))), false},
		{"error behind authentication", eth(51, auth(58, icmp(3))), false},
		{"echo behind authentication", eth(51, auth(58, icmp(129))), true},
		{"error in a first fragment", eth(44, frag(58, 0, icmp(1))), false},
		{"later fragment", eth(44, frag(58, 100, icmp(1))), true},
		{"extension cut", eth(0, []byte{58, 0, 0, 0, 0, 0, 0}), false},
		{"extension longer than the packet", eth(0, []byte{58, 255, 0, 0, 0, 0, 0, 0}), false},
		{"endless extensions", eth(60, bytes.Repeat([]byte{60, 0, 0, 0, 0, 0, 0, 0}, 100)), false},
		{"from multicast", with(udp, 14+8, 0xff, 0x02), false},
		{"from no address", with(udp, 14+8, make([]byte, 16)...), false},
		{"from loopback", with(udp, 14+8, append(make([]byte, 15), 1)...), false},
		{"to multicast", with(udp, 14+24, 0xff, 0x02), false},
		{"to a multicast MAC", with(udp, 0, 0x33, 0x33), false},
		{"from a multicast MAC", with(udp, 6, 0x33, 0x33), false},
		{"claims too much", udp[:len(udp)-1], false},
		{"IPv4", ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, body)), false},
		{"empty", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := AppendPacketTooBig([]byte("dst"), tt.frame, 1376)
			if ok != tt.want || !ok && string(got) != "dst" {
				t.Errorf("AppendPacketTooBig = %d bytes, %v; want %v", len(got), ok, tt.want)
			}
		})
	}
}

func TestICMPAllocations(t *testing.T) {
	v4 := ethernet(EtherTypeIPv4, ipv4(ipv4DF, nil, count(1400)))
	v6 := ethernet(EtherTypeIPv6, ipv6(17, count(1400)))
	scratch := make([]byte, 0, MaxPacketTooBigLen)
	if got := testing.AllocsPerRun(100, func() {
		if _, ok := AppendFragNeeded(scratch, v4, 1376); !ok {
			t.Fatal("no answer")
		}
		if _, ok := AppendPacketTooBig(scratch, v6, 1376); !ok {
			t.Fatal("no answer")
		}
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// FuzzICMP: an answer to anything is right, and is never answered itself.
func FuzzICMP(f *testing.F) {
	for _, b := range captured(f) {
		f.Add(b, 1376)
	}
	f.Add(ethernet(EtherTypeIPv6, ipv6(17, count(1400)), tag(EtherTypeQinQ, 5)), 1376)
	f.Add(ethernet(EtherTypeIPv4, ipv4(ipv4DF, count(40), nil)), 70000)
	f.Fuzz(func(t *testing.T, b []byte, mtu int) {
		tags := 0
		if c := Classify(b); c.Tagged {
			tags = c.L3 - HeaderLen
		}
		mtu = min(max(mtu, 0), 1<<20)
		if got, ok := AppendFragNeeded(nil, b, mtu); ok {
			checkFragNeeded(t, got, b, min(max(mtu-tags, 0), 65535))
			if _, again := AppendFragNeeded(nil, with(got, Classify(got).L3+ipv4Frag, 0x40), mtu); again {
				t.Fatalf("the answer %x is answered", got)
			}
		}
		if got, ok := AppendPacketTooBig(nil, b, mtu); ok {
			checkPacketTooBig(t, got, b, max(mtu-tags, 1280))
			if _, again := AppendPacketTooBig(nil, got, mtu); again {
				t.Fatalf("the answer %x is answered", got)
			}
		}
	})
}
