package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// ErrPeer says that text is not a peer's address.
var ErrPeer = errors.New("is not host[:port]")

const peerRemedy = "wanted host[:port], tcp://host[:port] or quic://host[:port]; IPv6 in brackets when with a port"

// The carriers that a peer's address can name.
const (
	CarrierTCP  = "tcp"
	CarrierQUIC = "quic"
)

// PeerAddress is where a peer may be reached.
type PeerAddress struct {
	Carrier string // CarrierTCP or CarrierQUIC; empty: whichever answers
	Host    string // an IP address or a host name, which is not resolved
	Port    uint16 // 0: none given. Without a carrier it is TCP's
}

// ParsePeer reads a peer's address: host[:port], tcp://host[:port] or
// quic://host[:port], where host is an IPv4 address, an IPv6 address (in brackets
// when with a port) or a host name.
func ParsePeer(s string) (PeerAddress, error) {
	carrier, rest, err := splitCarrier(s)
	if err != nil {
		return PeerAddress{}, err
	}
	host, port, err := parseHostPort(rest)
	if err != nil {
		return PeerAddress{}, err
	}
	return PeerAddress{Carrier: carrier, Host: host, Port: port}, nil
}

// String is the form that ParsePeer reads.
func (p PeerAddress) String() string {
	s := p.Host
	if p.Port != 0 {
		s = net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
	}
	if p.Carrier != "" {
		s = p.Carrier + "://" + s
	}
	return s
}

// splitCarrier takes the carrier from an address that names one.
func splitCarrier(s string) (carrier, rest string, err error) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return "", s, nil
	}
	carrier = strings.ToLower(scheme)
	switch {
	case carrier != CarrierTCP && carrier != CarrierQUIC:
		return "", "", fmt.Errorf("names no carrier: there is tcp:// and quic://, not %s", quoteShort(scheme+"://"))
	case strings.ContainsAny(rest, "/?#@"):
		return "", "", fmt.Errorf("has more than a host and a port after %s://", carrier)
	}
	return carrier, rest, nil
}

// parseHostPort reads host[:port]; port is 0 where none is given.
func parseHostPort(s string) (host string, port uint16, err error) {
	host, portText, err := splitPeer(s)
	if err != nil {
		return "", 0, err
	}
	if portText != "" {
		n, ok := parsePort(portText)
		if !ok {
			return "", 0, fmt.Errorf("has a bad port %s", quoteShort(portText))
		}
		port = n
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return "", 0, errors.New("is not the address of one host")
		}
		if strings.ContainsFunc(addr.Zone(), func(r rune) bool { return !isHostLetter(r) && r != '.' }) {
			return "", 0, ErrPeer
		}
		return addr.String(), port, nil
	}
	if !isHostName(host) {
		return "", 0, ErrPeer
	}
	return host, port, nil
}

func splitPeer(s string) (host, port string, err error) {
	switch {
	case strings.HasPrefix(s, "["):
		inside, after, ok := strings.Cut(s[1:], "]")
		addr, err := netip.ParseAddr(inside)
		if !ok || err != nil || !addr.Is6() {
			return "", "", ErrPeer
		}
		if after == "" {
			return inside, "", nil
		}
		if len(after) < 2 || after[0] != ':' {
			return "", "", ErrPeer
		}
		return inside, after[1:], nil
	case strings.Count(s, ":") > 1:
		// More than one colon without brackets: a bare IPv6 address or nothing.
		if !isIP(s) {
			return "", "", ErrPeer
		}
		return s, "", nil
	}
	host, port, found := strings.Cut(s, ":")
	if found && port == "" {
		return "", "", errors.New("has no port after its colon")
	}
	return host, port, nil
}

// isHostName checks the letters and lengths of RFC 1123, section 2.1, and lets
// underscores pass. Names whose last label is a number are botched addresses.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(l, func(r rune) bool { return !isHostLetter(r) }) {
			return false
		}
	}
	return strings.ContainsFunc(labels[len(labels)-1], func(r rune) bool { return r < '0' || r > '9' })
}

func isHostLetter(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
}

func checkPeer(s string) *FieldError {
	if _, err := ParsePeer(s); err != nil {
		return fault(s, err.Error(), peerRemedy)
	}
	return nil
}
