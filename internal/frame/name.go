package frame

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
)

// MAC is an Ethernet address.
type MAC [6]byte

// String returns the MAC as xx:xx:xx:xx:xx:xx in lower case.
func (m MAC) String() string { return colonHex(m) }

// MarshalText gives what String does; it makes addresses readable in logs.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Multicast reports whether the group bit is set; broadcast counts.
func (m MAC) Multicast() bool { return m[0]&1 != 0 }

// ParseMAC reads xx:xx:xx:xx:xx:xx.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return MAC{}, fmt.Errorf("%q is not a MAC address (xx:xx:xx:xx:xx:xx)", s)
	}
	return MAC(hw), nil
}

// PeerName is a peer's name: its 6 bytes in the low 48 bits, so that names are
// ordered as the weave protocol orders them (section 1.7). Zero means no peer.
type PeerName uint64

// PeerNameLen is the length of a peer name on the wire in bytes.
const PeerNameLen = 6

// maxPeerName is the highest value that 6 bytes hold.
const maxPeerName = PeerName(1)<<48 - 1

// ErrPeerName says that bytes or a number are not a peer name.
var ErrPeerName = errors.New("not a peer name")

// PeerNameOf reads a name from the first 6 bytes of b, which must be there.
func PeerNameOf(b []byte) PeerName {
	_ = b[5]
	return PeerName(b[0])<<40 | PeerName(b[1])<<32 | PeerName(b[2])<<24 |
		PeerName(b[3])<<16 | PeerName(b[4])<<8 | PeerName(b[5])
}

// Put writes the 6 bytes of the name to the start of b, which must have room.
func (n PeerName) Put(b []byte) {
	_ = b[5]
	b[0], b[1], b[2] = byte(n>>40), byte(n>>32), byte(n>>24)
	b[3], b[4], b[5] = byte(n>>16), byte(n>>8), byte(n)
}

// Valid reports whether n is a name that a peer may have: 48 bits, not zero.
func (n PeerName) Valid() bool { return n != 0 && n <= maxPeerName }

// String returns the name in its MAC form, always in full.
func (n PeerName) String() string {
	var m MAC
	n.Put(m[:])
	return colonHex(m)
}

// ParsePeerName reads the MAC form; "::" stands for a run of zero bytes, as
// stock routers accept it. The zero name is an error.
func ParsePeerName(s string) (PeerName, error) {
	bytes, err := parseGroups(s)
	if err != nil {
		return 0, fmt.Errorf("%w: %q (wanted xx:xx:xx:xx:xx:xx, not all zero)", ErrPeerName, s)
	}
	n := PeerNameOf(bytes[:])
	if n == 0 {
		return 0, fmt.Errorf("%w: %q is reserved for no peer", ErrPeerName, s)
	}
	return n, nil
}

// MarshalText gives the MAC form; it makes names readable in JSON.
func (n PeerName) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what MarshalText gave; the zero name is accepted here.
func (n *PeerName) UnmarshalText(b []byte) error {
	bytes, err := parseGroups(string(b))
	if err != nil {
		return fmt.Errorf("%w: %q", ErrPeerName, b)
	}
	*n = PeerNameOf(bytes[:])
	return nil
}

func parseGroups(s string) (out [6]byte, err error) {
	head, tail, short := strings.Cut(s, "::")
	if !short {
		if strings.Count(s, ":") != 5 {
			return out, ErrPeerName
		}
		return out, groups(s, out[:], false)
	}
	if strings.Contains(tail, "::") || strings.Count(head, ":")+strings.Count(tail, ":") > 3 {
		return out, ErrPeerName
	}
	if head != "" {
		if err := groups(head, out[:], false); err != nil {
			return out, err
		}
	}
	if tail != "" {
		return out, groups(tail, out[:], true)
	}
	return out, nil
}

// groups writes the colon separated bytes of s to the start or the end of out.
func groups(s string, out []byte, atEnd bool) error {
	parts := strings.Split(s, ":")
	if len(parts) > len(out) {
		return ErrPeerName
	}
	at := 0
	if atEnd {
		at = len(out) - len(parts)
	}
	for i, p := range parts {
		if len(p) == 1 {
			p = "0" + p
		}
		if len(p) != 2 {
			return ErrPeerName
		}
		if _, err := hex.Decode(out[at+i:at+i+1], []byte(p)); err != nil {
			return ErrPeerName
		}
	}
	return nil
}

func colonHex(m [6]byte) string {
	const digits = "0123456789abcdef"
	var b [17]byte
	for i, x := range m {
		if i > 0 {
			b[i*3-1] = ':'
		}
		b[i*3], b[i*3+1] = digits[x>>4], digits[x&15]
	}
	return string(b[:])
}
