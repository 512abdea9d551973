package control

import (
	"errors"
	"fmt"

	"meshd/internal/frame"
)

// Tags of control messages, weave protocol section 2.1. Tags 1 to 3 are sleeve's
// where a peer has no Overlays feature.
const (
	TagHeartbeat       = 0
	TagGossip          = 4 // one hop
	TagGossipUnicast   = 5
	TagGossipBroadcast = 6
	TagOverlay         = 7 // index of the common overlay, its tag, its message
)

// maxChannel is the longest channel name in bytes.
const maxChannel = 255

// ErrGossip says that the body of a gossip message is malformed.
var ErrGossip = errors.New("gossip is malformed")

// Gossip is a message of a gossip channel, weave protocol section 3.1.
type Gossip struct {
	Channel string         // at most 255 bytes
	Src     frame.PeerName // tag 4: who sends on this hop; else: who began it
	Dst     frame.PeerName // unicast only
	Payload []byte
}

// AppendGossip gives the body of a gossip message of tag 4, 5 or 6, the very
// bytes that a stock router sends: one gob stream of
//
//	| channel: string | source: uint64 | destination: uint64 (tag 5) | payload: []byte |
func AppendGossip(tag byte, g Gossip) []byte {
	dst := make([]byte, 0, 4*12+len(g.Channel)+len(g.Payload))
	dst = appendGobBlob(dst, gobString, g.Channel)
	dst = appendGobName(dst, g.Src)
	if tag == TagGossipUnicast {
		dst = appendGobName(dst, g.Dst)
	}
	return appendGobBlob(dst, gobBytes, g.Payload)
}

// appendGobBlob appends a whole gob message with a string or []byte.
func appendGobBlob[T string | []byte](dst []byte, id int64, value T) []byte {
	n := len(value)
	dst = appendGobUint(dst, uint64(2+gobUintLen(uint64(n))+n))
	dst = appendGobID(dst, id)
	dst = append(dst, 0)
	return appendGobString(dst, value)
}

// appendGobName appends a whole gob message with a peer name.
func appendGobName(dst []byte, name frame.PeerName) []byte {
	dst = appendGobUint(dst, uint64(2+gobUintLen(uint64(name))))
	dst = appendGobID(dst, gobUint)
	dst = append(dst, 0)
	return appendGobUint(dst, uint64(name))
}

// ParseGossip reads the body of a gossip message. Payload points into body.
// Errors are ErrGossip.
func ParseGossip(tag byte, body []byte) (Gossip, error) {
	c := gobCursor{rest: body}
	var g Gossip
	c.builtin(gobString, func(c *gobCursor) {
		channel := c.bytes()
		if len(channel) > maxChannel {
			c.fail(fmt.Errorf("channel name has %d bytes, at most %d are taken", len(channel), maxChannel))
			return
		}
		g.Channel = string(channel)
	})
	g.Src = c.peerName()
	if tag == TagGossipUnicast {
		g.Dst = c.peerName()
	}
	c.builtin(gobBytes, func(c *gobCursor) { g.Payload = c.bytes() })
	if c.err == nil && len(c.rest) > 0 {
		c.fail(fmt.Errorf("%d bytes follow the payload", len(c.rest)))
	}
	if c.err != nil {
		return Gossip{}, fmt.Errorf("%w: %w", ErrGossip, c.err)
	}
	return g, nil
}

// peerName reads a whole gob message with a peer name.
func (c *gobCursor) peerName() (name frame.PeerName) {
	c.builtin(gobUint, func(c *gobCursor) {
		name = frame.PeerName(c.uint())
		if c.err == nil && !name.Valid() {
			c.fail(frame.ErrPeerName)
		}
	})
	return name
}
