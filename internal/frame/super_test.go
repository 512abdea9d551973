package frame

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// recipe says how to make a TCP segment or a UDP datagram, of any size.
type recipe struct {
	v6      bool
	udp     bool
	tags    [][]byte
	ipOpts  []byte  // IPv4 options, a multiple of 4 bytes
	ext     []uint8 // types of the IPv6 extension headers
	tcpOpts []byte  // a multiple of 4 bytes
	frag    uint16  // IPv4 flags and offset
	id      uint16
	tos     uint8
	seq     uint32
	ack     uint32
	flags   uint8 // TCP
	ports   uint32
	payload []byte
}

// frame makes the frame with its checksums complete.
func (r recipe) frame() []byte {
	proto, t := uint8(protoTCP), r.tcp()
	if r.udp {
		proto, t = protoUDP, r.datagram()
	}
	sum := udpChecksum
	if !r.udp {
		sum = tcpChecksum
	}
	if r.v6 {
		chain := extensions(r.ext, proto)
		p, at := ipv6(proto, append(chain, t...)), ipv6HeaderLen+len(chain)
		if len(r.ext) > 0 {
			p[ipv6Next] = r.ext[0]
		}
		pseudo := PseudoSum(p[ipv6Src:ipv6HeaderLen], proto, len(t))
		binary.BigEndian.PutUint16(p[at+sum:], notZero(^Sum(pseudo, p[at:])))
		return ethernet(EtherTypeIPv6, p, r.tags...)
	}
	p := ipv4(r.frag, r.ipOpts, t)
	at := ipv4HeaderLen + len(r.ipOpts)
	p[ipv4Proto], p[ipv4TOS] = proto, r.tos
	binary.BigEndian.PutUint16(p[ipv4ID:], r.id)
	putIPv4Checksum(p[:at])
	pseudo := PseudoSum(p[ipv4Src:ipv4HeaderLen], proto, len(t))
	binary.BigEndian.PutUint16(p[at+sum:], notZero(^Sum(pseudo, p[at:])))
	return ethernet(EtherTypeIPv4, p, r.tags...)
}

func (r recipe) tcp() []byte {
	b := binary.BigEndian.AppendUint32(nil, r.ports)
	b = binary.BigEndian.AppendUint32(b, r.seq)
	b = binary.BigEndian.AppendUint32(b, r.ack)
	b = append(b, byte(tcpHeaderLen+len(r.tcpOpts))<<2, r.flags, 0x12, 0x34, 0, 0, 0, 0)
	return append(append(b, r.tcpOpts...), r.payload...)
}

func (r recipe) datagram() []byte {
	b := binary.BigEndian.AppendUint32(nil, r.ports)
	b = binary.BigEndian.AppendUint16(b, uint16(udpHeaderLen+len(r.payload)))
	return append(append(b, 0, 0), r.payload...)
}

// super makes a super-frame of segments of size bytes, with the partial
// checksum that Linux leaves.
func (r recipe) super(size int) Frame {
	f := r.partial()
	f.Offload.GSOSize = uint16(size)
	f.Offload.GSOType = r.gsoType()
	l, _ := findLayers(f.Data)
	f.Offload.HdrLen = uint16(l.payload)
	return f
}

// gsoType is the type of super-frames of this kind.
func (r recipe) gsoType() uint8 {
	switch {
	case r.udp:
		return GSOUDP
	case r.v6 && r.flags&tcpCWR != 0:
		return GSOTCPv6 | GSOECN
	case r.v6:
		return GSOTCPv6
	case r.flags&tcpCWR != 0:
		return GSOTCPv4 | GSOECN
	default:
		return GSOTCPv4
	}
}

// partial makes an ordinary frame with the checksum left unfinished.
func (r recipe) partial() Frame {
	b := r.frame()
	l, ok := findLayers(b)
	if !ok {
		panic("recipe is no good")
	}
	sum := PseudoSum(l.addrs(b), l.proto, l.end-l.l4)
	binary.BigEndian.PutUint16(b[l.l4+l.checksumOffset():], sum)
	return Frame{Data: b, Offload: l.partial()}
}

// randomRecipe draws all that Linux would offload, with a payload of up to max
// bytes.
func randomRecipe(rng *rand.Rand, max int) recipe {
	r := recipe{
		v6: rng.IntN(2) == 0, udp: rng.IntN(3) == 0, frag: uint16(rng.IntN(2)) * ipv4DF,
		id: uint16(rng.Uint32()), tos: uint8(rng.Uint32()), seq: rng.Uint32(), ack: rng.Uint32(),
		flags: tcpACK | uint8(rng.Uint32())&(tcpPSH|tcpFIN|tcpECE|tcpCWR), ports: rng.Uint32(),
		payload: make([]byte, 1+rng.IntN(max)),
	}
	for i := range r.payload {
		r.payload[i] = byte(rng.Uint32())
	}
	switch rng.IntN(4) {
	case 0:
		r.tags = [][]byte{tag(EtherTypeVLAN, 7)}
	case 1:
		r.tags = [][]byte{tag(EtherTypeQinQ, 8), tag(EtherTypeVLAN, 7)}
	}
	if n := rng.IntN(11); n > 0 && rng.IntN(2) == 0 {
		r.tcpOpts = append(bytes.Repeat([]byte{1}, 4*n-1), 0)
	}
	if rng.IntN(3) == 0 {
		// timestamps, RFC 7323
		r.tcpOpts = append([]byte{1, 1, 8, 10}, count(8)...)
	}
	if n := rng.IntN(11); n > 0 && rng.IntN(4) == 0 {
		r.ipOpts = bytes.Repeat([]byte{1}, 4*n)
	}
	if rng.IntN(4) == 0 {
		r.ext = [][]uint8{{extHopByHop}, {extDstOpts}, {extHopByHop, extDstOpts}, {extRouting, extDstOpts}}[rng.IntN(4)]
	}
	return r
}

// extensions makes a chain of extension headers, each 8 bytes longer than the one
// before, which are padding.
func extensions(types []uint8, upper uint8) (chain []byte) {
	for i := range types {
		next := upper
		if i+1 < len(types) {
			next = types[i+1]
		}
		chain = append(chain, next, byte(i), 1, byte(4+8*i))
		chain = append(chain, make([]byte, 4+8*i)...)
	}
	return chain
}

// recipeString tells in a test's message what a frame was.
func recipeString(r recipe, f Frame) string {
	return fmt.Sprintf("v6 %v udp %v, %d tags, %d+%d bytes of IP and TCP options, extensions %d, flags %#x, %d bytes, %+v",
		r.v6, r.udp, len(r.tags), len(r.ipOpts), len(r.tcpOpts), r.ext, r.flags, len(r.payload), f.Offload)
}
