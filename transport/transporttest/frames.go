package transporttest

import (
	"encoding/binary"

	"meshd/internal/frame"
)

// Frame makes an Ethernet frame of size bytes, of an EtherType of its own, that
// says its number.
func Frame(number uint64, size int) []byte {
	b := make([]byte, max(size, frame.HeaderLen))
	copy(b, "\x02mesh\x01\x02mesh\x02\x88\xb5")
	if len(b) >= frame.HeaderLen+8 {
		binary.BigEndian.PutUint64(b[frame.HeaderLen:], number)
	}
	for i := frame.HeaderLen + 8; i < len(b); i++ {
		b[i] = byte(i + int(number))
	}
	return b
}

// IPv4Frame makes a frame with an IPv4 packet of size bytes, at least 28.
func IPv4Frame(number uint64, size int, df bool) []byte {
	b := Frame(number, frame.HeaderLen+size)
	binary.BigEndian.PutUint16(b[12:], frame.EtherTypeIPv4)
	ip := b[frame.HeaderLen:]
	copy(ip, []byte{
		0x45, 0, byte(size >> 8), byte(size), byte(number >> 8), byte(number), 0, 0,
		64, 253, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2,
	})
	if df {
		ip[6] = 0x40
	}
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint64(ip[20:], number)
	return b
}

// IPv6Frame makes a frame with an IPv6 packet of size bytes, at least 48.
func IPv6Frame(number uint64, size int) []byte {
	b := Frame(number, frame.HeaderLen+size)
	binary.BigEndian.PutUint16(b[12:], frame.EtherTypeIPv6)
	ip := b[frame.HeaderLen:]
	clear(ip[:40])
	ip[0], ip[6], ip[7] = 0x60, 59, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(size-40))
	ip[8], ip[23], ip[24], ip[39] = 0xfd, 1, 0xfd, 2
	binary.BigEndian.PutUint64(ip[40:], number)
	return b
}
