package frame

const (
	protoTCP = 6
	protoUDP = 17
)

// A TCP header (RFC 9293, section 3.1). off counts 4-byte words.
//
//	0     2     4    8    12   13      14     16       18     20
//	+-----+-----+----+----+----+-------+------+--------+------+---------
//	| src | dst |seq |ack |off | flags |window|checksum|urgent| options
//	+-----+-----+----+----+----+-------+------+--------+------+---------
const (
	tcpHeaderLen = 20
	tcpSeq       = 4
	tcpAck       = 8
	tcpOff       = 12 // high nibble
	tcpFlags     = 13
	tcpWindow    = 14
	tcpChecksum  = 16
	tcpUrgent    = 18
)

// The flags (RFC 9293, section 3.1; RFC 3168, section 6.1).
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpURG = 0x20
	tcpECE = 0x40
	tcpCWR = 0x80
)

// A UDP header (RFC 768).
//
//	0     2     4     6        8
//	+-----+-----+-----+--------+---------
//	| src | dst | len |checksum| payload
//	+-----+-----+-----+--------+---------
const (
	udpHeaderLen = 8
	udpLen       = 4
	udpChecksum  = 6
)
