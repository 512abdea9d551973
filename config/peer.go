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

const peerRemedy = "wanted host[:port]; IPv6 in brackets when with a port"

// ParsePeer reads a peer's address: host[:port], where host is an IPv4 address,
// an IPv6 address (in brackets when with a port) or a host name. port is 0 where
// none is given. Host names are not resolved.
func ParsePeer(s string) (host string, port uint16, err error) {
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

// JoinPeer is the address of a peer with its port in the form ParsePeer reads.
func JoinPeer(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
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
	if _, _, err := ParsePeer(s); err != nil {
		return fault(s, err.Error(), peerRemedy)
	}
	return nil
}
