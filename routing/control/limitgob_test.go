package control

import (
	"bytes"
	"encoding/gob"
	"errors"
	"math"
	"testing"
)

// TestGobNumbers compares with encoding/gob, whose messages of a number have two
// bytes of id and one of zero before it.
func TestGobNumbers(t *testing.T) {
	values := []uint64{0, 1, 127, 128, 255, 256, 65535, 65536, math.MaxUint64}
	for shift := range 64 {
		values = append(values, 1<<shift, 1<<shift-1)
	}
	for _, v := range values {
		var buf bytes.Buffer
		if err := gob.NewEncoder(&buf).Encode(v); err != nil {
			t.Fatal(err)
		}
		want := buf.Bytes()[3:] // count, id, 0
		got := appendGobUint(nil, v)
		if !bytes.Equal(got, want) || len(got) != gobUintLen(v) {
			t.Errorf("appendGobUint(%d) = %x, %d bytes, want %x", v, got, gobUintLen(v), want)
		}
		c := gobCursor{rest: want}
		if back := c.uint(); back != v || c.err != nil || len(c.rest) > 0 {
			t.Errorf("uint(%x) = %d, %v, want %d", want, back, c.err, v)
		}
	}
	for _, v := range []int64{0, 1, -1, 63, 64, -64, -65, math.MaxInt64, math.MinInt64} {
		var buf bytes.Buffer
		if err := gob.NewEncoder(&buf).Encode(v); err != nil {
			t.Fatal(err)
		}
		c := gobCursor{rest: buf.Bytes()[3:]}
		if back := c.int(); back != v || c.err != nil {
			t.Errorf("int(%x) = %d, %v, want %d", buf.Bytes()[3:], back, c.err, v)
		}
	}
}

func TestGobCursorRefuses(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		read func(*gobCursor)
		want error
	}{
		{"number of nothing", nil, func(c *gobCursor) { c.uint() }, errGobShort},
		{"number of 9 bytes", unhex("f7 010203040506070809"), func(c *gobCursor) { c.uint() }, errGobUint},
		{"number of 128 bytes", append([]byte{0x80}, make([]byte, 200)...), func(c *gobCursor) { c.uint() }, errGobUint},
		{"number cut", unhex("fe 01"), func(c *gobCursor) { c.uint() }, errGobShort},
		{"bytes cut", unhex("03 0102"), func(c *gobCursor) { c.bytes() }, errGobShort},
		{"huge bytes", unhex("f8 ffffffffffffffff 00"), func(c *gobCursor) { c.bytes() }, errGobShort},
		{"message cut", unhex("05 0c 00"), func(c *gobCursor) { c.builtin(gobString, func(c *gobCursor) { c.bytes() }) }, errGobShort},
		{"message of another type", unhex("03 0a 00 00"), func(c *gobCursor) { c.builtin(gobString, func(c *gobCursor) { c.bytes() }) }, errGobType},
		{"value shorter than its message", unhex("04 0c 00 00 00"), func(c *gobCursor) { c.builtin(gobString, func(c *gobCursor) { c.bytes() }) }, errGobType},
		{"value longer than its message", unhex("04 0c 00 02 61 62"), func(c *gobCursor) { c.builtin(gobString, func(c *gobCursor) { c.bytes() }) }, errGobShort},
	}
	for _, tt := range tests {
		c := gobCursor{rest: tt.in}
		tt.read(&c)
		if !errors.Is(c.err, tt.want) {
			t.Errorf("%s: error = %v, want %v", tt.name, c.err, tt.want)
		}
		if c.uint(); !errors.Is(c.err, tt.want) || len(c.rest) > 0 {
			t.Errorf("%s: after another read: %v, %d bytes left; want the first error and none", tt.name, c.err, len(c.rest))
		}
	}
}
