package encap

import (
	"encoding/binary"

	"meshd/internal/frame"
)

// The items of a native datagram stand behind each other until its end.
//
//	0      1      2        4          4+n
//	+------+------+--------+----------+------ next item
//	| type | hops | length | body     | type …
//	+------+------+--------+----------+------
//
// length is that of the body. Items of unknown types are skipped; hops is 0 where
// it means nothing. The bodies:
//
//	frame      0     6     12               n
//	           +-----+-----+----------------+
//	           | src | dst | frame          |
//	           +-----+-----+----------------+
//	fragment   0     6     12     16       18      20          n
//	           +-----+-----+------+--------+-------+-----------+
//	           | src | dst | id   | offset | total | a part of |
//	           |     |     |      |        |       | the frame |
//	           +-----+-----+------+--------+-------+-----------+
//	probe      0          4       8
//	           +----------+-------+
//	           | sequence | heard |
//	           +----------+-------+
//	reply      0          4       8
//	           +----------+-------+
//	           | sequence | bad   |
//	           +----------+-------+
//	test       0                  n
//	           +------------------+
//	           | padding          |
//	           +------------------+
//	tested     0      2
//	           +------+
//	           | size |
//	           +------+
//	super      0     6     12      13     14     16      18       20       n
//	           +-----+-----+-------+------+------+-------+--------+--------+
//	           | src | dst | flags | type | size | start | offset | super- |
//	           |     |     |       |      |      |       |        | frame  |
//	           +-----+-----+-------+------+------+-------+--------+--------+
//
// src and dst are peer names; hops says how many more neighbours may pass the
// frame on, the receiver not counted, and is at least 1 there. heard is how many milliseconds ago the sender last had a
// datagram of the receiver, all ones: never. A reply has its probe's sequence
// number, and how many datagrams from the neighbour's address did not open. A test
// is answered with the size in bytes of the datagram that brought it. A super-frame
// has its frame.Offload but for HdrLen before it; no datagram has room for one, but
// what is sealed like a datagram and carried in a stream.
const (
	// NativeItemHeader is the length in bytes of what stands before a body.
	NativeItemHeader = 4
	// NativePacketHeader is the length in bytes of what stands before a frame.
	NativePacketHeader = NativeItemHeader + 2*frame.PeerNameLen
	// NativeFragmentHeader is the same of a fragment.
	NativeFragmentHeader = NativePacketHeader + 8
	// NativeSuperHeader is the same of a super-frame.
	NativeSuperHeader = NativePacketHeader + 8
	// NativePacketMax and NativeSuperMax are the lengths in bytes of the longest frame
	// and super-frame that one item has.
	NativePacketMax = 65535 - offBodyFrame
	NativeSuperMax  = 65535 - offSuperData

	offItemHops   = 1
	offItemLen    = 2
	offBodyDst    = frame.PeerNameLen
	offBodyFrame  = 2 * frame.PeerNameLen
	offFragOffset = offBodyFrame + 4
	offFragTotal  = offBodyFrame + 6
	offFragData   = offBodyFrame + 8
	offSuperData  = offBodyFrame + 8
	probeBody     = 8
	replyBody     = 8
	testedBody    = 2
)

// NativeType is what an item is.
type NativeType uint8

// The types of items.
const (
	NativeFrame    NativeType = 1
	NativeFragment NativeType = 2
	NativeProbe    NativeType = 3
	NativeReply    NativeType = 4
	NativeTest     NativeType = 5
	NativeTested   NativeType = 6
	NativeSuper    NativeType = 7
)

// NativeItem is one item. What its body has is read by the method of its type.
type NativeItem struct {
	Type NativeType
	Hops uint8 // of a frame or fragment
	body []byte
}

// NativeReader walks the items of one datagram. It does not allocate.
type NativeReader struct {
	rest []byte
	err  error
}

// NewNativeReader reads the items that NativeOpen gave. The bytes are borrowed as
// long as the reader and what it gave are used.
func NewNativeReader(items []byte) NativeReader { return NativeReader{rest: items} }

// Next returns the next item; false at the end.
func (r *NativeReader) Next() (NativeItem, bool) {
	if len(r.rest) == 0 {
		return NativeItem{}, false
	}
	if len(r.rest) < NativeItemHeader {
		return r.fail()
	}
	end := NativeItemHeader + int(binary.BigEndian.Uint16(r.rest[offItemLen:]))
	if len(r.rest) < end {
		return r.fail()
	}
	i := NativeItem{
		Type: NativeType(r.rest[0]), Hops: r.rest[offItemHops],
		body: r.rest[NativeItemHeader:end:end],
	}
	r.rest = r.rest[end:]
	return i, true
}

// Err returns ErrTrailing if the datagram ended with bytes that do not make an
// item. The items before them count.
func (r *NativeReader) Err() error { return r.err }

func (r *NativeReader) fail() (NativeItem, bool) {
	r.rest, r.err = nil, ErrTrailing
	return NativeItem{}, false
}

// Packet reads a frame. It is false for one without a hop limit, without an
// Ethernet header, or from or to no peer.
func (i NativeItem) Packet() (frame.Packet, bool) {
	b := i.body
	if i.Type != NativeFrame || i.Hops == 0 || len(b) < offBodyFrame+frame.HeaderLen {
		return frame.Packet{}, false
	}
	p := frame.Packet{Src: frame.PeerNameOf(b), Dst: frame.PeerNameOf(b[offBodyDst:]), Hops: i.Hops}
	p.Frame.Data = b[offBodyFrame:]
	return p, p.Src != 0 && p.Dst != 0
}

// Super reads a super-frame. It is false for what Packet refuses of a frame. Whether
// its Offload fits its bytes is for the caller to check (frame.CheckOffload).
func (i NativeItem) Super() (frame.Packet, bool) {
	b := i.body
	if i.Type != NativeSuper || i.Hops == 0 || len(b) < offSuperData+frame.HeaderLen {
		return frame.Packet{}, false
	}
	p := frame.Packet{Src: frame.PeerNameOf(b), Dst: frame.PeerNameOf(b[offBodyDst:]), Hops: i.Hops}
	o := b[offBodyFrame:]
	p.Frame = frame.Frame{Data: b[offSuperData:], Offload: frame.Offload{
		Flags: o[0], GSOType: o[1], GSOSize: binary.BigEndian.Uint16(o[2:]),
		CsumStart: binary.BigEndian.Uint16(o[4:]), CsumOffset: binary.BigEndian.Uint16(o[6:]),
	}}
	return p, p.Src != 0 && p.Dst != 0
}

// NativePart is a fragment of a frame.
type NativePart struct {
	Packet frame.Packet // its frame has the fragment's bytes
	ID     uint32
	Offset int // of the bytes in the frame
	Total  int // length of the frame
}

// Part reads a fragment. It is false for one that is empty or reaches beyond its
// frame's end, and for what Packet refuses of a frame.
func (i NativeItem) Part() (NativePart, bool) {
	b := i.body
	if i.Type != NativeFragment || i.Hops == 0 || len(b) <= offFragData {
		return NativePart{}, false
	}
	f := NativePart{
		Packet: frame.Packet{Src: frame.PeerNameOf(b), Dst: frame.PeerNameOf(b[offBodyDst:]), Hops: i.Hops},
		ID:     binary.BigEndian.Uint32(b[offBodyFrame:]),
		Offset: int(binary.BigEndian.Uint16(b[offFragOffset:])),
		Total:  int(binary.BigEndian.Uint16(b[offFragTotal:])),
	}
	f.Packet.Frame.Data = b[offFragData:]
	ok := f.Packet.Src != 0 && f.Packet.Dst != 0 && f.Total >= frame.HeaderLen &&
		f.Offset+len(f.Packet.Frame.Data) <= f.Total
	return f, ok
}

// NativeQuestion is what a probe has.
type NativeQuestion struct {
	Sequence uint32
	Heard    uint32 // milliseconds, or pathstate.NeverHeard
}

// NativeAnswer is what a reply has.
type NativeAnswer struct {
	Sequence uint32
	Bad      uint32 // datagrams that did not open, modulo 2^32
}

// Question reads a probe.
func (i NativeItem) Question() (NativeQuestion, bool) {
	if i.Type != NativeProbe || len(i.body) < probeBody {
		return NativeQuestion{}, false
	}
	return NativeQuestion{binary.BigEndian.Uint32(i.body), binary.BigEndian.Uint32(i.body[4:])}, true
}

// Answer reads a reply.
func (i NativeItem) Answer() (NativeAnswer, bool) {
	if i.Type != NativeReply || len(i.body) < replyBody {
		return NativeAnswer{}, false
	}
	return NativeAnswer{binary.BigEndian.Uint32(i.body), binary.BigEndian.Uint32(i.body[4:])}, true
}

// Tested reads how many bytes the datagram with the test had.
func (i NativeItem) Tested() (size int, ok bool) {
	if i.Type != NativeTested || len(i.body) < testedBody {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(i.body)), true
}

// PutNativePacket writes what stands before a frame of length bytes to the first
// NativePacketHeader bytes of b. p's frame is not looked at.
func PutNativePacket(b []byte, p *frame.Packet, length int) {
	putItem(b, NativeFrame, p.Hops, offBodyFrame+length)
	p.Src.Put(b[NativeItemHeader:])
	p.Dst.Put(b[NativeItemHeader+offBodyDst:])
}

// AppendNativePacket appends a frame. Its length and Hops must be fit for
// NativeItem.Packet.
func AppendNativePacket(b []byte, p *frame.Packet) []byte {
	var header [NativePacketHeader]byte
	PutNativePacket(header[:], p, len(p.Frame.Data))
	return append(append(b, header[:]...), p.Frame.Data...)
}

// AppendNativeSuper appends a super-frame of at most NativeSuperMax bytes with its
// Offload.
func AppendNativeSuper(b []byte, p *frame.Packet) []byte {
	var header [NativeSuperHeader]byte
	PutNativePacket(header[:], p, 0)
	putItem(header[:], NativeSuper, p.Hops, offSuperData+len(p.Frame.Data))
	o := &p.Frame.Offload
	h := header[NativePacketHeader:]
	h[0], h[1] = o.Flags, o.GSOType
	binary.BigEndian.PutUint16(h[2:], o.GSOSize)
	binary.BigEndian.PutUint16(h[4:], o.CsumStart)
	binary.BigEndian.PutUint16(h[6:], o.CsumOffset)
	return append(append(b, header[:]...), p.Frame.Data...)
}

// AppendNativePart appends a fragment, which must be fit for NativeItem.Part.
func AppendNativePart(b []byte, f *NativePart) []byte {
	var header [NativePacketHeader]byte
	PutNativePacket(header[:], &f.Packet, 0)
	putItem(header[:], NativeFragment, f.Packet.Hops, offFragData+len(f.Packet.Frame.Data))
	b = append(b, header[:]...)
	b = binary.BigEndian.AppendUint32(b, f.ID)
	b = binary.BigEndian.AppendUint16(b, uint16(f.Offset))
	b = binary.BigEndian.AppendUint16(b, uint16(f.Total))
	return append(b, f.Packet.Frame.Data...)
}

// AppendNativeProbe appends a probe.
func AppendNativeProbe(b []byte, q NativeQuestion) []byte {
	b = appendItem(b, NativeProbe, probeBody)
	b = binary.BigEndian.AppendUint32(b, q.Sequence)
	return binary.BigEndian.AppendUint32(b, q.Heard)
}

// AppendNativeReply appends a reply.
func AppendNativeReply(b []byte, a NativeAnswer) []byte {
	b = appendItem(b, NativeReply, replyBody)
	b = binary.BigEndian.AppendUint32(b, a.Sequence)
	return binary.BigEndian.AppendUint32(b, a.Bad)
}

// AppendNativeTest appends a test with which the item takes size bytes, at least
// NativeItemHeader and at most 65535.
func AppendNativeTest(b []byte, size int) []byte {
	b = appendItem(b, NativeTest, size-NativeItemHeader)
	return append(b, make([]byte, size-NativeItemHeader)...)
}

// AppendNativeTested appends the answer to a test that came in a datagram of size
// bytes.
func AppendNativeTested(b []byte, size int) []byte {
	return binary.BigEndian.AppendUint16(appendItem(b, NativeTested, testedBody), uint16(size))
}

func appendItem(b []byte, t NativeType, length int) []byte {
	var header [NativeItemHeader]byte
	putItem(header[:], t, 0, length)
	return append(b, header[:]...)
}

func putItem(b []byte, t NativeType, hops uint8, length int) {
	b[0], b[offItemHops] = byte(t), hops
	binary.BigEndian.PutUint16(b[offItemLen:], uint16(length))
}
