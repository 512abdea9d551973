package signal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"meshd/internal/frame"
)

// send seals and sends one message.
func (c *Channel) send(to frame.PeerName, v verb, id uint64, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("a message of %d bytes, not up to %d", len(payload), MaxPayload)
	}
	c.mu.Lock()
	m := c.members[to]
	if m == nil || m.keys == nil {
		c.mu.Unlock()
		return ErrUnknown
	}
	c.counter++
	b := m.keys.sealed(c.counter, v, id, payload)
	c.mu.Unlock()
	return c.cfg.Unicast(to, b)
}

// Notify sends a message that wants no reply, once. It may be lost.
func (c *Channel) Notify(to frame.PeerName, payload []byte) error {
	return c.send(to, verbNotice, 0, payload)
}

// Request sends a request until it is answered or ctx is done, and returns the reply,
// and the time from the last time it was sent to the reply: the round-trip time, or
// less where an earlier one was answered. The error is ErrUnknown or ErrSilent.
func (c *Channel) Request(ctx context.Context, to frame.PeerName, payload []byte) (reply []byte, rtt time.Duration, err error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, 0, err
	}
	id, answered := binary.BigEndian.Uint64(b[:]), make(chan []byte, 1)
	c.mu.Lock()
	c.waiting[id] = answered
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	for wait := retransmitMin; ; wait = min(2*wait, retransmitMost) {
		sent := time.Now()
		if err := c.send(to, verbRequest, id, payload); errors.Is(err, ErrUnknown) {
			return nil, 0, err
		} else if err != nil {
			c.sent(err) // no route now; there may be one in a moment
		}
		timer := time.NewTimer(wait)
		select {
		case reply := <-answered:
			timer.Stop()
			return reply, time.Since(sent), nil
		case <-ctx.Done():
			timer.Stop()
			return nil, 0, fmt.Errorf("%w: %w", ErrSilent, context.Cause(ctx))
		case <-timer.C:
		}
	}
}
