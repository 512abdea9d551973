package frame

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// Two hosts that the tests' frames travel between.
var (
	macA = MAC{0x02, 0, 0, 0, 0, 0x0a}
	macB = MAC{0x02, 0, 0, 0, 0, 0x0b}
	ipA  = []byte{10, 32, 0, 1}
	ipB  = []byte{10, 32, 0, 2}
	ip6A = []byte{0xfd, 0, 15: 1}
	ip6B = []byte{0xfd, 0, 15: 2}
)

// tag is a VLAN tag.
func tag(tpid, vlan uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, tpid), vlan)
}

// ethernet makes a frame from macA to macB.
func ethernet(typ uint16, payload []byte, tags ...[]byte) []byte {
	b := append(append([]byte{}, macB[:]...), macA[:]...)
	b = append(b, bytes.Join(tags, nil)...)
	return append(binary.BigEndian.AppendUint16(b, typ), payload...)
}

// ipv4 makes a packet with UDP's protocol number, id 0x1234, TOS 0x28 and TTL
// 17. options must be a multiple of 4 bytes.
func ipv4(flags uint16, options, payload []byte) []byte {
	hdr := ipv4HeaderLen + len(options)
	b := []byte{0x40 | byte(hdr/4), 0x28}
	b = binary.BigEndian.AppendUint16(b, uint16(hdr+len(payload)))
	b = binary.BigEndian.AppendUint16(b, 0x1234)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 17, 17, 0, 0)
	b = append(append(append(b, ipA...), ipB...), options...)
	putIPv4Checksum(b)
	return append(b, payload...)
}

// ipv6 makes a packet with traffic class 0x28, a flow label, and next as the
// type of what follows the header.
func ipv6(next uint8, payload []byte) []byte {
	b := []byte{0x62, 0x8a, 0xbc, 0xde}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, 17)
	return append(append(append(b, ip6A...), ip6B...), payload...)
}

// with returns a copy of b in which the bytes from at on are x.
func with(b []byte, at int, x ...byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], x)
	return b
}

// count returns n bytes that differ from their neighbours.
func count(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8)
	}
	return b
}

// captured reads the frames of a capture: the bridge of a stock router's host
// while large packets were sent over it.
func captured(t testing.TB) (frames [][]byte) {
	t.Helper()
	b, err := os.ReadFile("testdata/bridge.pcap")
	if err != nil {
		t.Fatal(err)
	}
	for b = b[24:]; len(b) >= 16; {
		n := 16 + int(binary.LittleEndian.Uint32(b[8:]))
		frames = append(frames, b[16:n])
		b = b[n:]
	}
	if len(frames) != 8 {
		t.Fatalf("testdata has %d frames", len(frames))
	}
	return frames
}

// hexLines reads a file of one frame per line.
func hexLines(t testing.TB, file string) (frames [][]byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, f)
	}
	return frames
}
