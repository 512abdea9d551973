package publish

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Usage is the syntax that ParseSpec reads.
const Usage = "[HOSTIP:]PORT[/udp]:TARGET:PORT"

// nameMax is the longest name of a container, in bytes.
const nameMax = 255

// HostPort is where on this host something is published. It is comparable.
type HostPort struct {
	// IP is one address of this host, or the unspecified one of a family for all
	// of that family; the zero Addr means all addresses of both families.
	IP   netip.Addr
	Port uint16
	UDP  bool // else TCP
}

// Protocol returns "tcp" or "udp".
func (h HostPort) Protocol() string {
	if h.UDP {
		return "udp"
	}
	return "tcp"
}

// String returns h as ParseHostPort reads it: "80", "127.0.0.1:53/udp".
func (h HostPort) String() string {
	s := strconv.Itoa(int(h.Port))
	if h.IP.IsValid() {
		s = netip.AddrPortFrom(h.IP, h.Port).String()
	}
	if h.UDP {
		s += "/udp"
	}
	return s
}

// covers reports whether what is sent to a at the port arrives at h, if a is an
// address of this host.
func (h HostPort) covers(a netip.Addr) bool {
	switch {
	case !h.IP.IsValid():
		return true
	case h.IP.IsUnspecified():
		return h.IP.Is4() == a.Is4()
	}
	return h.IP.WithZone("") == a.WithZone("")
}

// Overlaps reports whether only one of h and o can be listened on.
func (h HostPort) Overlaps(o HostPort) bool {
	return h.Port == o.Port && h.UDP == o.UDP && (h.covers(o.IP) || o.covers(h.IP))
}

// Spec says what is published and where. It is comparable; ParseSpec makes it.
type Spec struct {
	HostPort
	// Target is the address or the name of the container with the service; the
	// name is for the caller to look up.
	Target     string
	TargetPort uint16
}

// TargetIP returns the target's address, and false where Target is a name.
func (s Spec) TargetIP() (netip.Addr, bool) {
	a, err := netip.ParseAddr(s.Target)
	return a, err == nil
}

// String returns s as ParseSpec reads it.
func (s Spec) String() string {
	target := s.Target
	if strings.Contains(target, ":") {
		target = "[" + target + "]"
	}
	return fmt.Sprintf("%s:%s:%d", s.HostPort, target, s.TargetPort)
}

// MarshalText returns String.
func (s Spec) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is ParseSpec.
func (s *Spec) UnmarshalText(text []byte) error {
	parsed, err := ParseSpec(string(text))
	if err == nil {
		*s = parsed
	}
	return err
}

// ParseSpec reads [HOSTIP:]PORT[/udp]:TARGET:PORT. IPv6 addresses stand in
// brackets, TARGET is an address or the name or id of a container:
//
//	80:192.168.99.10:80   53/udp:dns:53   [::1]:8080:httpd:80   8080:[fd00::1]:80
func ParseSpec(s string) (Spec, error) {
	spec, err := parseSpec(s)
	if err != nil {
		return Spec{}, fmt.Errorf("publish %s: %w", quote(s), err)
	}
	return spec, nil
}

func parseSpec(s string) (Spec, error) {
	fields, err := splitFields(s)
	if err != nil {
		return Spec{}, err
	}
	n := len(fields)
	switch {
	case n == 2 && isPort(fields[0]):
		return Spec{}, fmt.Errorf("the port of the target is missing: write %s:%s:PORT", fields[0], fields[1])
	case n < 3:
		return Spec{}, errors.New("the target is missing: write " + Usage + ", as in 80:httpd:80")
	case n > 4:
		return Spec{}, errors.New("too many colons: write " + Usage + ", an IPv6 address in brackets, as in 8080:[fd00::1]:80")
	}
	host, err := parseHostPort(fields[:n-2])
	if err != nil {
		return Spec{}, err
	}
	target, err := parseTarget(fields[n-2])
	if err != nil {
		return Spec{}, err
	}
	port, protocol, _ := strings.Cut(fields[n-1], "/")
	if protocol != "" {
		return Spec{}, fmt.Errorf("the protocol %s stands after this host's port: write %s/%s", quote(protocol), strings.Join(fields[:n-2], ":"), protocol)
	}
	targetPort, err := parsePort("the target's port", port)
	if err != nil {
		return Spec{}, err
	}
	return Spec{HostPort: host, Target: target, TargetPort: targetPort}, nil
}

// ParseHostPort reads [HOSTIP:]PORT[/udp], which is enough to say which published
// port is meant.
func ParseHostPort(s string) (HostPort, error) {
	fields, err := splitFields(s)
	if err == nil && len(fields) > 2 {
		err = errors.New("write [HOSTIP:]PORT[/udp], an IPv6 address in brackets, as in 80 or [::1]:53/udp")
	}
	var h HostPort
	if err == nil {
		h, err = parseHostPort(fields)
	}
	if err != nil {
		return HostPort{}, fmt.Errorf("published port %s: %w", quote(s), err)
	}
	return h, nil
}

// parseHostPort reads the one or two fields of HOSTIP and PORT.
func parseHostPort(fields []string) (h HostPort, err error) {
	port, protocol, given := strings.Cut(fields[len(fields)-1], "/")
	switch {
	case protocol == "udp":
		h.UDP = true
	case given && protocol != "tcp":
		return h, fmt.Errorf("the protocol %s is neither tcp nor udp: write PORT, PORT/tcp or PORT/udp", quote(protocol))
	}
	if h.Port, err = parsePort("this host's port", port); err != nil || len(fields) == 1 {
		return h, err
	}
	h.IP, err = parseHostIP(fields[0])
	return h, err
}

func parseHostIP(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(inBrackets(text))
	switch {
	case text == "":
		return a, errors.New("HOSTIP is empty: leave it out with its colon for all addresses of this host")
	case err != nil:
		return a, fmt.Errorf("HOSTIP %s is not an IP address: give one of this host's addresses, or leave it out for all", quote(text))
	case a.IsMulticast():
		return a, fmt.Errorf("HOSTIP %s is a multicast address: give one of this host's addresses, or leave it out for all", a)
	}
	return a.Unmap(), checkZone("HOSTIP", a)
}

func parseTarget(text string) (string, error) {
	if text == "" {
		return "", errors.New("TARGET is empty: give the address or the name of a container")
	}
	a, err := netip.ParseAddr(inBrackets(text))
	if err != nil {
		return text, checkName(text)
	}
	a = a.Unmap()
	if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return "", fmt.Errorf("TARGET %s is not the address of one machine: give the address or the name of a container", a)
	}
	return a.String(), checkZone("TARGET", a)
}

// checkName says what is wrong with the name of a container.
func checkName(name string) error {
	other := func(r rune) bool { return !isAlnum(r) && !strings.ContainsRune("_.-", r) }
	switch {
	case strings.HasPrefix(name, "["):
		return fmt.Errorf("TARGET %s is not an IPv6 address: only such an address stands in brackets", quote(name))
	case strings.Contains(name, ".") && strings.Trim(name, "0123456789.") == "":
		return fmt.Errorf("TARGET %s is not an IPv4 address: write four numbers up to 255", quote(name))
	case len(name) > nameMax:
		return fmt.Errorf("TARGET %s is longer than the %d letters that a container's name may have", quote(name), nameMax)
	case strings.ContainsFunc(name, other) || !isAlnum(rune(name[0])):
		return fmt.Errorf("TARGET %s is neither an address nor the name of a container: "+
			"a name has letters, digits, _ . and -, and begins with a letter or digit", quote(name))
	}
	return nil
}

func isAlnum(r rune) bool {
	return '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
}

// checkZone refuses a zone that cannot be the name of an interface.
func checkZone(part string, a netip.Addr) error {
	const nameMax = 15 // IFNAMSIZ - 1
	bad := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:[]", r) }
	if z := a.Zone(); len(z) > nameMax || strings.ContainsFunc(z, bad) {
		return fmt.Errorf("%s has the zone %s, which no interface can be called: write it as in [fe80::1%%eth0]", part, quote(z))
	}
	return nil
}

func parsePort(part, text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case text == "":
		return 0, fmt.Errorf("%s is missing: write %s", part, Usage)
	case err != nil && strings.Contains(text, "-"):
		return 0, fmt.Errorf("%s is %s: publish the ports of a range one by one", part, quote(text))
	case err != nil || n == 0:
		return 0, fmt.Errorf("%s is %s: give a number from 1 to 65535", part, quote(text))
	}
	return uint16(n), nil
}

func isPort(text string) bool {
	port, _, _ := strings.Cut(text, "/")
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil
}

// splitFields cuts s at the colons that are not in brackets.
func splitFields(s string) ([]string, error) {
	var fields []string
	for rest := s; ; {
		end := strings.IndexByte(rest, ':')
		if strings.HasPrefix(rest, "[") {
			end = strings.IndexByte(rest, ']') + 1
			if end == 0 {
				return nil, fmt.Errorf("the bracket of %s is not closed: write an IPv6 address as in [fd00::1]", quote(rest))
			}
			if end == len(rest) {
				end = -1
			} else if rest[end] != ':' {
				return nil, fmt.Errorf("after %s comes %s: put a colon between them", quote(rest[:end]), quote(rest[end:]))
			}
		}
		if end < 0 {
			return append(fields, rest), nil
		}
		fields, rest = append(fields, rest[:end]), rest[end+1:]
	}
}

// inBrackets returns what stands in the brackets, or all where there are none.
func inBrackets(text string) string {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		return strings.TrimSuffix(inner, "]")
	}
	return text
}

// quote makes any text fit to be shown in a message.
func quote(text string) string {
	const enough = 80
	if len(text) > enough {
		return strconv.QuoteToASCII(text[:enough]) + "..."
	}
	return strconv.QuoteToASCII(text)
}
