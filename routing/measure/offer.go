package measure

import (
	"encoding/binary"
	"errors"
)

// Channel is the gossip channel that sessions are opened on.
const Channel = "meshd-bench"

// A message on Channel. All numbers are big-endian; more bytes may follow, and old
// peers neither send nor read the purpose.
//
//	0      1         9           13        14
//	+------+---------+-----------+---------+
//	| verb | session | argument  | purpose |
//	+------+---------+-----------+---------+
const (
	offPurpose = 13
	offerLen   = offPurpose // at least
)

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

// purpose is what a session is for.
type purpose uint8

const (
	toMeasure purpose = 0 // also what peers mean who name none
	toPing    purpose = 1 // echoes only, few of them; many such sessions at a time
)

// offer is a message on Channel.
type offer struct {
	verb     verb
	session  uint64
	argument uint32
	purpose  purpose // of an offer; an accept repeats it. Others have 0
}

var errOffer = errors.New("malformed message about a measurement")

func (o offer) append(dst []byte) []byte {
	dst = append(dst, byte(o.verb))
	dst = binary.BigEndian.AppendUint64(dst, o.session)
	dst = binary.BigEndian.AppendUint32(dst, o.argument)
	if o.purpose != toMeasure {
		dst = append(dst, byte(o.purpose))
	}
	return dst
}

func parseOffer(b []byte) (offer, error) {
	if len(b) < offerLen || verb(b[0]) < verbOffer || verb(b[0]) > verbClose {
		return offer{}, errOffer
	}
	o := offer{verb: verb(b[0]), session: binary.BigEndian.Uint64(b[1:]), argument: binary.BigEndian.Uint32(b[9:])}
	if len(b) > offPurpose && (o.verb == verbOffer || o.verb == verbAccept) {
		o.purpose = purpose(b[offPurpose])
	}
	return o, nil
}
