package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// full has every key of a configuration, none with its default.
const full = `
name: 02:00:00:00:00:01
nickname: weave01
listen: "[::1]:7783"
bridge: {name: mesh, mtu: 1400, create: false}
tap: {name: tap7, offload: off}
udp: {listen: "[::1]:7785", offload: on}
quic: {listen: [":443", "[::1]:8443"]}
nat: {listen: "[::1]:7786", stun_servers: [stun.example.net], external: ["203.0.113.7"], port_mapping: off}
peers: [10.142.130.16, "weave03.example.net:6783", "fd00::1", "[fd00::2]:6783"]
min_protocol: 2
state_dir: /tmp/meshd
trusted_subnets: [10.0.0.0/8, "fd00::/8"]
transports: [sleeve, punch]
overrides:
- {peer: 02:00:00:00:00:05, transports: [punch]}
- {peer: 10.1.0.0/16, transports: [punch, sleeve]}
- {peer: "fd00::1", transports: [sleeve]}
discovery: false
connection_limit: 0
expose: {route_between: true}
containers: {sockets: [/tmp/docker.sock, prod=/tmp/prod.sock], proc: /host/proc}
api: {socket: /tmp/meshd.sock, http: "127.0.0.1:6784"}
log_level: debug
`

func fullConfig() Config {
	return Config{
		Name: 0x02_00_00_00_00_01, Nickname: "weave01", Listen: "[::1]:7783",
		Bridge:      Bridge{Name: "mesh", MTU: 1400},
		TAP:         TAP{Name: "tap7", Offload: Off},
		UDP:         UDP{Listen: "[::1]:7785", Offload: On},
		QUIC:        QUIC{Listen: []string{":443", "[::1]:8443"}},
		NAT:         NAT{Listen: "[::1]:7786", STUNServers: []string{"stun.example.net"}, External: []string{"203.0.113.7"}, PortMapping: Off},
		Peers:       []string{"10.142.130.16", "weave03.example.net:6783", "fd00::1", "[fd00::2]:6783"},
		MinProtocol: 2, StateDir: "/tmp/meshd",
		TrustedSubnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Transports:     []string{"sleeve", "punch"},
		Overrides: []Override{
			{Name: 0x02_00_00_00_00_05, Transports: []string{"punch"}},
			{Net: netip.MustParsePrefix("10.1.0.0/16"), Transports: []string{"punch", "sleeve"}},
			{Net: netip.MustParsePrefix("fd00::1/128"), Transports: []string{"sleeve"}},
		},
		API:        API{Socket: "/tmp/meshd.sock", HTTP: "127.0.0.1:6784"},
		Expose:     Expose{RouteBetween: true},
		Containers: Containers{Sockets: []string{"/tmp/docker.sock", "prod=/tmp/prod.sock"}, Proc: "/host/proc"},
		LogLevel:   slog.LevelDebug,
	}
}

// cleanEnv keeps the tests apart from the environment they run in.
func cleanEnv(t testing.TB) {
	t.Helper()
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, envPrefix) || name == "WEAVE_PASSWORD" {
			t.Setenv(name, "") // so that it is put back
			os.Unsetenv(name)
		}
	}
}

func writeFile(t testing.TB, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meshd.yaml")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// values is c without where it came from.
func values(c Config) Config {
	c.sources, c.Warnings = nil, nil
	return c
}

func TestLoad(t *testing.T) {
	cleanEnv(t)
	for _, tt := range []struct {
		name, yaml string
		want       Config
	}{
		{"empty", "", Default()},
		{"comments only", "# nothing\n---\n# more\n", Default()},
		{"null", "~", Default()},
		{"keys without values", "peers:\nbridge:\nname:\n", Default()},
		{"full", full, fullConfig()},
		{"JSON", `{"discovery": false, "bridge": {"mtu": 1300}}`, func() Config {
			c := Default()
			c.Discovery, c.Bridge.MTU = false, 1300
			return c
		}()},
		{"alias", "api: {http: &a '127.0.0.1:6784'}\nlisten: *a\n", func() Config {
			c := Default()
			c.API.HTTP, c.Listen = "127.0.0.1:6784", "127.0.0.1:6784"
			return c
		}()},
		{"numbers and switches as text", "bridge: {mtu: \"1300\", create: no}\n", func() Config {
			c := Default()
			c.Bridge.MTU, c.Bridge.Create = 1300, false
			return c
		}()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Load(writeFile(t, tt.yaml, 0o600), nil, "punch", "quic", "tcp", "sleeve")
			if err != nil {
				t.Fatalf("Load() = %v", err)
			}
			if !reflect.DeepEqual(values(got), values(tt.want)) {
				t.Errorf("Load() =\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
	if got, err := Load("", nil); err != nil || !reflect.DeepEqual(values(got), Default()) {
		t.Errorf("Load(no file) = %v, %v; want the default", got, err)
	}
}

func TestPrecedence(t *testing.T) {
	cleanEnv(t)
	path := writeFile(t, "bridge: {name: file, mtu: 1001, create: false}\npeers: [file]\nlisten: ':1'\n", 0o600)
	t.Setenv("MESHD_BRIDGE_NAME", "env")
	t.Setenv("MESHD_BRIDGE_MTU", "1002")
	t.Setenv("MESHD_PEERS", "env1, env2:7,[fd00::1]:8")
	t.Setenv("MESHD_LISTEN", "") // as good as unset
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	BindFlags(flags)
	if err := flags.Parse([]string{"--bridge-name", "flag", "--discovery=false"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, flags, "punch", "quic", "tcp", "sleeve")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]struct{ value, source string }{
		"bridge.name":   {"flag", "--bridge-name"},
		"bridge.mtu":    {"1002", "MESHD_BRIDGE_MTU"},
		"bridge.create": {"false", path + ":1"},
		"peers":         {"[env1, env2:7, [fd00::1]:8]", "MESHD_PEERS"},
		"listen":        {":1", path + ":3"},
		"discovery":     {"false", "--discovery"},
		"tap.name":      {"meshd0", "default"},
	} {
		if got := show(keyNamed(key).get(&c)); got != want.value || c.Source(key) != want.source {
			t.Errorf("%s = %s from %s, want %s from %s", key, got, c.Source(key), want.value, want.source)
		}
	}
}

// TestFlagsAndEnvironment sets every key both ways.
func TestFlagsAndEnvironment(t *testing.T) {
	want := fullConfig()
	want.Overrides = nil // in files only
	texts := map[string]string{}
	for _, k := range keys {
		if k.kind == table {
			continue
		}
		if l, ok := k.get(&want).([]string); ok {
			texts[k.name] = strings.Join(l, ",")
		} else {
			texts[k.name] = fmt.Sprint(k.get(&want))
		}
	}
	delete(texts, "password_file")
	t.Run("flags", func(t *testing.T) {
		cleanEnv(t)
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		BindFlags(flags)
		for name, value := range texts {
			if err := flags.Set(keyNamed(name).flag(), value); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := Load("", flags); err != nil || !reflect.DeepEqual(values(got), want) {
			t.Errorf("Load() = %v,\n%s\nwant\n%s", err, got, want)
		}
	})
	t.Run("environment", func(t *testing.T) {
		cleanEnv(t)
		for name, value := range texts {
			t.Setenv(keyNamed(name).env(), value)
		}
		if got, err := Load("", nil); err != nil || !reflect.DeepEqual(values(got), want) {
			t.Errorf("Load() = %v,\n%s\nwant\n%s", err, got, want)
		}
	})
}

func TestBindFlagsShowsDefaults(t *testing.T) {
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	BindFlags(flags)
	for name, want := range map[string]string{
		"bridge-name": "weave", "api-socket": "/run/meshd.sock", "listen": ":6783",
		"peers": "[]", "connection-limit": "200", "discovery": "true", "log-level": "info",
	} {
		if f := flags.Lookup(name); f == nil || f.DefValue != want {
			t.Errorf("flag --%s = %+v, want the default %s", name, f, want)
		}
	}
	if flags.Lookup("password") != nil {
		t.Error("there is a flag for the password itself")
	}
}

// TestFaults has one fault per case; each must be named with its line.
func TestFaults(t *testing.T) {
	cleanEnv(t)
	for _, tt := range []struct {
		name, yaml string
		field      string
		line       int
		text       []string // in the message
	}{
		{"unknown key, near", "transprots: [sleeve]", "transprots", 1, []string{"unknown key", "did you mean `transports`?"}},
		{"unknown key, far", "colour: blue", "colour", 1, []string{"unknown key"}},
		{"unknown key in a section", "\nbridge: {mtuu: 1400}", "bridge.mtuu", 2, []string{"`bridge.mtu`"}},
		{"key outside its section", "mtu: 1400", "mtu", 1, []string{"`bridge.mtu`"}},
		{"key in another case", "Peers: [a]", "Peers", 1, []string{"`peers`"}},
		{"the password itself", "password: hunter2", "password", 1, []string{"password_file"}},
		{"key twice", "peers: [a]\npeers: [b]", "peers", 2, []string{"twice"}},
		{"list for text", "nickname: [a]", "nickname", 1, []string{"a list", "text"}},
		{"number for text", "nickname: 7", "nickname", 1, []string{`"7"`, "quotes"}},
		{"text for a list", "peers: 10.0.0.1", "peers", 1, []string{"[10.0.0.1]"}},
		{"number in a list", "peers:\n- a\n- 7", "peers[1]", 3, []string{`"7"`, "text"}},
		{"section for a list", "peers: {a: b}", "peers", 1, []string{"a list"}},
		{"text for a number", "bridge:\n  mtu: many", "bridge.mtu", 2, []string{`"many"`, "number"}},
		{"fraction for a number", "bridge: {mtu: 1.5}", "bridge.mtu", 1, []string{"1.5"}},
		{"huge number", "connection_limit: 99999999999999999999", "connection_limit", 1, []string{"number"}},
		{"text for a switch", "discovery: maybe", "discovery", 1, []string{"maybe", "true or false"}},
		{"number for a section", "bridge: 7", "bridge", 1, []string{"keys"}},
		{"list for the file", "- a\n- b", "", 1, []string{"keys"}},
		{"text for the file", "hello", "", 1, []string{"keys"}},
		{"bad CIDR", "trusted_subnets:\n- 10.0.0.0/8\n- 10.0.0.0/33", "trusted_subnets[1]", 3, []string{"10.0.0.0/33", "CIDR"}},
		{"address without prefix", "trusted_subnets: [10.0.0.1]", "trusted_subnets[0]", 1, []string{"CIDR"}},
		{"CIDR with host bits", "trusted_subnets: [10.0.0.1/8]", "trusted_subnets[0]", 1, []string{"10.0.0.0/8"}},
		{"bad port to listen on", "listen: ':66000'", "listen", 1, []string{"66000", "1 to 65535"}},
		{"no port to listen on", "listen: '0.0.0.0'", "listen", 1, []string{"[address]:port"}},
		{"port 0", "listen: ':0'", "listen", 1, []string{"1 to 65535"}},
		{"name of a port", "listen: ':http'", "listen", 1, []string{"http"}},
		{"host name to listen on", "listen: 'host:6783'", "listen", 1, []string{"IP address"}},
		{"bad MAC", "name: 02:00:00:00:00", "name", 1, []string{"peer name", "02:00:00:00:00"}},
		{"MAC with letters beyond f", "name: 02:00:00:00:00:0g", "name", 1, []string{"peer name"}},
		{"zero MAC", "name: '00:00:00:00:00:00'", "name", 1, []string{"zero"}},
		{"bad peer port", "peers: ['a:99999']", "peers[0]", 1, []string{"99999"}},
		{"IPv6 with a port, no brackets", "peers: ['fd00::1:2:3:4:5:6:7:6783']", "peers[0]", 1, []string{"brackets"}},
		{"peer that is a URL", "peers: ['http://a']", "peers[0]", 1, []string{"host[:port]"}},
		{"peer that is anyone", "peers: [0.0.0.0]", "peers[0]", 1, []string{"one host"}},
		{"unknown transport", "transports: [sleve]", "transports[0]", 1, []string{"sleve", `"sleeve"`}},
		{"transport twice", "transports: [sleeve, sleeve]", "transports[1]", 1, []string{"twice"}},
		{"overrides that are no list", "overrides: {peer: 10.0.0.0/8, transports: [sleeve]}", "overrides", 1, []string{"a list"}},
		{"override that is no section", "overrides:\n- sleeve", "overrides[0]", 2, []string{"{peer:"}},
		{"unknown key of an override", "overrides:\n- peer: 10.0.0.0/8\n  transprots: [sleeve]\n  transports: [sleeve]", "overrides[0].transprots", 3, []string{"`transports`"}},
		{"override for nobody", "overrides: [{transports: [sleeve]}]", "overrides[0].peer", 1, []string{"nothing"}},
		{"override for a nickname", "overrides:\n- {peer: host7, transports: [sleeve]}", "overrides[0].peer", 2, []string{"host7", "CIDR"}},
		{"override with host bits", "overrides:\n- {peer: 10.0.0.1/8, transports: [sleeve]}", "overrides[0].peer", 2, []string{"10.0.0.0/8"}},
		{"override for a zone", "overrides: [{peer: 'fe80::1%eth0', transports: [sleeve]}]", "overrides[0].peer", 1, []string{"CIDR"}},
		{"override twice", "overrides:\n- {peer: 10.0.0.1, transports: [sleeve]}\n- {peer: 10.0.0.1/32, transports: [punch]}", "overrides[1].peer", 3, []string{"twice", "overrides[0]"}},
		{"override without transports", "overrides: [{peer: 10.0.0.1}]", "overrides[0].transports", 1, []string{"nothing", "list"}},
		{"override with none", "overrides:\n- peer: 10.0.0.1\n  transports: []", "overrides[0].transports", 3, []string{"empty"}},
		{"override with one twice", "overrides: [{peer: 10.0.0.1, transports: [sleeve, sleeve]}]", "overrides[0].transports[1]", 1, []string{"twice"}},
		{"override with an unknown one", "overrides:\n- {peer: 10.0.0.1, transports: [sleeve]}\n- peer: 10.0.0.2\n  transports:\n  - sleeve\n  - pnuch", "overrides[1].transports[1]", 6, []string{"pnuch", `"punch"`}},
		{"override with one not configured", "transports: [sleeve]\noverrides:\n- peer: 10.0.0.2\n  transports:\n  - punch", "overrides[0].transports[0]", 5, []string{"not in `transports`", "add it"}},
		{"number in an override", "overrides:\n- peer: 10.0.0.2\n  transports: [sleeve,\n    7]", "overrides[0].transports[1]", 4, []string{`"7"`, "text"}},
		{"no transport", "transports: []", "transports", 1, []string{"empty"}},
		{"device name too long", "tap: {name: a-name-that-is-too-long}", "tap.name", 1, []string{"15 bytes"}},
		{"device name with a slash", "bridge: {name: ../x}", "bridge.name", 1, []string{"network device"}},
		{"device name empty", "bridge: {name: ''}", "bridge.name", 1, []string{"empty"}},
		{"one name for two devices", "tap: {name: weave}", "tap.name", 1, []string{"bridge's name"}},
		{"offload of the port", "tap: {offload: maybe}", "tap.offload", 1, []string{"maybe", "auto, on or off"}},
		{"offload of sockets", "udp: {offload: ''}", "udp.offload", 1, []string{"auto, on or off"}},
		{"UDP port", "udp: {listen: ':x'}", "udp.listen", 1, []string{"1 to 65535"}},
		{"UDP address", "udp: {listen: 6785}", "udp.listen", 1, []string{"quotes"}},
		{"one port for two", "udp: {listen: '127.0.0.1:6783'}", "udp.listen", 1, []string{"port of listen as well"}},
		{"the other one given", "listen: '[::1]:6785'", "listen", 1, []string{"port of udp.listen as well"}},
		{"QUIC on the shared port", "quic: {listen: [':6785']}", "quic.listen", 1, []string{"port of udp.listen as well"}},
		{"QUIC twice on a port", "quic: {listen: [':443', '[::1]:443']}", "quic.listen", 1, []string{"port of quic.listen as well"}},
		{"QUIC nowhere", "quic: {listen: ['443']}", "quic.listen[0]", 1, []string{"is not an address to listen on"}},
		{"STUN on the shared port", "nat: {listen: ':6785'}", "nat.listen", 1, []string{"port of udp.listen as well"}},
		{"STUN server", "nat: {stun_servers: [a.example.net, 'b:c']}", "nat.stun_servers[1]", 1, []string{"is not a STUN server", "host[:port]"}},
		{"external loopback", "nat: {external: [127.0.0.1]}", "nat.external[0]", 1, []string{"not the address of one host"}},
		{"external name", "nat: {external: ['a.example.net']}", "nat.external[0]", 1, []string{"is not an address that others reach us at"}},
		{"both given", "listen: ':1'\nudp: {listen: ':1'}", "udp.listen", 2, []string{"port of listen as well"}},
		{"MTU too small", "bridge: {mtu: 100}", "bridge.mtu", 1, []string{"576"}},
		{"MTU too big", "bridge: {mtu: 70000}", "bridge.mtu", 1, []string{"65521"}},
		{"protocol", "min_protocol: 3", "min_protocol", 1, []string{"1 or 2"}},
		{"limit", "connection_limit: -1", "connection_limit", 1, []string{"negative"}},
		{"relative directory", "state_dir: var", "state_dir", 1, []string{"absolute"}},
		{"relative engine", "containers: {sockets: [/run/docker.sock, docker.sock]}", "containers.sockets[1]", 1, []string{"docker.sock", "NAME=PATH", "/run/docker.sock"}},
		{"engine over TCP", "containers: {sockets: ['tcp://10.0.0.1:2375']}", "containers.sockets[0]", 1, []string{"unix socket of this host"}},
		{"engine's name", "containers: {sockets: ['a b=/run/docker.sock']}", "containers.sockets[0]", 1, []string{"name before ="}},
		{"relative socket", "api: {socket: a.sock}", "api.socket", 1, []string{"absolute"}},
		{"long socket", "api: {socket: /" + strings.Repeat("a", 107) + "}", "api.socket", 1, []string{"107 bytes"}},
		{"HTTP address", "api: {http: '6784'}", "api.http", 1, []string{"address:port"}},
		{"log level", "log_level: loud", "log_level", 1, []string{"loud", "debug"}},
		{"blank nickname", "nickname: ' '", "nickname", 1, []string{"blank"}},
		{"nickname with control characters", `nickname: "a\x1b[31m"`, "nickname", 1, []string{"printed"}},
		{"not YAML", "a: [b\nc: d", "", 1, []string{"not YAML"}},
		{"two documents", "peers: [a]\n---\npeers: [b]", "", 0, []string{"more than one document"}},
		{"alias of itself", "peers: &a [*a]", "peers", 1, []string{"contains itself"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, tt.yaml, 0o600)
			c, err := Load(path, nil, "punch", "quic", "tcp", "sleeve")
			fs := fieldErrors(t, err)
			if len(fs) != 1 {
				t.Fatalf("Load() = %d faults, want 1: %v", len(fs), err)
			}
			f := fs[0]
			if f.Field != tt.field || f.Origin != path || (f.Line != tt.line && tt.line > 0) {
				t.Errorf("fault in %s:%d: %q, want %s:%d: %q", f.Origin, f.Line, f.Field, path, tt.line, tt.field)
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("message %q, want %q in it", err, text)
				}
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("message %q shows what it must not", err)
			}
			if !reflect.DeepEqual(values(c), Default()) && !strings.Contains(err.Error(), "as well") && !strings.Contains(tt.yaml, "transports: [sleeve]\noverrides") {
				t.Errorf("a fault got into the settings:\n%s", c)
			}
		})
	}
}

func fieldErrors(t *testing.T, err error) []*FieldError {
	t.Helper()
	if err == nil {
		t.Fatal("Load() = nil error")
	}
	if f, ok := err.(*FieldError); ok {
		return []*FieldError{f}
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("Load() = %T, want joined *FieldError", err)
	}
	var out []*FieldError
	for _, e := range joined.Unwrap() {
		f, ok := errors.AsType[*FieldError](e)
		if !ok {
			t.Fatalf("fault is a %T", e)
		}
		out = append(out, f)
	}
	return out
}

func TestAllFaultsAtOnce(t *testing.T) {
	cleanEnv(t)
	t.Setenv("MESHD_BRIDGE_MTU", "many")
	t.Setenv("MESHD_PEERS", "ok,http://no")
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	BindFlags(flags)
	if err := flags.Parse([]string{"--log-level=loud"}); err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "transprots: [sleeve]\nlisten: ':0'\ntrusted_subnets: [a, b]\npassword_file: /does/not/exist\n", 0o600)
	_, err := Load(path, flags, "punch", "quic", "tcp", "sleeve")
	var got []string
	for _, f := range fieldErrors(t, err) {
		got = append(got, fmt.Sprintf("%s:%d:%s", strings.TrimPrefix(f.Origin, path), f.Line, f.Field))
	}
	want := []string{
		":1:transprots", ":2:listen", ":3:trusted_subnets[0]", ":3:trusted_subnets[1]",
		"--log-level:0:log_level", "MESHD_BRIDGE_MTU:0:bridge.mtu", "MESHD_PEERS:0:peers[1]",
		":4:password_file",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("faults =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != len(want) {
		t.Errorf("message has %d lines, want one per fault, %d:\n%v", lines, len(want), err)
	}
}

func TestLoadUnreadable(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "missing"): "no such file",
		dir:                           "directory",
		large:                         "larger than",
	} {
		_, err := Load(path, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Load(%s) = %v, want %q and the path in it", path, err, want)
		}
	}
}

func TestMisspeltEnvironment(t *testing.T) {
	t.Setenv("MESHD_OVERRIDES", "x")
	if got := misspelt(nil); len(got) != 1 || !strings.Contains(got[0], "MESHD_OVERRIDES") {
		t.Errorf("misspelt() = %q, want a warning for a table", got)
	}
	t.Setenv("MESHD_OVERRIDES", "")
	got := misspelt([]string{"MESHD_BRIGDE_NAME=x", "MESHD_PASWORD=hunter2", "MESHD_SERVICE_HOST=10.0.0.1", "MESHD_PEERS=a", "OTHER=1", ""})
	if len(got) != 2 || !strings.Contains(got[0], "MESHD_BRIDGE_NAME") || !strings.Contains(got[1], "MESHD_PASSWORD") {
		t.Errorf("misspelt() = %q, want warnings for two", got)
	}
	if strings.Contains(fmt.Sprint(got), "hunter2") {
		t.Errorf("misspelt() = %q shows a value", got)
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"", full, "peers: [", "a: &a [*a]", "bridge: 7", "peers: {a: b}", "<<: {peers: [a]}", "? [a]\n: b",
		"bridge: &b {mtu: 1400}\ntap: *b", "name: !!binary aGVsbG8=", "nickname: 2020-01-01", "---\n---\n", "peers: [[a]]",
		"password: hunter2", "listen: !!str 7", "tap: {offload: OFF}", "udp: {offload: off, listen: ':6783'}", "connection_limit: 0x10", "overrides: [{peer: 10.0.0.0/8, transports: [sleeve]}, 7]", "overrides: [{peer: 1::, 2: 3}]", "overrides: &o [{<<: {peer: a}, transports: *o}]", "discovery: y", "\xff\xfe", "%YAML 1.1\n---\n{}",
	} {
		f.Add([]byte(s))
	}
	cleanEnv(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, faults := load("fuzz", data, nil, []string{"punch", "quic", "tcp", "sleeve"})
		for _, x := range faults {
			if strings.Contains(x.Error(), "\n") {
				t.Errorf("message of more than one line: %q", x)
			}
		}
		if slices.ContainsFunc(faults, func(x *FieldError) bool { return strings.Contains(x.Problem, "as well") }) {
			return // two settings that do not go together stay as they are
		}
		// What is accepted, or was not touched by a fault, is printed so that it
		// reads back as the same.
		again, faults := load("again", c.Marshal(), nil, []string{"punch", "quic", "tcp", "sleeve"})
		if len(faults) > 0 || !reflect.DeepEqual(values(c).canonical(), values(again).canonical()) {
			t.Errorf("%v\n%s\nread back as\n%s", join(faults), c, again)
		}
	})
}

// canonical has no nil lists.
func (c Config) canonical() Config {
	c.Peers = append([]string{}, c.Peers...)
	c.QUIC.Listen = append([]string{}, c.QUIC.Listen...)
	c.NAT.STUNServers = append([]string{}, c.NAT.STUNServers...)
	c.NAT.External = append([]string{}, c.NAT.External...)
	c.Containers.Sockets = append([]string{}, c.Containers.Sockets...)
	c.Overrides = append([]Override{}, c.Overrides...)
	c.TrustedSubnets = append([]netip.Prefix{}, c.TrustedSubnets...)
	return c
}
