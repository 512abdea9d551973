package config

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"meshd/internal/engine"
)

// MinMTU and MaxMTU bound bridge.mtu, in bytes. Every IPv4 host takes 576 (RFC
// 791, section 3.1); the kernel's TAP devices end at 65521.
const (
	MinMTU = 576
	MaxMTU = 65521
)

// MaxNickname is the longest nickname in bytes.
const MaxNickname = 255

func checkNickname(s string) *FieldError {
	switch {
	case len(s) > MaxNickname:
		return fault(s, fmt.Sprintf("is longer than %d bytes", MaxNickname), "")
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fault(s, "has characters that cannot be printed", "")
	case strings.TrimSpace(s) == "":
		return fault(s, "is blank", "leave the key out to use the host name")
	}
	return nil
}

func checkListen(s string) *FieldError {
	const remedy = `wanted [address]:port, such as ":6783" or "[fd00::1]:6783"`
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fault(s, "is not an address to listen on", remedy)
	}
	if host != "" && !isIP(host) {
		return fault(s, "has no IP address before its port", remedy)
	}
	return checkPort(s, port)
}

func checkHTTP(s string) *FieldError {
	if s == "" {
		return nil
	}
	const remedy = `wanted address:port, such as "127.0.0.1:6784"; or empty`
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fault(s, "is not an address to listen on", remedy)
	}
	if host != "" && host != "localhost" && !isIP(host) {
		return fault(s, "has no IP address before its port", remedy)
	}
	return checkPort(s, port)
}

// checkPort checks the port of value.
func checkPort(value, port string) *FieldError {
	if _, ok := parsePort(port); !ok {
		return fault(value, fmt.Sprintf("has a bad port %s", quoteShort(port)), "wanted 1 to 65535")
	}
	return nil
}

// portOf is the port of an address that was checked.
func portOf(listen string) uint16 {
	_, port, _ := net.SplitHostPort(listen)
	n, _ := parsePort(port)
	return n
}

// parsePort reads a decimal port; names and 0 are refused.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && s[0] != '+'
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// checkDevice checks a network device's name as the kernel does, and refuses the
// names that mean something else below /proc/sys/net.
func checkDevice(s string) *FieldError {
	const longest = 15 // IFNAMSIZ less the zero
	switch {
	case s == "":
		return fault("", "is empty", "wanted the name of a network device")
	case len(s) > longest:
		return fault(s, fmt.Sprintf("is longer than %d bytes", longest), "that is the kernel's limit for names of network devices")
	case slices.Contains([]string{".", "..", "all", "default"}, s),
		strings.ContainsFunc(s, func(r rune) bool { return r == '/' || r == ':' || r == '%' || r <= ' ' || r > '~' }):
		return fault(s, "is not a name for a network device", "")
	}
	return nil
}

func checkMTU(n int) *FieldError {
	if n != 0 && (n < MinMTU || n > MaxMTU) {
		return fault(strconv.Itoa(n), fmt.Sprintf("is not from %d to %d", MinMTU, MaxMTU), "0 has it chosen at start")
	}
	return nil
}

func checkProtocol(n int) *FieldError {
	if n != 1 && n != 2 {
		return fault(strconv.Itoa(n), "is not a protocol that meshd speaks", "wanted 1 or 2")
	}
	return nil
}

func checkLimit(n int) *FieldError {
	if n < 0 {
		return fault(strconv.Itoa(n), "is negative", "0 means no limit")
	}
	return nil
}

func checkAbsolute(s string) *FieldError {
	if !filepath.IsAbs(s) {
		return fault(s, "is not an absolute path", "")
	}
	return nil
}

func checkEngine(s string) *FieldError {
	if _, _, err := engine.ParseSocket(s); err != nil {
		return fault(s, err.Error(), "wanted an absolute path, such as /run/docker.sock, or prod=/run/docker.sock for an engine to be called prod")
	}
	return nil
}

func checkSocket(s string) *FieldError {
	const longest = 107 // sun_path less the zero
	if len(s) > longest {
		return fault(s, fmt.Sprintf("is longer than %d bytes", longest), "that is the kernel's limit for unix sockets")
	}
	return checkAbsolute(s)
}

// checkTransports checks the names against those that exist; none: any will do.
func checkTransports(names, exist []string) []*FieldError {
	if len(names) == 0 {
		return []*FieldError{fault("", "is empty", "wanted at least one transport")}
	}
	seen := map[string]bool{}
	return each(names, func(s string) *FieldError {
		if seen[s] {
			return fault(s, "is there twice", "")
		}
		seen[s] = true
		if len(exist) == 0 || slices.Contains(exist, s) {
			return nil
		}
		remedy := "there are: " + strings.Join(exist, ", ")
		if near := nearest(s, exist); near != "" {
			remedy = fmt.Sprintf("did you mean %q?", near)
		}
		return fault(s, "is not a transport", remedy)
	})
}
