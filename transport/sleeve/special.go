package sleeve

import (
	"encoding/binary"

	"meshd/internal/frame"
)

// Special frames are messages between the two ends of a path. Their first 14
// bytes are all zero; stock routers tell them apart by their length (weave
// protocol, section 6.5).
//
//	heartbeat, 22 bytes        0            14                22
//	                           +------------+-----------------+
//	                           | zero       | connection UID  |
//	                           +------------+-----------------+
//	fragmentation test         60001 zero bytes
//	MTU test                   zero bytes, 14 more than the inner IP packet
//
// Between meshd peers there are also probes. Their length is that of an MTU test,
// their content never is, and they are never sent to others:
//
//	0            14     18     19      20               28       32       36
//	+------------+------+------+-------+----------------+--------+--------+
//	| zero       |"mesh"| kind | zero  | connection UID |sequence| heard  |
//	+------------+------+------+-------+----------------+--------+--------+
//
// kind is 1 for a probe, 2 for the reply to it, which has the probe's sequence
// number. heard is how many milliseconds ago the sender last had a valid datagram
// of the receiver, all ones: never. All numbers are big-endian.
const (
	heartbeatLen = frame.HeaderLen + 8
	fragTestLen  = 60001
	probeLen     = frame.HeaderLen + 22

	uidAt      = frame.HeaderLen
	magicAt    = frame.HeaderLen
	kindAt     = magicAt + 4
	probeUIDAt = kindAt + 2
	sequenceAt = probeUIDAt + 8
	heardAt    = sequenceAt + 4

	probeMagic = 0x6d657368
)

// special is what a special frame is.
type special uint8

const (
	notSpecial special = iota
	specialHeartbeat
	specialFragTest
	specialMTUTest
	specialProbe
	specialReply
)

// zeros is the content of tests.
var zeros [1 << 16]byte

// isFragTest reports whether an MTU test of that size would be taken for a
// fragmentation test.
func isFragTest(size int) bool { return frame.HeaderLen+size == fragTestLen }

// classify tells what kind of special frame b is. b has at least 14 bytes.
// Probes are looked for only where the neighbour may send them.
func classify(b []byte, native bool) special {
	if [frame.HeaderLen]byte(b) != [frame.HeaderLen]byte{} {
		return notSpecial
	}
	switch {
	case len(b) == heartbeatLen:
		return specialHeartbeat
	case len(b) == fragTestLen:
		return specialFragTest
	case native && len(b) == probeLen && binary.BigEndian.Uint32(b[magicAt:]) == probeMagic:
		switch b[kindAt] {
		case 1:
			return specialProbe
		case 2:
			return specialReply
		}
	}
	return specialMTUTest
}

// probe is the content of a probe or its reply.
type probe struct {
	uid      uint64
	sequence uint32
	heard    uint32 // milliseconds, or pathstate.NeverHeard
}

// readProbe reads a frame that classify found to be a probe or a reply.
func readProbe(b []byte) probe {
	return probe{
		uid:      binary.BigEndian.Uint64(b[probeUIDAt:]),
		sequence: binary.BigEndian.Uint32(b[sequenceAt:]),
		heard:    binary.BigEndian.Uint32(b[heardAt:]),
	}
}

// append writes the frame of a probe, or of a reply.
func (p probe) append(b []byte, kind special) []byte {
	b = append(b, zeros[:frame.HeaderLen]...)
	b = binary.BigEndian.AppendUint32(b, probeMagic)
	if kind == specialReply {
		b = append(b, 2, 0)
	} else {
		b = append(b, 1, 0)
	}
	b = binary.BigEndian.AppendUint64(b, p.uid)
	b = binary.BigEndian.AppendUint32(b, p.sequence)
	return binary.BigEndian.AppendUint32(b, p.heard)
}

// appendHeartbeat writes the frame of a heartbeat.
func appendHeartbeat(b []byte, uid uint64) []byte {
	b = append(b, zeros[:frame.HeaderLen]...)
	return binary.BigEndian.AppendUint64(b, uid)
}

// allZero reports whether b has no other bytes.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
