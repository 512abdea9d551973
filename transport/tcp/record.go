package tcp

import (
	"encoding/binary"
	"errors"

	"meshd/internal/encap"
)

// A record, of which the stream of each direction consists behind the proofs. All
// numbers are big-endian.
//
//	0        4                                      n
//	+--------+--------------------------------------+---- next record
//	| length | native datagram with items           | length …
//	+--------+--------------------------------------+----
//
// length is that of the datagram. Its index is 0, and its counter that of the one
// before plus one, from 0: what is missing, doubled or out of order ends the
// connection. The sender changes its key when it likes, as in native datagrams.
const (
	lengthLen    = 4
	beforeItems  = lengthLen + encap.NativeHeaderLen
	recordSealed = encap.NativeOverhead + encap.NativeItemHeader + 65535 // bytes of the largest datagram
	maxRecord    = lengthLen + recordSealed
)

var (
	errRecord = errors.New("the neighbour sent a record of a length that none has")
	errSealed = errors.New("a record does not open under the connection's key, or is not the next one")
)

// cutRecord finds the first record in what was read. sealed is its datagram, and lies
// in b; nil: it is not there yet. total is how many bytes the record has; where even
// its length is not there, that of a length.
func cutRecord(b []byte) (sealed []byte, total int, err error) {
	if len(b) < lengthLen {
		return nil, lengthLen, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n < encap.NativeOverhead || n > recordSealed {
		return nil, 0, errRecord
	}
	total = lengthLen + int(n)
	if len(b) < total {
		return nil, total, nil
	}
	return b[lengthLen:total:total], total, nil
}

// sealRecord seals a record in place: beforeItems bytes of room, then items, with
// capacity for the tag. It returns the whole record.
func sealRecord(seal *encap.NativeSeal, b []byte) ([]byte, error) {
	d, err := seal.Seal(b[lengthLen:])
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b, uint32(len(d)))
	return b[:lengthLen+len(d)], nil
}
