package control

import (
	"errors"
	"fmt"
)

// Gob as far as the control plane needs it, read from memory and within bounds.
// encoding/gob trusts counts and type definitions too much for bytes of a
// stranger: a map's count reserves memory before its entries are there, and a
// definition or a list of one-byte elements grows to fifty times its size. The
// reader here keeps nothing but the definitions, and few of them; what else is
// kept is for its callers to bound. Weave protocol, appendix A, has the format in one paragraph:
//
//	stream  = message…          message = count, type id, value
//	type id < 0: definition of type -id; id > 0: a value, preceded by 00
//	unless it is a struct

// Type ids that need no definition.
const (
	gobBool      = 1
	gobInt       = 2
	gobUint      = 3
	gobFloat     = 4
	gobBytes     = 5
	gobString    = 6
	gobComplex   = 7
	gobFirstUser = 64 // ids below it are reserved
)

// Bounds of one gob stream. Stock routers define three types of at most six
// fields.
const (
	maxGobTypes  = 16
	maxGobFields = 32
	maxGobName   = 64 // bytes
	maxGobDepth  = 8  // nesting of values that are skipped
)

var (
	errGobShort  = errors.New("gob: data ends inside a value")
	errGobUint   = errors.New("gob: number of more than 8 bytes")
	errGobType   = errors.New("gob: value is not of the expected type")
	errGobBounds = errors.New("gob: too many or too large type definitions")
	errGobDepth  = errors.New("gob: values nested too deeply")
)

// appendGobUint appends an unsigned integer: one byte below 128, else the
// complemented count of the big-endian bytes that follow.
func appendGobUint(dst []byte, u uint64) []byte {
	if u < 0x80 {
		return append(dst, byte(u))
	}
	n := gobUintLen(u) - 1
	dst = append(dst, byte(-n))
	for shift := (n - 1) * 8; shift >= 0; shift -= 8 {
		dst = append(dst, byte(u>>shift))
	}
	return dst
}

// gobUintLen is the number of bytes that appendGobUint appends for u.
func gobUintLen(u uint64) int {
	if u < 0x80 {
		return 1
	}
	n := 1
	for ; u > 0; u >>= 8 {
		n++
	}
	return n
}

// appendGobString appends the length and the bytes of s.
func appendGobString[T string | []byte](dst []byte, s T) []byte {
	return append(appendGobUint(dst, uint64(len(s))), s...)
}

// appendGobID appends a type id in its signed form.
func appendGobID(dst []byte, id int64) []byte {
	if id < 0 {
		return appendGobUint(dst, uint64(^id)<<1|1)
	}
	return appendGobUint(dst, uint64(id)<<1)
}

// gobCursor reads values one after the other. After the first error it gives
// zero values and keeps the error. What it returns points into its bytes.
type gobCursor struct {
	rest []byte
	err  error
}

func (c *gobCursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.rest = nil
}

func (c *gobCursor) uint() uint64 {
	if len(c.rest) == 0 {
		c.fail(errGobShort)
		return 0
	}
	first := c.rest[0]
	if first < 0x80 {
		c.rest = c.rest[1:]
		return uint64(first)
	}
	n := -int(int8(first))
	if n > 8 {
		c.fail(errGobUint)
		return 0
	}
	if len(c.rest) < 1+n {
		c.fail(errGobShort)
		return 0
	}
	var u uint64
	for _, b := range c.rest[1 : 1+n] {
		u = u<<8 | uint64(b)
	}
	c.rest = c.rest[1+n:]
	return u
}

func (c *gobCursor) int() int64 {
	u := c.uint()
	if u&1 != 0 {
		return ^int64(u >> 1)
	}
	return int64(u >> 1)
}

// bytes reads a length and that many bytes.
func (c *gobCursor) bytes() []byte {
	n := c.uint()
	if n > uint64(len(c.rest)) {
		c.fail(errGobShort)
		return nil
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b
}

// message reads the count of a message and gives its bytes.
func (c *gobCursor) message() gobCursor {
	b := c.bytes()
	return gobCursor{rest: b, err: c.err}
}

// builtin reads one whole message whose value is of a builtin type and calls
// read for the value, which must fill the message.
func (c *gobCursor) builtin(id int64, read func(*gobCursor)) {
	message := c.message()
	if got := message.int(); message.err == nil && got != id {
		message.fail(errGobType)
	}
	if message.uint() != 0 {
		message.fail(errGobType)
	}
	read(&message)
	if len(message.rest) > 0 {
		message.fail(errGobType)
	}
	if message.err != nil {
		c.fail(message.err)
	}
}

type gobKind uint8

const (
	gobKindArray gobKind = 1 + iota // the numbers are the fields of gob's wireType
	gobKindSlice
	gobKindStruct
	gobKindMap
	gobKindEncoder // and the two after it: opaque bytes
	gobKindBinary
	gobKindText
)

type gobField struct {
	name string
	id   int64
}

// gobType is a type that the stream defined.
type gobType struct {
	kind   gobKind
	key    int64 // of a map
	elem   int64 // of an array, slice or map
	fields []gobField
}

// gobStream reads a stream of messages and remembers the types it defines.
type gobStream struct {
	gobCursor
	types map[int64]gobType
}

func newGobStream(b []byte) *gobStream {
	return &gobStream{gobCursor: gobCursor{rest: b}, types: map[int64]gobType{}}
}

// next returns the next value and its type id, having taken in the definitions
// before it. ok is false at the end of the stream and after an error.
func (s *gobStream) next() (value gobCursor, id int64, ok bool) {
	for s.err == nil && len(s.rest) > 0 {
		message := s.message()
		id := message.int()
		if id < 0 {
			s.define(&message, -id)
			continue
		}
		if message.err == nil && s.types[id].kind != gobKindStruct && message.uint() != 0 {
			message.fail(errGobType)
		}
		if message.err != nil {
			s.fail(message.err)
			return gobCursor{}, 0, false
		}
		return message, id, true
	}
	return gobCursor{}, 0, false
}

// define reads the definition of type id: a struct with one field for each kind
// of type, one of which is there.
func (s *gobStream) define(c *gobCursor, id int64) {
	_, dup := s.types[id]
	if dup || id < gobFirstUser || len(s.types) >= maxGobTypes {
		c.fail(errGobBounds)
	}
	t := gobType{kind: gobKind(min(c.uint(), 255))}
	if c.err == nil && (t.kind < gobKindArray || t.kind > gobKindText) {
		c.fail(errGobType)
	}
	t.read(c)
	if c.uint() != 0 || len(c.rest) > 0 { // one kind, then the end
		c.fail(errGobType)
	}
	if c.err != nil {
		s.fail(c.err)
		return
	}
	s.types[id] = t
}

// read reads what follows the kind: the common part (name and id, which say
// nothing new), then up to two fields.
func (t *gobType) read(c *gobCursor) {
	structFields(c, func(field uint64) {
		switch {
		case field == 1:
			structFields(c, func(field uint64) {
				switch field {
				case 1:
					c.bytes()
				case 2:
					c.int()
				default:
					c.fail(errGobType)
				}
			})
		case t.kind == gobKindStruct && field == 2:
			t.readFields(c)
		case t.kind == gobKindMap && field == 2:
			t.key = c.int()
		case t.kind == gobKindMap && field == 3,
			t.kind == gobKindSlice && field == 2,
			t.kind == gobKindArray && field == 2:
			t.elem = c.int()
		case t.kind == gobKindArray && field == 3:
			c.int() // the length; values repeat it
		default:
			c.fail(errGobType)
		}
	})
}

func (t *gobType) readFields(c *gobCursor) {
	n := c.uint()
	if n > maxGobFields {
		c.fail(errGobBounds)
		return
	}
	t.fields = make([]gobField, n)
	for i := range t.fields {
		f := &t.fields[i]
		structFields(c, func(field uint64) {
			switch field {
			case 1:
				name := c.bytes()
				if len(name) > maxGobName {
					c.fail(errGobBounds)
				}
				f.name = string(name)
			case 2:
				f.id = c.int()
			default:
				c.fail(errGobType)
			}
		})
	}
}

// structFields walks a struct's fields, numbered from 1, up to its end.
func structFields(c *gobCursor, each func(field uint64)) {
	for field := uint64(0); c.err == nil; {
		delta := c.uint()
		if delta == 0 || c.err != nil {
			return
		}
		if delta > maxGobFields || field+delta > maxGobFields {
			c.fail(errGobBounds)
			return
		}
		field += delta
		each(field)
	}
}

// eachField walks a value of struct type id. each returns false for fields it
// does not know; they are skipped.
func (s *gobStream) eachField(c *gobCursor, id int64, each func(name string, id int64) bool) {
	s.fieldsAt(c, id, 0, each)
}

func (s *gobStream) fieldsAt(c *gobCursor, id int64, depth int, each func(string, int64) bool) {
	t := s.types[id]
	if t.kind != gobKindStruct {
		c.fail(errGobType)
		return
	}
	structFields(c, func(field uint64) {
		if field > uint64(len(t.fields)) {
			c.fail(errGobType)
			return
		}
		f := t.fields[field-1]
		if each == nil || !each(f.name, f.id) {
			s.skip(c, f.id, depth+1)
		}
	})
}

// skip passes over a value. Every value takes at least one byte, so the work is
// bounded by the input.
func (s *gobStream) skip(c *gobCursor, id int64, depth int) {
	if depth > maxGobDepth {
		c.fail(errGobDepth)
		return
	}
	switch id {
	case gobBool, gobInt, gobUint, gobFloat:
		c.uint()
		return
	case gobBytes, gobString:
		c.bytes()
		return
	case gobComplex:
		c.uint()
		c.uint()
		return
	}
	t := s.types[id]
	switch t.kind {
	case gobKindStruct:
		s.fieldsAt(c, id, depth, nil)
	case gobKindArray, gobKindSlice, gobKindMap:
		for n := c.uint(); n > 0 && c.err == nil; n-- {
			if t.kind == gobKindMap {
				s.skip(c, t.key, depth+1)
			}
			s.skip(c, t.elem, depth+1)
		}
	case gobKindEncoder, gobKindBinary, gobKindText:
		c.bytes()
	default: // not defined, or an interface, whose value brings types of its own
		c.fail(fmt.Errorf("gob: type %d: %w", id, errGobType))
	}
}
