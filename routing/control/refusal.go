package control

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// TagRefusal is the tag of the message with which a peer that both ends' handshake
// has satisfied, but who may not be a neighbour, is told why before the connection
// is closed. Its body is the reason in words, UTF-8. Only peers that announced
// AbilityRefusal are told.
const TagRefusal = 98

// maxRefusal bounds the reason in bytes; what is longer is cut.
const maxRefusal = 512

// tellRefused tells the other end why it is refused, where that is for its operator
// to mend. The connection ends either way.
func (s *session) tellRefused(why error) {
	if !s.conn.Features.Can(AbilityRefusal) || !mendable(why) || s.stream.SetWriteDeadline(time.Now().Add(leaveTimeout)) != nil {
		return
	}
	text := why.Error()
	_ = s.conn.WriteMessage(TagRefusal, []byte(text[:min(len(text), maxRefusal)]))
}

// mendable reports whether a refusal is about how the hosts are set up.
func mendable(why error) bool {
	if _, ok := errors.AsType[*untrustedError](why); ok {
		return true
	}
	if _, ok := errors.AsType[*takenError](why); ok {
		return true
	}
	_, ok := errors.AsType[*limitError](why)
	return ok
}

// refusedError is what the other end says of why it refuses us.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return "the peer refuses us: " + e.reason }

// parseRefusal reads the reason. It is for an operator's terminal: what does not
// belong there is left out.
func parseRefusal(body []byte) error {
	if len(body) > maxRefusal {
		return fmt.Errorf("refusal of %d bytes, at most %d are taken", len(body), maxRefusal)
	}
	reason := strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(body))
	return &refusedError{reason}
}
