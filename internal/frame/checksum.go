package frame

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds the 16-bit big-endian words of b to sum in one's complement
// arithmetic (RFC 1071). An odd last byte counts as the high half of a word, so
// only the last piece of a chain may have an odd length.
func Sum(sum uint16, b []byte) uint16 {
	// One's complement addition works in any byte order and width as long as
	// every carry comes back in at the bottom (RFC 1071, section 2), so the words
	// are added eight bytes at a time as they lie in memory.
	acc, carry := uint64(bits.ReverseBytes16(sum)), uint64(0)
	for len(b) >= 128 {
		acc = sum128(acc, (*[128]byte)(b))
		b = b[128:]
	}
	for len(b) >= 32 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, 0, carry)
		acc += carry
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	acc, carry = bits.Add64(acc, sumTail(b), 0)
	acc += carry
	return bits.ReverseBytes16(fold(acc))
}

// sum128 is the step of Sum for 128 bytes: one chain of additions with carry, as
// long as pays.
func sum128(acc uint64, p *[128]byte) uint64 {
	var carry uint64
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[0:]), 0)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[8:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[16:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[24:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[32:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[40:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[48:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[56:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[64:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[72:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[80:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[88:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[96:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[104:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[112:]), carry)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(p[120:]), carry)
	return acc + carry
}

// sumTail sums the last bytes, fewer than 8.
func sumTail(b []byte) (sum uint64) {
	if len(b) >= 4 {
		sum = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) > 0 {
		sum += uint64(b[0])
	}
	return sum
}

// fold brings a one's complement sum from 64 bits to 16.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff // at most 33 bits
	acc = acc>>16 + acc&0xffff     // at most 18 bits
	acc = acc>>16 + acc&0xffff     // at most 17 bits
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// Checksum returns the Internet checksum of b (RFC 1071): what goes into a
// checksum field that is zero in b. Over data with a right checksum it is 0.
func Checksum(b []byte) uint16 { return ^Sum(0, b) }

// PseudoSum begins the sum of a TCP, UDP or ICMPv6 checksum with the pseudo
// header (RFC 9293, section 3.1; RFC 8200, section 8.1): addrs are source and
// destination address as they lie in the IP header, length is that of the upper
// layer in bytes.
func PseudoSum(addrs []byte, proto uint8, length int) uint16 {
	var rest [8]byte
	binary.BigEndian.PutUint32(rest[:], uint32(length))
	rest[7] = proto
	return Sum(Sum(0, addrs), rest[:])
}

// add adds two words in one's complement arithmetic.
func add(a, b uint16) uint16 {
	sum := uint32(a) + uint32(b)
	return uint16(sum) + uint16(sum>>16)
}
