package claim

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"testing"

	"meshd/internal/frame"
)

var (
	macA = frame.MAC{0x02, 0, 0, 0, 0, 0x0a}
	v4   = netip.MustParseAddr("10.32.0.7")
	v6   = netip.MustParseAddr("fd00::1:2ab:cdef")
)

func TestFramesAreAsTheRFCsDrawThem(t *testing.T) {
	for _, tt := range []struct {
		name string
		got  []byte
		want string
	}{
		{"ARP probe", probeFor(v4, macA), "ffffffffffff 02000000000a 0806" +
			"0001 0800 06 04 0001 02000000000a 00000000 000000000000 0a200007"},
		{"ARP announcement", announcementOf(v4, macA), "ffffffffffff 02000000000a 0806" +
			"0001 0800 06 04 0001 02000000000a 0a200007 000000000000 0a200007"},
		{"solicitation", probeFor(v6, macA), "3333ffabcdef 02000000000a 86dd" +
			"60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ffabcdef" +
			"87 00 de70 00000000 fd0000000000000000000001 02abcdef"},
		{"advertisement", announcementOf(v6, macA), "333300000001 02000000000a 86dd" +
			"60000000 0020 3a ff fd0000000000000000000001 02abcdef ff020000000000000000000000000001" +
			"88 00 b95c 20000000 fd0000000000000000000001 02abcdef 0201 02000000000a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want, err := hex.DecodeString(string(slices.DeleteFunc([]byte(tt.want), func(b byte) bool { return b == ' ' })))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(tt.got, want) {
				t.Errorf("got  %x\nwant %x", tt.got, want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	// change returns a frame with other bytes at an offset; the checksum is not
	// mended.
	change := func(b []byte, at int, with ...byte) []byte {
		b = slices.Clone(b)
		copy(b[at:], with)
		return b
	}
	reply := change(announcementOf(v4, macA), arpOp+1, arpReply)
	resolve := nd(macA, v6, solicitedNode(v6.Next()), solicitation, 0, v6.Next(), []byte{1, 1, 2, 0, 0, 0, 0, 10})
	for _, tt := range []struct {
		name string
		b    []byte
		want *sign // nil: says nothing
	}{
		{"ARP probe", probeFor(v4, macA), &sign{v4, macA, true}},
		{"ARP announcement", announcementOf(v4, macA), &sign{v4, macA, false}},
		{"ARP reply", reply, &sign{v4, macA, false}},
		{"ARP with padding", append(slices.Clone(reply), make([]byte, 18)...), &sign{v4, macA, false}},
		{"neighbour solicitation to find a duplicate", probeFor(v6, macA), &sign{v6, macA, true}},
		{"neighbour solicitation of a holder", resolve, &sign{v6, macA, false}},
		{"neighbour advertisement", announcementOf(v6, macA), &sign{v6, macA, false}},
		{"advertisement with a trailer", append(announcementOf(v6, macA), 1, 2, 3), &sign{v6, macA, false}},

		{"nothing", nil, nil},
		{"a header", probeFor(v4, macA)[:14], nil},
		{"ARP cut", reply[:arpEnd-1], nil},
		{"ARP from a group", change(reply, 6, 0x03), nil},
		{"ARP for other hardware", change(reply, arpAt+1, 6), nil},
		{"ARP for another protocol", change(reply, arpAt+2, 0x86, 0xdd), nil},
		{"ARP with longer addresses", change(reply, arpAt+5, 16), nil},
		{"RARP", change(reply, arpOp+1, 3), nil},
		{"ARP reply of nobody", change(reply, arpSenderIP, 0, 0, 0, 0), nil},
		{"ARP for nobody", change(probeFor(v4, macA), arpTargetIP, 0, 0, 0, 0), nil},
		{"802.1Q", slices.Concat(reply[:12], []byte{0x81, 0, 0, 5}, reply[12:]), nil},
		{"another type", change(reply, 12, 0x08, 0x00), nil},
		{"ND cut", probeFor(v6, macA)[:ndOptions-1], nil},
		{"ND longer than its frame", change(probeFor(v6, macA), ipv6Len, 0, 25), nil},
		{"ND too short", change(probeFor(v6, macA), ipv6Len, 0, 23), nil},
		{"ND that crossed a router", change(probeFor(v6, macA), ipv6Hops, 254), nil},
		{"ND with a wrong checksum", change(probeFor(v6, macA), icmpSum, 1), nil},
		{"IPv4 in its place", change(probeFor(v6, macA), ipv6At, 4<<4), nil},
		{"another protocol", change(probeFor(v6, macA), ipv6Next, 17), nil},
		{"redirect", nd(macA, v6, allNodes, 137, 0, v6, nil), nil},
		{"advertisement of a group", nd(macA, v6, allNodes, advertisement, 0, allNodes, nil), nil},
		{"advertisement of nobody", nd(macA, v6, allNodes, advertisement, 0, netip.IPv6Unspecified(), nil), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parse(tt.b)
			if ok != (tt.want != nil) || ok && got != *tt.want {
				t.Errorf("parse() = %+v, %v, want %+v", got, ok, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, a := range []netip.Addr{v4, v6} {
		f.Add(probeFor(a, macA))
		f.Add(announcementOf(a, macA))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := slices.Clone(b)
		s, ok := parse(b)
		if !bytes.Equal(b, before) {
			t.Fatal("parse changed the frame")
		}
		if !ok {
			return
		}
		if check([]netip.Addr{s.addr}) != nil && !s.addr.IsMulticast() && !s.addr.IsLoopback() && s.addr != netip.AddrFrom4([4]byte(broadcast[:4])) {
			t.Errorf("parse() = %+v, which nobody can have", s)
		}
		// What it says can be said in our words too.
		frames := map[bool][]byte{true: probeFor(s.addr, s.mac), false: announcementOf(s.addr, s.mac)}
		if again, ok := parse(frames[s.probing]); !ok || again != s {
			t.Errorf("parse(%+v said again) = %+v, %v", s, again, ok)
		}
	})
}
