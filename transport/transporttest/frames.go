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

// Numbers of protocols, and where their checksums lie.
const (
	protoTCP, tcpHeader, tcpChecksum = 6, 32, 16
	protoUDP, udpHeader, udpChecksum = 17, 8, 6
)

// TCP makes a frame with a TCP segment of payload bytes and a timestamp option,
// whose checksum is unfinished as in what a container sends: NeedsCsum. mss > 0
// makes it a super-frame of segments with that much payload.
func TCP(number uint64, payload, mss int, v6 bool) frame.Frame {
	t := make([]byte, tcpHeader+payload)
	copy(t, "\x9c\x40\x14\x51")
	binary.BigEndian.PutUint32(t[4:], uint32(number)*1_000_003)
	copy(t[12:], []byte{tcpHeader << 2, 0x18, 0x10, 0}) // ACK, PSH
	copy(t[20:], []byte{1, 1, 8, 10})
	fill(t[tcpHeader:], number)
	f := inIP(number, protoTCP, t, tcpChecksum, v6)
	if mss > 0 {
		f.Offload.GSOType, f.Offload.GSOSize = frame.GSOTCPv4, uint16(mss)
		if v6 {
			f.Offload.GSOType = frame.GSOTCPv6
		}
		f.Offload.HdrLen = uint16(len(f.Data) - payload)
	}
	return f
}

// UDP makes a frame with a UDP datagram of payload bytes, whose checksum is
// unfinished. size > 0 makes it a super-frame of datagrams with that much.
func UDP(number uint64, payload, size int, v6 bool) frame.Frame {
	t := make([]byte, udpHeader+payload)
	copy(t, "\x9c\x40\x14\x51")
	binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	fill(t[udpHeader:], number)
	f := inIP(number, protoUDP, t, udpChecksum, v6)
	if size > 0 {
		f.Offload.GSOType, f.Offload.GSOSize = frame.GSOUDP, uint16(size)
		f.Offload.HdrLen = uint16(len(f.Data) - payload)
	}
	return f
}

// SYN makes a frame that opens a TCP connection and announces a maximum segment
// size in bytes. Its checksum is complete.
func SYN(mss uint16, v6 bool) []byte {
	t := make([]byte, 24)
	copy(t, "\x9c\x40\x14\x51\x00\x00\x10\x01")
	copy(t[12:], []byte{24 << 2, 2, 0x10, 0})
	copy(t[20:], []byte{2, 4, byte(mss >> 8), byte(mss)})
	return Segments(inIP(1, protoTCP, t, tcpChecksum, v6))[0]
}

// Segments cuts a super-frame; of an ordinary frame it completes the checksum.
// It returns nil where the offload does not fit the frame.
func Segments(f frame.Frame) (all [][]byte) {
	var c frame.Cutter
	if c.Begin(f) != nil {
		return nil
	}
	for {
		b, ok := c.Next(nil)
		if !ok {
			return all
		}
		all = append(all, b)
	}
}

// fill writes bytes that depend on a number and are not alike in neighbouring
// segments.
func fill(b []byte, number uint64) {
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) + byte(number)
	}
}

// inIP puts TCP or UDP with a checksum at sum into an IP packet with DF, and
// leaves the checksum to be finished.
func inIP(number uint64, proto byte, t []byte, sum int, v6 bool) frame.Frame {
	var b []byte
	var addrs []byte
	start := frame.HeaderLen + 20
	if v6 {
		start = frame.HeaderLen + 40
		b = IPv6Frame(number, max(40+len(t), 48))[:start+len(t)]
		b[frame.HeaderLen+6] = proto
		addrs = b[frame.HeaderLen+8 : start]
	} else {
		b = IPv4Frame(number, max(20+len(t), 28), true)[:start+len(t)]
		ip := b[frame.HeaderLen:start]
		ip[9] = proto
		clear(ip[10:12])
		binary.BigEndian.PutUint16(ip[10:], frame.Checksum(ip))
		addrs = ip[12:]
	}
	copy(b[start:], t)
	binary.BigEndian.PutUint16(b[start+sum:], frame.PseudoSum(addrs, proto, len(t)))
	return frame.Frame{Data: b, Offload: frame.Offload{
		Flags: frame.NeedsCsum, CsumStart: uint16(start), CsumOffset: uint16(sum),
	}}
}
