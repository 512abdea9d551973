package frame

import "encoding/binary"

// Cutter cuts super-frames into the frames that Linux would make of them
// (tcp_gso_segment, __udp_gso_segment, inet_gso_segment): each has the headers
// of the whole with its own lengths, and
//
//   - TCP: its own sequence number; FIN and PSH on the last one only, CWR on the
//     first one only
//   - IPv4: an identification that counts up from that of the whole
//   - complete checksums
//
// An ordinary frame is one segment. The zero value is ready for Begin, and may
// be used for one frame after the other. Not for concurrent use.
type Cutter struct {
	frame    Frame
	at       layers
	segments int
	done     int // how many segments Next has returned
	size     int // payload bytes of each segment but the last

	cut    bool   // the frame is cut: segments > 1
	sumOff bool   // UDP without a checksum
	pseudo uint16 // sum of the pseudo header without length
	l3Sum  uint16 // sum of what is equal in all segments' IPv4 headers
	l4Sum  uint16 // the same of TCP or UDP
}

// Begin takes the frame to cut; it is borrowed until Next has returned false or
// the next Begin. The error is ErrOffload where the frame's Offload does not
// fit its bytes (see CheckOffload); it then has no segments.
func (c *Cutter) Begin(f Frame) error {
	*c = Cutter{}
	l, err := checkOffload(f)
	if err != nil {
		return err
	}
	c.frame, c.segments, c.at = f, 1, l
	if f.Offload.GSOType == GSONone {
		return nil
	}
	payload := l.end - l.payload
	c.size = int(f.Offload.GSOSize)
	if payload <= c.size { // Linux takes it for an ordinary frame as well
		return nil
	}
	c.cut = true
	c.segments = (payload + c.size - 1) / c.size
	c.sumHeaders()
	return nil
}

// Segments returns how many segments the frame has in all.
func (c *Cutter) Segments() int { return c.segments }

// SegmentLen returns the length in bytes of every segment but the last, which
// may be shorter; of an ordinary frame its length.
func (c *Cutter) SegmentLen() int {
	if !c.cut {
		return len(c.frame.Data)
	}
	return c.at.payload + c.size
}

// Next appends the next segment to dst, which grows where it has no room. ok is
// false when there is none any more; dst is then unchanged.
func (c *Cutter) Next(dst []byte) (seg []byte, ok bool) {
	if c.done == c.segments {
		return dst, false
	}
	i := c.done
	c.done++
	if !c.cut {
		return c.appendWhole(dst), true
	}
	from := c.at.payload + i*c.size
	to := min(from+c.size, c.at.end)
	base := len(dst)
	dst = append(dst, c.frame.Data[:c.at.payload]...)
	dst = append(dst, c.frame.Data[from:to]...)
	seg = dst[base:]
	c.putIP(seg, i)
	if c.at.proto == protoTCP {
		c.putTCP(seg, i)
	} else {
		c.putUDP(seg)
	}
	return dst, true
}

// appendWhole appends a frame that is not cut, with its checksum completed if
// need be.
func (c *Cutter) appendWhole(dst []byte) []byte {
	base := len(dst)
	dst = append(dst, c.frame.Data...)
	o := c.frame.Offload
	if o.Flags&NeedsCsum == 0 {
		return dst
	}
	t := dst[base+int(o.CsumStart):]
	binary.BigEndian.PutUint16(t[o.CsumOffset:], notZero(Checksum(t)))
	return dst
}

// notZero writes the zero of one's complement as 0xffff: in UDP 0 means that
// there is no checksum (RFC 768), and for other protocols both are the same.
func notZero(sum uint16) uint16 {
	if sum == 0 {
		return 0xffff
	}
	return sum
}

// sumHeaders sums what all segments have in common, once.
func (c *Cutter) sumHeaders() {
	b, l := c.frame.Data, &c.at
	if !l.v6 {
		ip := b[l.l3:l.l4]
		c.l3Sum = Sum(Sum(Sum(0, ip[:ipv4Len]), ip[ipv4Frag:ipv4Checksum]), ip[ipv4Src:])
	}
	t := b[l.l4:l.payload]
	if l.proto == protoTCP {
		c.l4Sum = Sum(Sum(Sum(Sum(0, t[:tcpSeq]), t[tcpAck:tcpOff]), t[tcpWindow:tcpChecksum]), t[tcpUrgent:])
	} else {
		c.l4Sum = Sum(0, t[:udpLen])
	}
	// The sum that the kernel left contains the length of the whole. It is used
	// rather than made anew: behind a routing header it has an address that is not
	// in the IP header.
	switch field := binary.BigEndian.Uint16(t[l.checksumOffset():]); {
	case c.frame.Offload.Flags&NeedsCsum != 0:
		c.pseudo = add(field, ^uint16(l.end-l.l4))
	case l.proto == protoUDP:
		c.sumOff = true
	default:
		c.pseudo = PseudoSum(l.addrs(b), l.proto, 0)
	}
}

// putIP writes what is the i-th segment's own into its IP header.
func (c *Cutter) putIP(seg []byte, i int) {
	p := seg[c.at.l3:]
	if c.at.v6 {
		binary.BigEndian.PutUint16(p[ipv6Len:], uint16(len(p)-ipv6HeaderLen))
		return
	}
	length, id := uint16(len(p)), binary.BigEndian.Uint16(p[ipv4ID:])+uint16(i)
	binary.BigEndian.PutUint16(p[ipv4Len:], length)
	binary.BigEndian.PutUint16(p[ipv4ID:], id)
	binary.BigEndian.PutUint16(p[ipv4Checksum:], ^add(add(c.l3Sum, length), id))
}

// putTCP writes what is the i-th segment's own into its TCP header.
func (c *Cutter) putTCP(seg []byte, i int) {
	t := seg[c.at.l4:]
	if i > 0 {
		t[tcpFlags] &^= tcpCWR
		binary.BigEndian.PutUint32(t[tcpSeq:], binary.BigEndian.Uint32(t[tcpSeq:])+uint32(i*c.size))
	}
	if i < c.segments-1 {
		t[tcpFlags] &^= tcpFIN | tcpPSH
	}
	sum := add(add(c.pseudo, uint16(len(t))), c.l4Sum)
	sum = add(sum, binary.BigEndian.Uint16(t[tcpSeq:]))
	sum = add(sum, binary.BigEndian.Uint16(t[tcpSeq+2:]))
	sum = add(sum, binary.BigEndian.Uint16(t[tcpOff:]))
	binary.BigEndian.PutUint16(t[tcpChecksum:], ^Sum(sum, seg[c.at.payload:]))
}

// putUDP writes a segment's own length and checksum into its UDP header.
func (c *Cutter) putUDP(seg []byte) {
	t := seg[c.at.l4:]
	length := uint16(len(t))
	binary.BigEndian.PutUint16(t[udpLen:], length)
	if c.sumOff {
		return
	}
	sum := add(add(add(c.pseudo, length), c.l4Sum), length)
	binary.BigEndian.PutUint16(t[udpChecksum:], notZero(^Sum(sum, t[udpHeaderLen:])))
}
