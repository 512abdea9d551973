// Package frame has the values that every other package of meshd passes
// around: Ethernet frames, packets, MAC addresses and peer names, and pure
// functions on them. It does no I/O and imports nothing of meshd.
package frame

// HeaderLen is the length in bytes of an Ethernet header without VLAN tags.
const HeaderLen = 14

// Offload is the metadata that comes with a super-frame: the fields of Linux's
// struct virtio_net_hdr. The zero value means an ordinary frame whose checksums
// are complete.
type Offload struct {
	Flags      uint8  // VIRTIO_NET_HDR_F_…
	GSOType    uint8  // VIRTIO_NET_HDR_GSO_…; 0: not a super-frame
	HdrLen     uint16 // bytes of headers before the payload that is cut
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16 // where the unfinished checksum's data begins
	CsumOffset uint16 // where it goes, counted from CsumStart
}

// Values of Offload.Flags and Offload.GSOType, Linux's VIRTIO_NET_HDR_F_… and
// VIRTIO_NET_HDR_GSO_….
const (
	// NeedsCsum: the transport checksum at CsumStart+CsumOffset covers the pseudo
	// header only and is to be completed over the bytes from CsumStart on.
	NeedsCsum = 1
	// DataValid: somebody below has checked the checksums.
	DataValid = 2

	GSONone  = 0
	GSOTCPv4 = 1
	GSOTCPv6 = 4
	GSOUDP   = 5    // UDP datagrams of one size over either IP version (USO)
	GSOECN   = 0x80 // flag beside GSOTCP…: the first segment has CWR
)

// Frame is one Ethernet frame, from its destination MAC on, without FCS.
type Frame struct {
	Data    []byte
	Offload Offload
}

// Packet is a frame with the peers it travels between: Src is where it entered
// the mesh, Dst where it leaves it (or, for a flooded frame, the next peer that
// puts it on its bridge).
type Packet struct {
	Src, Dst PeerName
	// Hops is how many more neighbours may pass the packet on; 0: nobody said, as
	// for frames from the port and from transports that do not carry it.
	Hops  uint8
	Frame Frame
}

// Handler takes a batch of packets. The batch and the bytes in it are borrowed:
// valid until the call returns. Callers may call it concurrently.
type Handler func(batch []Packet)
