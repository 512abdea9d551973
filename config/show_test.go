package config

import (
	"strings"
	"testing"
)

func TestMarshal(t *testing.T) {
	cleanEnv(t)
	t.Setenv("MESHD_TAP_NAME", "tap9")
	c, faults := load("/etc/meshd.yaml", []byte("\nnickname: 'a: b #c'\npeers: [a, '[fd00::1]:1']\n"), nil, nil)
	if len(faults) > 0 {
		t.Fatal(join(faults))
	}
	want := `name: "" # default
nickname: 'a: b #c' # /etc/meshd.yaml:2
listen: :6783 # default
bridge:
    name: weave # default
    mtu: 0 # default
    create: true # default
tap:
    name: tap9 # MESHD_TAP_NAME
    offload: auto # default
udp:
    listen: :6785 # default
    offload: auto # default
quic:
    listen: [] # default
nat:
    listen: :6786 # default
    stun_servers: [] # default
    external: [] # default
    port_mapping: auto # default
peers: # /etc/meshd.yaml:3
    - a
    - '[fd00::1]:1'
password_file: "" # default
min_protocol: 1 # default
state_dir: /var/lib/meshd # default
trusted_subnets: [] # default
trust:
    keys: [] # default
    stock: false # default
transports: # default
    - punch
    - quic
    - sleeve
    - tcp
overrides: [] # default
discovery: true # default
connection_limit: 200 # default
expose:
    route_between: false # default
containers:
    sockets: [] # default
    proc: /proc # default
api:
    socket: /run/meshd.sock # default
    http: "" # default
log_level: info # default
`
	got := string(c.Marshal())
	if got != want {
		t.Errorf("Marshal() =\n%s\nwant\n%s", got, want)
	}
	if c.String() != got {
		t.Error("String() is not what Marshal gives")
	}
	if strings.Count(got, "#") != len(keys)+1 {
		t.Errorf("not every key has its source:\n%s", got)
	}
}
