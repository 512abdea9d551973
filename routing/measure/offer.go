package measure

import (
	"encoding/binary"
	"errors"
)

// Channel is the gossip channel that sessions are opened on.
const Channel = "meshd-bench"

// A message on Channel. All numbers are big-endian; more bytes may follow.
//
//	0      1         9           13
//	+------+---------+-----------+
//	| verb | session | argument  |
//	+------+---------+-----------+
const offerLen = 13

// verb is what a message on Channel says.
type verb uint8

const (
	verbOffer  verb = 1 // argument: for how many milliseconds
	verbAccept verb = 2
	verbRefuse verb = 3 // argument: a refusal
	verbClose  verb = 4
)

// refuseBusy is the only reason to refuse so far: too many measure this peer.
const refuseBusy = 1

// offer is a message on Channel.
type offer struct {
	verb     verb
	session  uint64
	argument uint32
}

var errOffer = errors.New("malformed message about a measurement")

func (o offer) append(dst []byte) []byte {
	dst = append(dst, byte(o.verb))
	dst = binary.BigEndian.AppendUint64(dst, o.session)
	return binary.BigEndian.AppendUint32(dst, o.argument)
}

func parseOffer(b []byte) (offer, error) {
	if len(b) < offerLen || verb(b[0]) < verbOffer || verb(b[0]) > verbClose {
		return offer{}, errOffer
	}
	return offer{
		verb: verb(b[0]), session: binary.BigEndian.Uint64(b[1:]), argument: binary.BigEndian.Uint32(b[9:]),
	}, nil
}
