package config

import (
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"meshd/internal/frame"
	"meshd/internal/identity"
)

// Config is one complete, checked set of settings.
type Config struct {
	Name            frame.PeerName // peer name; 0: derived, see DefaultPeerName
	Nickname        string
	Listen          string // [address]:port of control TCP, which the transport tcp shares, and sleeve UDP
	Bridge          Bridge
	TAP             TAP
	UDP             UDP
	Peers           []string // as ParsePeer reads them
	QUIC            QUIC
	NAT             NAT
	PasswordFile    string
	Password        Secret // empty: the mesh is not encrypted by password
	OtherPassword   Secret // accepted too, second line of PasswordFile; empty: none
	Trust           Trust
	MinProtocol     int // lowest weave protocol that is accepted: 1 or 2
	StateDir        string
	TrustedSubnets  []netip.Prefix
	Transports      []string // in order of preference
	Overrides       []Override
	Discovery       bool
	ConnectionLimit int // 0: none
	API             API
	Expose          Expose
	Containers      Containers
	LogLevel        slog.Level
	// Warnings are what is odd but no fault, one sentence each.
	Warnings []string

	sources map[string]source // by key: where its value came from
}

// Bridge is the Linux bridge that the TAP port joins.
type Bridge struct {
	Name   string
	MTU    int // bytes; 0: chosen once at start
	Create bool
}

// TAP is our port on the bridge.
type TAP struct {
	Name    string
	Offload Switch
}

// UDP is the sockets of all transports but sleeve, which listens where weave
// does, and tcp; Offload is about sleeve's too.
type UDP struct {
	Listen  string // [address]:port, another port than Config.Listen's
	Offload Switch
}

// QUIC is what the transport and carrier quic has besides UDP's port.
type QUIC struct {
	Listen []string // [address]:port each
}

// NAT is what helps to find direct ways to hosts behind NATs.
type NAT struct {
	Listen      string   // [address]:port that answers STUN beside UDP.Listen; empty: none
	STUNServers []string // host[:port] each
	External    []string // address[:port] where others reach UDP.Listen; without a port it is that of UDP.Listen
	PortMapping Switch   // ask the gateway by UPnP-IGD and NAT-PMP; On is the same as Auto
}

// Switch says whether something that the kernel may have is used.
type Switch string

// The values of a Switch.
const (
	Auto Switch = "auto" // where the kernel has it and it works
	On   Switch = "on"   // a kernel without it is an error
	Off  Switch = "off"
)

// Trust is which peers may be neighbours.
type Trust struct {
	Keys  []identity.Key // of peers that may; empty: all
	Stock bool           // beside Keys: peers without a key may too
}

// Expose is what this host does for subnets of the overlay that it has addresses in.
type Expose struct {
	RouteBetween bool // it routes from one to another
}

// Containers is how containers are found that go on the overlay.
type Containers struct {
	Sockets []string // of engines with Docker's API, see engine.ParseSocket; empty: the usual ones
	Proc    string   // where the host's /proc is, whose PIDs the engines name
}

// API is where the daemon takes commands.
type API struct {
	Socket string // path of a unix socket
	HTTP   string // address:port of weave's HTTP API; empty: off
}

// Default returns the settings of an empty file. The nickname is the host name.
func Default() Config {
	nickname, err := os.Hostname()
	if err != nil {
		nickname = "meshd"
	}
	return Config{
		Nickname:        nickname,
		Listen:          ":6783",
		Bridge:          Bridge{Name: "weave", Create: true},
		TAP:             TAP{Name: "meshd0", Offload: Auto},
		UDP:             UDP{Listen: ":6785", Offload: Auto},
		NAT:             NAT{Listen: ":6786", PortMapping: Auto},
		MinProtocol:     1,
		StateDir:        "/var/lib/meshd",
		Transports:      []string{"punch", "quic", "sleeve", "tcp"},
		Discovery:       true,
		ConnectionLimit: 200,
		API:             API{Socket: "/run/meshd.sock"},
		Containers:      Containers{Proc: "/proc"},
		LogLevel:        slog.LevelInfo,
	}
}

// Source says where the value of a key such as "bridge.mtu" came from: a flag,
// an environment variable, file:line, or "default".
func (c Config) Source(key string) string {
	return c.sources[key].String()
}

// String returns the settings as Marshal does; the password is not in it.
func (c Config) String() string { return string(c.Marshal()) }

// LogValue lists the settings for a log line; the password is not in it.
func (c Config) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, len(keys)+1)
	for _, k := range keys {
		attrs = append(attrs, slog.Any(k.name, k.get(&c)))
	}
	return slog.GroupValue(append(attrs, slog.String("password", c.Password.String()))...)
}

// known reports whether name is a key.
func known(name string) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return k.name == name })
}
