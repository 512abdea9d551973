package frame

import (
	"bytes"
	"encoding/binary"
)

// JoinWhat says which super-frames a port takes, a set of bits.
type JoinWhat uint8

const (
	JoinTCPv4 JoinWhat = 1 << iota
	JoinTCPv6
	JoinUDP // over either IP version
)

// Limits of one batch and of one super-frame.
const (
	// maxFlows is how many super-frames are open at a time.
	maxFlows = 16
	// maxTCPPieces keeps a super-frame within one vectored write (UIO_MAXIOV is
	// 1024). 122 segments of 536 bytes fill one.
	maxTCPPieces = 128
	// maxUDPPieces is what Linux joins (UDP_GRO_CNT_MAX).
	maxUDPPieces = 64
	// maxJoinedIP is the length in bytes of the longest IP packet.
	maxJoinedIP = 65535
	// maxHead is the length of the longest headers of a super-frame: two tags, an
	// IP header without options or extensions, a TCP header full of options.
	maxHead = HeaderLen + maxTags*VLANTagLen + ipv6HeaderLen + 60
)

// Joined is one frame to write: Head, then Pieces. A frame that was not joined
// has all of its bytes in Head, no Pieces, and its own Offload.
type Joined struct {
	Head    []byte
	Pieces  [][]byte // payload of each segment
	Offload Offload
	Frames  int // frames that it was made of
	Bytes   int // of Head and Pieces
}

// Joiner joins segments back into super-frames, by the rules of Linux's GRO
// (tcp_gro_receive, udp_gro_receive_segment, inet_gro_receive):
//
//   - TCP of one flow with sequence numbers that follow one another; equal
//     acknowledgement, window, options and flags, of which FIN and PSH end a
//     super-frame, and URG, SYN, RST and CWR keep a segment out of any
//   - UDP datagrams of one flow, with a checksum, at most 64
//   - payloads of one length, but for the last, which may be shorter
//   - equal TTL, TOS and IPv4 flags; no options, extension headers or fragments;
//     identifications that count up, or DF, with which they mean nothing (RFC
//     6864, section 4)
//   - a packet of at most 65535 bytes
//
// A flow is what has equal MACs, tags, addresses, protocol and ports; the order
// of its frames is kept. Joining repairs nothing: what has a wrong checksum is
// passed on untouched. A segment whose checksum is unfinished is taken for
// authenticated by its transport; it is joined only with its like. Not for
// concurrent use.
type Joiner struct {
	can  JoinWhat
	open [maxFlows]opening
	used int // how many of open are
	old  int // which of open is given up next

	// Of one batch. Slot i of next belongs to frame i, and tells which frame is
	// joined to it.
	frames []Frame
	next   []int
	groups []group
	out    []Joined
	pieces [][]byte
	heads  [][maxHead]byte
}

// opening is a super-frame that may go on.
type opening struct {
	key   uint64 // of its flow
	group int
}

// group is what becomes one frame.
type group struct {
	first, last int // frames
	count       int

	// What follows is zero unless it may be joined.
	at      layers // of the first frame
	size    int    // payload bytes of the first frame
	payload int    // payload bytes of all frames
	seq     uint32 // sequence number that the next segment must have
	id      uint16 // the same of its IPv4 identification
	flags   uint8  // FIN and PSH of the last segment
	lone    bool   // it is not joined to any
	closed  bool   // nothing is joined to it
	checked bool   // the first frame's checksums are right
	pseudo  uint16 // sum of the pseudo header without length, once checked
}

// NewJoiner makes a joiner for a port that takes these super-frames.
func NewJoiner(can JoinWhat) *Joiner { return &Joiner{can: can} }

// Join joins what it can of a batch. frames is borrowed for as long as the
// result is used, which is valid until the next call. Frames that are
// super-frames already, or have unfinished checksums, are passed on as they are.
// It allocates only while it meets a larger batch than ever before.
func (j *Joiner) Join(frames []Frame) []Joined {
	j.frames = frames
	j.used, j.old = 0, 0
	j.next, j.groups = j.next[:0], j.groups[:0]
	for i := range frames {
		j.next = append(j.next, i)
		j.take(i)
	}
	return j.finish()
}

// take puts the i-th frame into a group.
func (j *Joiner) take(i int) {
	f := &j.frames[i]
	g := group{first: i, last: i, count: 1}
	if j.can == 0 || len(j.frames) == 1 {
		j.groups = append(j.groups, g)
		return
	}
	l, ok := findLayers(f.Data)
	if !ok {
		if mayBeFlow(f.Data, l.proto) {
			j.used = 0 // nobody knows of which flow
		}
		j.groups = append(j.groups, g)
		return
	}
	j.begin(&g, f, &l)
	key := flowKey(f.Data, &l)
	at := j.find(key, f.Data, &l)
	if at >= 0 {
		to := &j.groups[j.open[at].group]
		joined := j.join(to, &g)
		if !joined || to.closed {
			j.end(at)
		}
		if joined {
			return
		}
	}
	if !g.closed {
		j.start(key, len(j.groups))
	}
	j.groups = append(j.groups, g)
}

// begin fills in what a group of one frame needs to be joined, if it may be.
func (j *Joiner) begin(g *group, f *Frame, l *layers) {
	b := f.Data
	g.at = *l
	g.size = l.end - l.payload
	g.payload = g.size
	if g.lone = !j.takes(f, l); g.lone {
		g.closed = true
		return
	}
	if !l.v6 {
		g.id = binary.BigEndian.Uint16(b[l.l3+ipv4ID:]) + 1
	}
	if l.proto == protoTCP {
		g.seq = binary.BigEndian.Uint32(b[l.l4+tcpSeq:]) + uint32(g.size)
		g.flags = b[l.l4+tcpFlags] & (tcpFIN | tcpPSH)
		g.closed = g.flags != 0
	}
}

// takes reports whether a frame is one that may be joined to others.
func (j *Joiner) takes(f *Frame, l *layers) bool {
	o, t := f.Offload, f.Data[l.l4:l.end]
	hdr := ipv4HeaderLen
	if l.v6 {
		hdr = ipv6HeaderLen
	}
	switch {
	case o.GSOType != GSONone || o.Flags&^DataValid != 0 || j.can&l.join() == 0,
		l.l4-l.l3 != hdr || l.payload == l.end || l.end != len(f.Data):
		return false
	case l.proto == protoTCP:
		return t[tcpFlags]&(tcpSYN|tcpRST|tcpURG|tcpCWR) == 0
	default:
		sum := binary.BigEndian.Uint16(t[udpChecksum:])
		return sum != 0 && int(binary.BigEndian.Uint16(t[udpLen:])) == len(t)
	}
}

// join is the kind of super-frame that packets of these layers make.
func (l *layers) join() JoinWhat {
	switch {
	case l.proto == protoUDP:
		return JoinUDP
	case l.v6:
		return JoinTCPv6
	default:
		return JoinTCPv4
	}
}

// join joins the frame of g to those of to, which are of the same flow, if it
// may.
func (j *Joiner) join(to, g *group) bool {
	switch {
	case g.lone || !j.fits(to, g), !to.checked && !j.check(to):
		return false
	case !j.verify(g, to.pseudo):
		g.closed = true
		return false
	}
	j.next[to.last] = g.first
	to.last = g.first
	to.count++
	to.payload += g.size
	to.seq, to.id, to.flags = g.seq, g.id, g.flags
	to.closed = g.closed || g.size < to.size
	return true
}

// fits reports whether the frame of g, of the same flow, may follow those of to,
// checksums aside.
func (j *Joiner) fits(to, g *group) bool {
	a, b := j.frames[to.first].Data, j.frames[g.first].Data
	most := maxTCPPieces
	if g.at.proto == protoUDP {
		most = maxUDPPieces
	}
	switch {
	case to.at.payload != g.at.payload || g.size > to.size,
		to.count == most || g.at.payload-g.at.l3+to.payload+g.size > maxJoinedIP,
		!fitsIP(to, a[to.at.l3:], b[g.at.l3:]):
		return false
	case g.at.proto == protoUDP:
		return true
	default:
		return fitsTCP(to, a[to.at.l4:to.at.payload], b[g.at.l4:g.at.payload])
	}
}

// fitsIP compares the first frame's IP header a with that of the next, b.
func fitsIP(to *group, a, b []byte) bool {
	if to.at.v6 {
		return [4]byte(a) == [4]byte(b) && a[ipv6Hops] == b[ipv6Hops]
	}
	flags := binary.BigEndian.Uint16(a[ipv4Frag:])
	return a[ipv4TOS] == b[ipv4TOS] && a[ipv4TTL] == b[ipv4TTL] &&
		flags == binary.BigEndian.Uint16(b[ipv4Frag:]) &&
		(flags&ipv4DF != 0 || to.id == binary.BigEndian.Uint16(b[ipv4ID:]))
}

// fitsTCP compares the first segment's TCP header a with that of the next, b,
// which is as long.
func fitsTCP(to *group, a, b []byte) bool {
	const ends = tcpFIN | tcpPSH
	return binary.BigEndian.Uint32(b[tcpSeq:]) == to.seq &&
		[5]byte(a[tcpAck:]) == [5]byte(b[tcpAck:]) && // and the data offset
		a[tcpFlags]&^ends == b[tcpFlags]&^ends &&
		[2]byte(a[tcpWindow:]) == [2]byte(b[tcpWindow:]) &&
		bytes.Equal(a[tcpUrgent:], b[tcpUrgent:])
}

// check verifies the first frame of a group, when there is one to be joined to
// it, and remembers the sum of the pseudo header.
func (j *Joiner) check(g *group) bool {
	g.pseudo = PseudoSum(g.at.addrs(j.frames[g.first].Data), g.at.proto, 0)
	g.checked = j.verify(g, g.pseudo)
	return g.checked
}

// verify reports whether the checksums of the frame of g, which is still alone,
// are right. pseudo is the sum of the pseudo header without length.
func (j *Joiner) verify(g *group, pseudo uint16) bool {
	b, l := j.frames[g.first].Data, &g.at
	if !l.v6 && Checksum(b[l.l3:l.l4]) != 0 {
		return false
	}
	return Sum(add(pseudo, uint16(l.end-l.l4)), b[l.l4:l.end]) == 0xffff
}

// find returns the place in open of the flow that the frame b belongs to, or -1.
func (j *Joiner) find(key uint64, b []byte, l *layers) int {
	for o := range j.open[:j.used] {
		if j.open[o].key != key {
			continue
		}
		g := &j.groups[j.open[o].group]
		if sameFlow(j.frames[g.first].Data, b, &g.at, l) {
			return o
		}
	}
	return -1
}

// start opens a group that is about to be appended; the oldest one gives way.
func (j *Joiner) start(key uint64, group int) {
	at := j.used
	if at == maxFlows {
		at, j.old = j.old, (j.old+1)%maxFlows
	} else {
		j.used++
	}
	j.open[at] = opening{key, group}
}

// end closes the group at a place of open; -1 is none.
func (j *Joiner) end(o int) {
	if o >= 0 {
		j.used--
		j.open[o] = j.open[j.used]
	}
}

// flowKey is equal for frames of one flow, and seldom for others.
func flowKey(b []byte, l *layers) uint64 {
	addrs := l.addrs(b)
	src, dst := binary.BigEndian.Uint32(addrs[len(addrs)/2-4:]), binary.BigEndian.Uint32(addrs[len(addrs)-4:])
	return uint64(binary.BigEndian.Uint32(b[l.l4:]))<<32 | uint64(src^dst<<1^uint32(l.proto))
}

// sameFlow reports whether two frames are of one flow.
func sameFlow(a, b []byte, la, lb *layers) bool {
	return la.l3 == lb.l3 && la.v6 == lb.v6 && la.proto == lb.proto &&
		[4]byte(a[la.l4:]) == [4]byte(b[lb.l4:]) &&
		bytes.Equal(la.addrs(a), lb.addrs(b)) &&
		bytes.Equal(a[:la.l3], b[:lb.l3])
}

// mayBeFlow reports whether a frame without layers may even so be of a TCP or
// UDP flow: a fragment, or a packet whose header does not hold. proto is what
// findLayers found.
func mayBeFlow(b []byte, proto uint8) bool {
	typ, _ := EtherType(b)
	return (typ == EtherTypeIPv4 || typ == EtherTypeIPv6) && (proto == 0 || proto == protoTCP || proto == protoUDP)
}

// finish makes the result of all groups.
func (j *Joiner) finish() []Joined {
	j.out, j.pieces = j.out[:0], j.pieces[:0]
	// What is handed out must not move while more is added.
	j.pieces = grow(j.pieces, len(j.frames))
	j.heads = grow(j.heads[:0], len(j.frames)/2)
	for i := range j.groups {
		g := &j.groups[i]
		f := &j.frames[g.first]
		if g.count == 1 {
			j.out = append(j.out, Joined{Head: f.Data, Offload: f.Offload, Frames: 1, Bytes: len(f.Data)})
			continue
		}
		from := len(j.pieces)
		for n, i := g.count, g.first; n > 0; n, i = n-1, j.next[i] {
			j.pieces = append(j.pieces, j.frames[i].Data[g.at.payload:])
		}
		j.heads = j.heads[:len(j.heads)+1]
		j.out = append(j.out, Joined{
			Head:    g.head(j.heads[len(j.heads)-1][:0], f.Data),
			Pieces:  j.pieces[from:len(j.pieces):len(j.pieces)],
			Offload: g.offload(),
			Frames:  g.count,
			Bytes:   g.at.payload + g.payload,
		})
	}
	return j.out
}

// grow returns the empty s with room for n.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, 0, n)
	}
	return s
}

// head appends the headers of a joined super-frame to dst; b is its first frame.
func (g *group) head(dst, b []byte) []byte {
	l := &g.at
	dst = append(dst, b[:l.payload]...)
	length := l.payload - l.l4 + g.payload
	if l.v6 {
		binary.BigEndian.PutUint16(dst[l.l3+ipv6Len:], uint16(length))
	} else {
		binary.BigEndian.PutUint16(dst[l.l3+ipv4Len:], uint16(l.l4-l.l3+length))
		putIPv4Checksum(dst[l.l3:l.l4])
	}
	t := dst[l.l4:]
	if l.proto == protoTCP {
		t[tcpFlags] |= g.flags
	} else {
		binary.BigEndian.PutUint16(t[udpLen:], uint16(length))
	}
	binary.BigEndian.PutUint16(t[l.checksumOffset():], add(g.pseudo, uint16(length)))
	return dst
}

// offload is that of a joined super-frame.
func (g *group) offload() Offload {
	o := g.at.partial()
	o.HdrLen, o.GSOSize = uint16(g.at.payload), uint16(g.size)
	switch {
	case g.at.proto == protoUDP:
		o.GSOType = GSOUDP
	case g.at.v6:
		o.GSOType = GSOTCPv6
	default:
		o.GSOType = GSOTCPv4
	}
	return o
}
