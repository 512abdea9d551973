package config

import (
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"meshd/internal/frame"
	"meshd/internal/identity"
)

// kind is the type of a key's value in the file, on the command line and in the
// environment.
type kind int

const (
	text kind = iota
	number
	boolean
	list
	table // a list of sections, in a file only: []any of map[string]any
)

// key is one setting. Its value is a string, int, bool or []string outside of
// Config, whatever it is inside; that of a table is []any.
type key struct {
	name  string // as in the file, with a dot between section and key
	kind  kind
	usage string
	live  bool                                 // a reload applies it without a restart
	get   func(c *Config) any                  // string, int, bool or []string
	set   func(c *Config, v any) []*FieldError // v has the key's kind
}

// flag is the key's name on the command line, without dashes.
func (k key) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(k.name) }

// env is the key's name in the environment.
func (k key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

const envPrefix = "MESHD_"

// keys are all settings, in the order of the file.
var keys = []key{
	{"name", text, "peer name (xx:xx:xx:xx:xx:xx); empty: derived from the machine", false,
		func(c *Config) any { return nameText(c.Name) },
		func(c *Config, v any) []*FieldError { return setName(&c.Name, v.(string)) }},
	textKey("nickname", "name for people", false, func(c *Config) *string { return &c.Nickname }, checkNickname),
	textKey("listen", "[address]:port for control TCP and sleeve UDP, and transport tcp", false, func(c *Config) *string { return &c.Listen }, checkListen),
	textKey("bridge.name", "bridge to join", false, func(c *Config) *string { return &c.Bridge.Name }, checkDevice),
	numberKey("bridge.mtu", "MTU of the bridge in bytes; 0: chosen at start", false, func(c *Config) *int { return &c.Bridge.MTU }, checkMTU),
	boolKey("bridge.create", "make the bridge if there is none", false, func(c *Config) *bool { return &c.Bridge.Create }),
	textKey("tap.name", "name of our port on the bridge", false, func(c *Config) *string { return &c.TAP.Name }, checkDevice),
	switchKey("tap.offload", "super-frames on our port: auto, on or off", func(c *Config) *Switch { return &c.TAP.Offload }),
	textKey("udp.listen", "[address]:port for the transports punch and quic", false, func(c *Config) *string { return &c.UDP.Listen }, checkListen),
	switchKey("udp.offload", "runs of datagrams in one system call: auto, on or off", func(c *Config) *Switch { return &c.UDP.Offload }),
	listKey("quic.listen", "more [address]:port for QUIC, which has udp.listen too", false, func(c *Config) *[]string { return &c.QUIC.Listen }, checkListen),
	textKey("nat.listen", "[address]:port that answers STUN beside udp.listen; empty: none", false, func(c *Config) *string { return &c.NAT.Listen }, checkOptionalListen),
	listKey("nat.stun_servers", "STUN servers besides the peers, host[:port] each", false, func(c *Config) *[]string { return &c.NAT.STUNServers }, checkSTUNServer),
	listKey("nat.external", "address[:port] where others reach udp.listen", false, func(c *Config) *[]string { return &c.NAT.External }, checkExternal),
	switchKey("nat.port_mapping", "ask the gateway to forward udp.listen's port: auto, on or off", func(c *Config) *Switch { return &c.NAT.PortMapping }),
	listKey("peers", "peers to connect to, host[:port] or quic://host[:port] each", true, func(c *Config) *[]string { return &c.Peers }, checkPeer),
	textKey("password_file", "file with the mesh's password; a second line is accepted too", true, func(c *Config) *string { return &c.PasswordFile }, nil),
	numberKey("min_protocol", "lowest weave protocol to accept", true, func(c *Config) *int { return &c.MinProtocol }, checkProtocol),
	textKey("state_dir", "directory for what must survive a restart", false, func(c *Config) *string { return &c.StateDir }, checkAbsolute),
	{"trusted_subnets", list, "subnets to which sleeve is not encrypted", true,
		func(c *Config) any { return prefixTexts(c.TrustedSubnets) },
		func(c *Config, v any) []*FieldError { return setPrefixes(&c.TrustedSubnets, v.([]string)) }},
	{"trust.keys", list, "public keys of the peers that may connect; empty: all", true,
		func(c *Config) any { return keyTexts(c.Trust.Keys) },
		func(c *Config, v any) []*FieldError { return setKeys(&c.Trust.Keys, v.([]string)) }},
	boolKey("trust.stock", "beside trust.keys, let peers without a key in: stock routers", true, func(c *Config) *bool { return &c.Trust.Stock }),
	listKey("transports", "transports in order of preference", false, func(c *Config) *[]string { return &c.Transports }, nil),
	{"overrides", table, "transports of single peers", true,
		func(c *Config) any { return tables(c.Overrides) },
		func(c *Config, v any) []*FieldError { return setOverrides(&c.Overrides, v.([]any)) }},
	boolKey("discovery", "connect to peers that other peers know", true, func(c *Config) *bool { return &c.Discovery }),
	numberKey("connection_limit", "most connections; 0: no limit", true, func(c *Config) *int { return &c.ConnectionLimit }, checkLimit),
	boolKey("expose.route_between", "route between the subnets that this host is exposed to", true, func(c *Config) *bool { return &c.Expose.RouteBetween }),
	listKey("containers.sockets", "unix sockets of engines with Docker's API, PATH or NAME=PATH; empty: those of Docker and podman", false, func(c *Config) *[]string { return &c.Containers.Sockets }, checkEngine),
	textKey("containers.proc", "the /proc that has the containers' processes", false, func(c *Config) *string { return &c.Containers.Proc }, checkAbsolute),
	textKey("api.socket", "unix socket for commands", false, func(c *Config) *string { return &c.API.Socket }, checkSocket),
	textKey("api.http", "address:port of weave's HTTP API; empty: off", false, func(c *Config) *string { return &c.API.HTTP }, checkHTTP),
	{"log_level", text, "debug, info, warn or error", true,
		func(c *Config) any { return strings.ToLower(c.LogLevel.String()) },
		func(c *Config, v any) []*FieldError { return setLevel(&c.LogLevel, v.(string)) }},
}

// BindFlags defines a flag for every key: --bridge-name, --peers and so on. The
// values shown as defaults are those of Default.
func BindFlags(flags *pflag.FlagSet) {
	def := Default()
	for _, k := range keys {
		switch v := k.get(&def).(type) {
		case string:
			flags.String(k.flag(), v, k.usage)
		case int:
			flags.Int(k.flag(), v, k.usage)
		case bool:
			flags.Bool(k.flag(), v, k.usage)
		case []string:
			flags.StringSlice(k.flag(), v, k.usage)
		}
	}
}

func textKey(name, usage string, live bool, at func(*Config) *string, check func(string) *FieldError) key {
	return key{name, text, usage, live,
		func(c *Config) any { return *at(c) },
		func(c *Config, v any) []*FieldError {
			*at(c) = v.(string)
			return one(check, v.(string))
		}}
}

func numberKey(name, usage string, live bool, at func(*Config) *int, check func(int) *FieldError) key {
	return key{name, number, usage, live,
		func(c *Config) any { return *at(c) },
		func(c *Config, v any) []*FieldError {
			*at(c) = v.(int)
			return one(check, v.(int))
		}}
}

func boolKey(name, usage string, live bool, at func(*Config) *bool) key {
	return key{name, boolean, usage, live,
		func(c *Config) any { return *at(c) },
		func(c *Config, v any) []*FieldError {
			*at(c) = v.(bool)
			return nil
		}}
}

// switchKey is a setting of auto, on and off. None can change while the daemon
// runs.
func switchKey(name, usage string, at func(*Config) *Switch) key {
	return key{name, text, usage, false,
		func(c *Config) any { return string(*at(c)) },
		func(c *Config, v any) []*FieldError { return setSwitch(at(c), v.(string)) }}
}

func listKey(name, usage string, live bool, at func(*Config) *[]string, check func(string) *FieldError) key {
	return key{name, list, usage, live,
		func(c *Config) any { return *at(c) },
		func(c *Config, v any) []*FieldError {
			*at(c) = v.([]string)
			return each(v.([]string), func(s string) *FieldError {
				if check == nil {
					return nil
				}
				return check(s)
			})
		}}
}

// one runs a check that may be nil.
func one[T any](check func(T) *FieldError, v T) []*FieldError {
	if check == nil {
		return nil
	}
	if f := check(v); f != nil {
		return []*FieldError{f}
	}
	return nil
}

// each checks the items of a list; a fault's field is the item's index.
func each(items []string, check func(string) *FieldError) (faults []*FieldError) {
	for i, item := range items {
		if f := check(item); f != nil {
			f.Field = "[" + strconv.Itoa(i) + "]"
			faults = append(faults, f)
		}
	}
	return faults
}

func nameText(n frame.PeerName) string {
	if n == 0 {
		return ""
	}
	return n.String()
}

func setName(to *frame.PeerName, s string) []*FieldError {
	if s == "" {
		*to = 0
		return nil
	}
	name, err := frame.ParsePeerName(s)
	if err != nil {
		return []*FieldError{fault(s, "is not a peer name", "wanted xx:xx:xx:xx:xx:xx, not all zero; or leave it empty")}
	}
	*to = name
	return nil
}

func prefixTexts(prefixes []netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

func setPrefixes(to *[]netip.Prefix, items []string) []*FieldError {
	*to = nil
	return each(items, func(s string) *FieldError {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return fault(s, "is not a subnet", "wanted CIDR, such as 10.1.0.0/16")
		case p != p.Masked():
			return fault(s, "has bits beyond its prefix", "did you mean "+p.Masked().String()+"?")
		}
		*to = append(*to, p)
		return nil
	})
}

func keyTexts(list []identity.Key) []string {
	var out []string
	for _, k := range list {
		out = append(out, k.String())
	}
	return out
}

func setKeys(to *[]identity.Key, items []string) []*FieldError {
	*to = nil
	return each(items, func(s string) *FieldError {
		k, err := identity.ParseKey(s)
		if err != nil {
			return fault(s, "is "+err.Error(), "")
		}
		if slices.Contains(*to, k) {
			return fault(s, "is there twice", "")
		}
		*to = append(*to, k)
		return nil
	})
}

func setSwitch(to *Switch, s string) []*FieldError {
	switch v := Switch(strings.ToLower(s)); v {
	case Auto, On, Off:
		*to = v
		return nil
	}
	return []*FieldError{fault(s, "is not auto, on or off", "")}
}

func setLevel(to *slog.Level, s string) []*FieldError {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, ok := levels[strings.ToLower(s)]
	if !ok {
		return []*FieldError{fault(s, "is not a log level", "wanted debug, info, warn or error")}
	}
	*to = level
	return nil
}
