package tap

import (
	"encoding/binary"

	"meshd/internal/frame"
)

// A virtio-net header, before each frame that is read or written (struct
// virtio_net_hdr: virtio 1.2, section 5.1.6). A TAP's is in the byte order of the
// machine.
//
//	0       1          2         4          6            8             10
//	+-------+----------+---------+----------+------------+-------------+------
//	| flags | gso_type | hdr_len | gso_size | csum_start | csum_offset | frame
//	+-------+----------+---------+----------+------------+-------------+------
const (
	vnetFlags      = 0
	vnetGSOType    = 1
	vnetHdrLen     = 2
	vnetGSOSize    = 4
	vnetCsumStart  = 6
	vnetCsumOffset = 8
	vnetLen        = 10
)

// parseVnet reads the header of a frame that the kernel gave, and returns what it
// says about the frame data behind it. ok is false where that cannot be.
func parseVnet(h *[vnetLen]byte, data []byte) (o frame.Offload, ok bool) {
	// That somebody has checked the checksums is nothing to us: they are complete.
	o.Flags = h[vnetFlags] & frame.NeedsCsum
	o.GSOType = h[vnetGSOType]
	if o.Flags == 0 && o.GSOType == frame.GSONone {
		return frame.Offload{}, true
	}
	o.CsumStart = binary.NativeEndian.Uint16(h[vnetCsumStart:])
	o.CsumOffset = binary.NativeEndian.Uint16(h[vnetCsumOffset:])
	if o.GSOType != frame.GSONone {
		o.GSOSize = binary.NativeEndian.Uint16(h[vnetGSOSize:])
		// The kernel's hdr_len is only a hint: the linear part of its buffer, which may
		// hold payload and does not count the VLAN tag.
		o.HdrLen = headersLen(o, data)
	}
	return o, frame.CheckOffload(frame.Frame{Data: data, Offload: o}) == nil
}

// headersLen is the length in bytes of a super-frame's headers; 0 where they do
// not end in the frame, or where the checksums are complete, so that nothing says
// where the last header begins.
func headersLen(o frame.Offload, data []byte) uint16 {
	const (
		udpHeaderLen  = 8  // RFC 768
		tcpDataOffset = 12 // the upper four bits count 4-byte words (RFC 9293, section 3.1)
	)
	n := int(o.CsumStart)
	switch {
	case o.Flags&frame.NeedsCsum == 0:
		return 0
	case o.GSOType == frame.GSOUDP:
		n += udpHeaderLen
	case n+tcpDataOffset < len(data):
		n += int(data[n+tcpDataOffset]>>4) * 4
	default:
		return 0
	}
	if n > len(data) || n > 0xffff {
		return 0
	}
	return uint16(n)
}

// putVnet writes the header that says o.
func putVnet(h *[vnetLen]byte, o frame.Offload) {
	h[vnetFlags], h[vnetGSOType] = o.Flags&frame.NeedsCsum, o.GSOType
	binary.NativeEndian.PutUint16(h[vnetHdrLen:], o.HdrLen)
	binary.NativeEndian.PutUint16(h[vnetGSOSize:], o.GSOSize)
	binary.NativeEndian.PutUint16(h[vnetCsumStart:], o.CsumStart)
	binary.NativeEndian.PutUint16(h[vnetCsumOffset:], o.CsumOffset)
}

// segments is how many frames a wire would carry for a frame of so many bytes.
func segments(o frame.Offload, bytes int) int {
	if o.GSOType == frame.GSONone {
		return 1
	}
	return max(1, (bytes-int(o.HdrLen)+int(o.GSOSize)-1)/int(o.GSOSize))
}
