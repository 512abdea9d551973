package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// DefaultSTUNPort is the port of a STUN server where none is given, RFC 8489 section 8.6.2.
const DefaultSTUNPort = 3478

// ParseExternal reads an item of NAT.External: address[:port]. Without a port it is
// the one given.
func ParseExternal(s string, port uint16) (netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(ip.Unmap(), port), nil
	}
	a, err := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), err
}

func checkExternal(s string) *FieldError {
	const remedy = `wanted address[:port], such as "203.0.113.7" or "[2001:db8::1]:6785"`
	a, err := ParseExternal(s, 1)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		return fault(s, "is not an address that others reach us at", remedy)
	}
	if ip := a.Addr(); !ip.IsGlobalUnicast() {
		return fault(s, "is not the address of one host on a network", remedy)
	}
	return nil
}

// ParseSTUNServer reads an item of NAT.STUNServers.
func ParseSTUNServer(s string) (host string, port uint16, fault *FieldError) {
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return ip.String(), DefaultSTUNPort, nil
	}
	host, digits := s, strconv.Itoa(DefaultSTUNPort)
	if strings.Contains(s, ":") {
		var err error
		if host, digits, err = net.SplitHostPort(s); err != nil {
			return "", 0, checkSTUNForm(s)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if host == "" || strings.ContainsAny(host, " /@") || err != nil || n == 0 {
		return "", 0, checkSTUNForm(s)
	}
	return host, uint16(n), nil
}

func checkSTUNForm(s string) *FieldError {
	return fault(s, "is not a STUN server", `wanted host[:port], such as "stun.example.org" or "203.0.113.7:3478"`)
}

func checkSTUNServer(s string) *FieldError {
	_, _, fault := ParseSTUNServer(s)
	return fault
}

func checkOptionalListen(s string) *FieldError {
	if s == "" {
		return nil
	}
	return checkListen(s)
}
