package main

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"
)

// channel carries up to capacity and is offered at most what its sender can.
type channel struct {
	capacity, sender float64
	hiccups          int // steps that lose although they need not
	steps            int
}

func (c *channel) try(rate float64) (step, error) {
	c.steps++
	offered := min(rate, c.sender)
	carried := min(offered, c.capacity)
	if c.hiccups > 0 {
		c.hiccups--
		carried /= 2
	}
	return step{rate: rate, sent: int(offered), received: int(carried), took: time.Second}, nil
}

func TestClimb(t *testing.T) {
	for _, tt := range []struct {
		name     string
		channel  channel
		from, to float64 // what is found
		limited  bool
	}{
		{"in the middle", channel{capacity: 100e3, sender: 1e6}, 88e3, 101e3, false},
		{"below the first step", channel{capacity: 6e3, sender: 1e6}, 5e3, 6.1e3, false},
		{"above what can be sent", channel{capacity: 1e9, sender: 200e3}, 200e3, 200e3, true},
		{"exactly the first step", channel{capacity: 20e3, sender: 1e6}, 20e3, 20.3e3, false},
		{"one hiccup does not matter", channel{capacity: 100e3, sender: 1e6, hiccups: 1}, 88e3, 101e3, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			best, limited, err := climb(tt.channel.try)
			if err != nil {
				t.Fatal(err)
			}
			if got := best.carried(); got < tt.from || got > tt.to {
				t.Errorf("carried %.0f, want %.0f to %.0f", got, tt.from, tt.to)
			}
			if limited != tt.limited {
				t.Errorf("limited by the sender: %v, want %v", limited, tt.limited)
			}
			if tt.channel.steps > 30 {
				t.Errorf("%d steps", tt.channel.steps)
			}
		})
	}
}

func TestClimbFails(t *testing.T) {
	dead := channel{capacity: 0, sender: 1e6}
	if _, _, err := climb(dead.try); err == nil {
		t.Error("climb over a dead channel = nil, want an error")
	}
	broken := errors.New("broken")
	if _, _, err := climb(func(float64) (step, error) { return step{}, broken }); err != broken {
		t.Errorf("climb = %v, want %v", err, broken)
	}
}

func TestStep(t *testing.T) {
	for _, tt := range []struct {
		sent, received int
		good           bool
	}{{1000, 991, true}, {1000, 990, false}, {1000, 1000, true}, {0, 0, false}} {
		if got := (step{sent: tt.sent, received: tt.received, took: 1}).good(); got != tt.good {
			t.Errorf("%d of %d: good = %v, want %v", tt.received, tt.sent, got, tt.good)
		}
	}
	if got := (step{}).carried(); got != 0 {
		t.Errorf("a step that was not taken carries %v", got)
	}
}

func TestFloodCounts(t *testing.T) {
	f := &flood{current: 3}
	datagram := func(step, number uint32, size int) []byte {
		b := make([]byte, max(size, 8))
		binary.BigEndian.PutUint32(b, step)
		binary.BigEndian.PutUint32(b[floodNumber:], number)
		return b[:size]
	}
	for _, b := range [][]byte{
		datagram(3, 0, floodPayload),
		datagram(3, 200, floodPayload),
		datagram(3, 64, floodPayload),
		datagram(3, 200, floodPayload),     // again
		datagram(2, 5, floodPayload),       // of an earlier step
		datagram(3, 6, floodPayload-1),     // cut short
		datagram(3, 1<<31, floodPayload),   // far too high a number
		datagram(3, 1<<32-1, floodPayload), // even more so
		nil,
	} {
		f.countLocked(b)
	}
	if f.received != 3 {
		t.Errorf("received = %d, want 3: numbers 0, 64 and 200", f.received)
	}
	if len(f.seen) > 4 {
		t.Errorf("the bitmap has %d words for numbers to 200", len(f.seen))
	}
}
