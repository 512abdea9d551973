package subnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Last is the highest address of a subnet: with IPv4 its broadcast address.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// UsualBits is the length that the subnet of an address mostly has.
func UsualBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 64
}

// List is addresses, or addresses with their subnets, in words for people.
func List[T fmt.Stringer](addresses []T) string {
	words := make([]string, len(addresses))
	for i, a := range addresses {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}

// Check says why no host or container can have an address with such a subnet; nil if
// one can.
func Check(p netip.Prefix) error {
	a := p.Addr()
	if !p.IsValid() {
		return errors.New("there is no address: give one with its subnet's length, such as 10.32.0.1/24")
	}
	if err := CheckAddr(a); err != nil {
		return err
	}
	switch room := a.BitLen() - p.Bits(); {
	case p.Bits() == 0:
		return fmt.Errorf("%s would be all networks at once: give its subnet's length, such as %s/%d", p, a, UsualBits(a))
	case room == 0:
		return fmt.Errorf("%s has nobody else in its subnet: give its subnet's length, such as %s/%d", p, a, UsualBits(a))
	case room == 1:
		return nil // two hosts and nothing else: RFC 3021, RFC 6164
	case a == p.Masked().Addr(): // with IPv6 that of its routers: RFC 4291, section 2.6.1
		return fmt.Errorf("%s is the address of the subnet itself, not of a host in it: did you mean %s/%d?", p, a.Next(), p.Bits())
	case a.Is4() && a == Last(p):
		return fmt.Errorf("%s is the broadcast address of its subnet: choose another, such as %s/%d", p, a.Prev(), p.Bits())
	}
	return nil
}

// CheckAddr says why no host or container can have an address, whatever its subnet;
// nil if one can.
func CheckAddr(a netip.Addr) error {
	const instead = "choose one of a private network, such as 10.32.0.1/24 or fd00:32::1/64"
	switch {
	case !a.IsValid():
		return errors.New("there is no address: give one such as 10.32.0.1")
	case a.Is4In6():
		return fmt.Errorf("%s is an IPv4 address written as IPv6: write %s", a, a.Unmap())
	case a.IsLinkLocalUnicast():
		return fmt.Errorf("%s is a link-local address, of use on one link only: %s", a, instead)
	case a.IsMulticast():
		return fmt.Errorf("%s is the address of a group, not of a host: %s", a, instead)
	case a.IsUnspecified(), a.IsLoopback(), a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240): // RFC 1122, section 3.2.1.3; RFC 1112, section 4
		return fmt.Errorf("%s cannot be the address of a container or host: %s", a, instead)
	}
	return nil
}

// CheckPair says why nobody can have two addresses together; nil if one can.
func CheckPair(p, q netip.Prefix) error {
	switch {
	case p == q:
		return fmt.Errorf("%s is there twice: name it once", p)
	case p.Addr() == q.Addr():
		return fmt.Errorf("%s is there twice, as %s and %s: take one away", p.Addr(), p, q)
	case p.Overlaps(q) && p.Bits() != q.Bits():
		return fmt.Errorf("%s and %s overlap, but are not of one subnet: give both the same prefix length, or take one away first", p, q)
	}
	return nil
}

// CheckAll is Check of each address, and CheckPair of any two.
func CheckAll(list []netip.Prefix) error {
	for i, p := range list {
		if err := Check(p); err != nil {
			return err
		}
		for _, q := range list[:i] {
			if err := CheckPair(q, p); err != nil {
				return err
			}
		}
	}
	return nil
}
