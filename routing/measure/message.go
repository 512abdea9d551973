package measure

import (
	"encoding/binary"
	"errors"

	"meshd/internal/frame"
	"meshd/routing"
)

// A frame of ours. All numbers are big-endian.
//
//	0     6     12   14     18   19   20        28      32       36
//	+-----+-----+----+------+----+----+---------+-------+--------+------ - -
//	| dst | src |88b5|"mshb"|kind| 1  | session | round |sequence| body
//	+-----+-----+----+------+----+----+---------+-------+--------+------ - -
//
// dst and src are the peers' names, made locally administered unicast addresses. The
// session is a random number. The body of a report:
//
//	36       44       52            60             68
//	+--------+--------+-------------+--------------+
//	| frames | bytes  | nanoseconds | out of order |
//	+--------+--------+-------------+--------------+
//
// That of an echo reply stands in hop.go. Other bodies, of at least that length, are
// padding: so no answer is longer than what asked for it.
const (
	offMagic    = frame.HeaderLen
	offKind     = 18
	offVersion  = 19
	offSession  = 20
	offRound    = 28
	offSequence = 32
	offBody     = 36

	// MinFrame is the length in bytes of the shortest frame of ours.
	MinFrame = 68

	magic   = "mshb"
	version = 1
)

// kind is what a frame is for.
type kind uint8

const (
	kindEcho      kind = 1 // please answer; round and sequence are repeated
	kindEchoReply kind = 2 // as long as the echo
	kindData      kind = 3 // counted, never answered
	kindRequest   kind = 4 // what came of the round?
	kindReport    kind = 5
)

// message is a frame's content. tally is a report's, hop an echo reply's.
type message struct {
	kind     kind
	session  uint64
	round    uint32
	sequence uint32
	tally    tally
	hop      Hop
}

// tally is what came of one round of data.
type tally struct {
	frames     uint64
	bytes      uint64
	span       uint64 // nanoseconds from the first frame to the last
	outOfOrder uint64 // frames that came after a later one
}

var errMessage = errors.New("not a frame of a measurement")

// isOurs reports whether a frame, of whatever length, has our mark.
func isOurs(data []byte) bool {
	return len(data) >= offKind && string(data[offMagic:offKind]) == magic &&
		binary.BigEndian.Uint16(data[frame.HeaderLen-2:]) == routing.EtherTypeLocal
}

// parse reads a frame. Only what an echo reply tells of its way allocates.
func parse(data []byte) (m message, err error) {
	if len(data) < MinFrame || !isOurs(data) || data[offVersion] != version {
		return m, errMessage
	}
	m.kind = kind(data[offKind])
	if m.kind < kindEcho || m.kind > kindReport {
		return m, errMessage
	}
	m.session = binary.BigEndian.Uint64(data[offSession:])
	m.round = binary.BigEndian.Uint32(data[offRound:])
	m.sequence = binary.BigEndian.Uint32(data[offSequence:])
	switch m.kind {
	case kindEchoReply:
		m.hop = parseHop(data)
	case kindReport:
		m.tally.frames = binary.BigEndian.Uint64(data[offBody:])
		m.tally.bytes = binary.BigEndian.Uint64(data[offBody+8:])
		m.tally.span = binary.BigEndian.Uint64(data[offBody+16:])
		m.tally.outOfOrder = binary.BigEndian.Uint64(data[offBody+24:])
	}
	return m, nil
}

// put writes m into data, which has at least MinFrame bytes, behind the addresses.
func (m *message) put(data []byte) {
	binary.BigEndian.PutUint16(data[frame.HeaderLen-2:], routing.EtherTypeLocal)
	copy(data[offMagic:], magic)
	data[offKind], data[offVersion] = byte(m.kind), version
	binary.BigEndian.PutUint64(data[offSession:], m.session)
	m.number(data)
	switch m.kind {
	case kindEchoReply:
		m.hop.put(data)
	case kindReport:
		binary.BigEndian.PutUint64(data[offBody:], m.tally.frames)
		binary.BigEndian.PutUint64(data[offBody+8:], m.tally.bytes)
		binary.BigEndian.PutUint64(data[offBody+16:], m.tally.span)
		binary.BigEndian.PutUint64(data[offBody+24:], m.tally.outOfOrder)
	}
}

// number writes what differs between the data frames of one session.
func (m *message) number(data []byte) {
	binary.BigEndian.PutUint32(data[offRound:], m.round)
	binary.BigEndian.PutUint32(data[offSequence:], m.sequence)
}

// newPacket makes a packet with room for size bytes, addresses written.
func newPacket(src, dst frame.PeerName, size int) frame.Packet {
	data := make([]byte, max(size, MinFrame))
	to, from := hardware(dst), hardware(src)
	copy(data, to[:])
	copy(data[len(to):], from[:])
	return frame.Packet{Src: src, Dst: dst, Frame: frame.Frame{Data: data}}
}

// hardware makes a peer name an address that no host has by right: unicast and
// locally administered (IEEE Std 802, section 8.4).
func hardware(name frame.PeerName) (mac frame.MAC) {
	name.Put(mac[:])
	mac[0] = mac[0]&^1 | 2
	return mac
}
