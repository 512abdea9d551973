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
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(tail[:]), 0)
		acc += carry
	}
	return bits.ReverseBytes16(fold(acc))
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
