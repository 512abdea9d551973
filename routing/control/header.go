package control

import (
	"bytes"
	"errors"
	"fmt"
)

// Protocol versions that meshd speaks, weave protocol section 1.2.
const (
	MinProtocol = 1
	MaxProtocol = 2
)

// HeaderLen is the length of the protocol header in bytes: magic, lowest and
// highest protocol version.
const HeaderLen = len(headerMagic) + 2

const headerMagic = "weave"

var (
	// ErrNotWeave says that the other end's first bytes are not a weave
	// router's.
	ErrNotWeave = errors.New("the other end is not a weave router")
	// ErrVersion says that there is no protocol version that both ends accept.
	ErrVersion = errors.New("no common protocol version")
)

func appendHeader(dst []byte, lowest, highest byte) []byte {
	return append(append(dst, headerMagic...), lowest, highest)
}

// chooseVersion reads the other end's header and gives the protocol version to
// speak. lowest and highest are ours.
func chooseVersion(header [HeaderLen]byte, lowest, highest byte) (int, error) {
	if !bytes.HasPrefix(header[:], []byte(headerMagic)) {
		return 0, fmt.Errorf("%w: it began with %q", ErrNotWeave, header[:len(headerMagic)])
	}
	theirLowest, theirHighest := header[HeaderLen-2], header[HeaderLen-1]
	version := min(highest, theirHighest)
	if max(lowest, theirLowest) > version {
		return 0, fmt.Errorf("%w: we accept %d to %d, the peer %d to %d",
			ErrVersion, lowest, highest, theirLowest, theirHighest)
	}
	return int(version), nil
}
