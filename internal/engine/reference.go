package engine

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// maxKey is how long a name or id may be, in bytes.
const maxKey = 255

// maxPID is the largest number of a process: PID_MAX_LIMIT of the kernel.
const maxPID = 1 << 22

// reference is what a user calls a container, taken apart. One of key, pid and path is
// set.
type reference struct {
	engine string // only this one; empty: all
	key    string // a name, an id, or the begin of an id
	pid    int
	birth  string // which process with that number; empty: the one that has it now
	path   string // of a namespace
	name   string // of a namespace in /run/netns
	bare   bool   // pid may be meant for a container that is called so
}

// parse takes apart what a user typed. Its errors are ErrBadName.
//
//	web, /web, 0123456789ab     a container, of any engine
//	docker:web                  of that engine
//	1234, pid:1234              a process
//	pid:1234@BIRTH              that very process
//	netns:foo                   /run/netns/foo
//	/run/netns/foo, netns:/foo  a path
func parse(what string) (reference, error) {
	if prefix, rest, ok := strings.Cut(what, ":"); ok && !strings.HasPrefix(what, "/") {
		switch prefix {
		case "pid":
			return parsePID(what, rest)
		case "netns":
			return parseNetNS(what, rest)
		}
	}
	if strings.HasPrefix(what, "/") && strings.Contains(what[1:], "/") {
		return parsePath(what)
	}
	engine, key, ok := cutLast(what, ":")
	if !ok {
		engine, key = "", what
	} else if !isEngine(engine) {
		return reference{}, badName(what, "before the colon has to be an engine, such as docker: or podman:, or pid: or netns:")
	}
	key = strings.TrimPrefix(key, "/")
	switch {
	case key == "":
		return reference{}, badName(what, "name the container, by its name or id, or a process (pid:1234) or a network namespace (netns:NAME, or a path)")
	case len(key) > maxKey:
		return reference{}, badName(what, fmt.Sprintf("it is longer than %d characters: name the container by its id", maxKey))
	case !isKey(key):
		return reference{}, badName(what, "names and ids begin with a letter or digit, and have letters, digits and _.- only")
	}
	r := reference{engine: engine, key: key}
	if pid, ok := pidOf(key); ok && engine == "" && !strings.HasPrefix(what, "/") {
		r.pid, r.bare = pid, true
	}
	return r, nil
}

func parsePID(what, number string) (reference, error) {
	number, birth, _ := strings.Cut(number, "@")
	pid, ok := pidOf(number)
	if !ok || birth != "" && !isKey(birth) {
		return reference{}, badName(what, fmt.Sprintf("after pid: has to be the number of a process, from 1 to %d", maxPID))
	}
	return reference{pid: pid, birth: birth}, nil
}

func parseNetNS(what, name string) (reference, error) {
	if strings.HasPrefix(name, "/") {
		return parsePath(name)
	}
	// iproute2 takes any name that is no path.
	if name == "" || name == "." || name == ".." || len(name) > maxKey || strings.Contains(name, "/") || !printable(name) {
		return reference{}, badName(what, "after netns: has to be a name that `ip netns` lists, or a path")
	}
	return reference{path: "/run/netns/" + name, name: name}, nil
}

func parsePath(path string) (reference, error) {
	if len(path) > 4095 || !printable(path) {
		return reference{}, badName(path, "it is too long for the path of a network namespace, or has control characters")
	}
	path = filepath.Clean(path)
	// The namespace of a process is known by the process: the path means another one
	// once the number is given to the next.
	if number, ok := strings.CutPrefix(path, "/proc/"); ok {
		if number, ok = strings.CutSuffix(number, "/ns/net"); ok {
			if pid, ok := pidOf(number); ok {
				return reference{pid: pid}, nil
			}
		}
	}
	return reference{path: path}, nil
}

// pidOf reads the number of a process.
func pidOf(s string) (int, bool) {
	if s == "" || len(s) > 7 || s[0] == '0' || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	pid, err := strconv.Atoi(s)
	return pid, err == nil && pid <= maxPID
}

// isKey reports whether s can be a container's name or id: what Docker, podman and
// containerd allow, [a-zA-Z0-9][a-zA-Z0-9_.-]*. Such a string is safe in a path, in a
// URL and on a terminal.
func isKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return s != "" && len(s) <= maxKey
}

// isEngine reports whether s can be the name of an engine: docker, containerd/k8s.io,
// docker@/run/other.sock.
func isEngine(s string) bool {
	kind, namespace, place := splitEngine(s)
	return isKey(kind) && (namespace == "" || isKey(namespace)) &&
		(place == "" || strings.HasPrefix(place, "/") && len(place) < 4096 && printable(place))
}

// splitEngine takes an engine's name apart: KIND[/NAMESPACE][@PLACE].
func splitEngine(s string) (kind, namespace, place string) {
	kind, place, _ = strings.Cut(s, "@")
	kind, namespace, _ = strings.Cut(kind, "/")
	return kind, namespace, place
}

// Fits reports whether an engine of that name is meant by what was written before the
// colon: docker: is docker@/run/other.sock too, and containerd: all of its namespaces.
func Fits(prefix, engine string) bool {
	if prefix == "" {
		return true
	}
	kind, namespace, place := splitEngine(prefix)
	k, n, p := splitEngine(engine)
	return kind == k && (namespace == "" || namespace == n) && (place == "" || place == p)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// quote shows what a user typed: short, and harmless on a terminal.
func quote(s string) string {
	if len(s) > 64 {
		return strconv.QuoteToASCII(s[:61]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
