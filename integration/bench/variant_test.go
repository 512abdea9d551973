package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/internal/lab"
)

func TestVariantNames(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range variants() {
		if seen[v.name] || v.title == "" || v.find == nil || v.up == nil || v.layer != 2 && v.layer != 3 {
			t.Errorf("variant %+v is there twice or lacks something", v)
		}
		seen[v.name] = true
	}
	for _, f := range figures() {
		for _, name := range f.names {
			if !seen[name] {
				t.Errorf("figure %q takes %q, which is no variant", f.text, name)
			}
		}
	}
}

func TestChoose(t *testing.T) {
	all := variants()
	for _, tt := range []struct {
		list string
		want []string
	}{
		{"", namesOf(all)},
		{"vxlan, veth", []string{"veth", "vxlan"}}, // in the tables' order
		{"stock", []string{"stock-sleeve", "stock-sleeve-pw"}},
		{"punch*,kernel", []string{"veth", "vxlan", "punch", "punch-off"}},
	} {
		got, err := choose(all, tt.list)
		if err != nil || !slices.Equal(namesOf(got), tt.want) {
			t.Errorf("choose(%q) = %v, %v, want %v", tt.list, namesOf(got), err, tt.want)
		}
	}
	for _, bad := range []string{"nothing", "veth,,vxlan", "[", "veth,nothing*"} {
		if got, err := choose(all, bad); err == nil {
			t.Errorf("choose(%q) = %v, want an error", bad, namesOf(got))
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-time", "2s", "-rounds", "1", "-measures", "tcp, wire"}, io.Discard)
	if err != nil || o.Time != 2*time.Second || !o.wants(mWire) || o.wants(mPPS) {
		t.Errorf("options = %+v, %v", o, err)
	}
	if o, err := parseOptions(nil, io.Discard); err != nil || len(o.Measures) != len(allMeasures) {
		t.Errorf("defaults = %+v, %v", o, err)
	}
	for _, bad := range [][]string{
		{"-time", "10ms"}, {"-rounds", "0"}, {"-wide", "-1"}, {"-soak", "-1s"}, {"-measures", "everything"}, {"extra"}, {"-nothing"},
	} {
		if _, err := parseOptions(bad, io.Discard); err == nil {
			t.Errorf("options %v = nil, want an error", bad)
		}
	}
}

func TestMeshdEnv(t *testing.T) {
	plain := meshdVariant{transport: "punch", offload: true}.env(normal)
	if want := []string{"MESHD_TRANSPORTS=punch", "MESHD_TAP_OFFLOAD=auto", "MESHD_UDP_OFFLOAD=auto"}; !slices.Equal(plain, want) {
		t.Errorf("env = %q, want %q", plain, want)
	}
	all := strings.Join(meshdVariant{transport: "sleeve", password: true}.env(jumbo), " ")
	for _, want := range []string{"MESHD_TAP_OFFLOAD=off", "MESHD_UDP_OFFLOAD=off", "MESHD_PASSWORD=", "MESHD_BRIDGE_MTU=8900"} {
		if !strings.Contains(all, want) {
			t.Errorf("env %q lacks %s", all, want)
		}
	}
}

func TestClearSettings(t *testing.T) {
	t.Setenv("MESHD_PEERS", "10.0.0.1")
	t.Setenv("WEAVE_PASSWORD", "secret")
	t.Setenv("STOCK_SLEEVE", "/x")
	clearSettings()
	for name, want := range map[string]string{"MESHD_PEERS": "", "WEAVE_PASSWORD": "", "STOCK_SLEEVE": "/x"} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
}

func TestPeerSettings(t *testing.T) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wg := wireguardSettings(own, own.PublicKey(), 1)
	for _, want := range []string{
		"set=1\n", "private_key=" + hex.EncodeToString(own.Bytes()) + "\n", "endpoint=10.77.0.2:51820\n", "allowed_ip=10.99.1.0/24\n\n",
	} {
		if !strings.Contains(wg, want) {
			t.Errorf("wireguard-go is told %q, which lacks %q", wg, want)
		}
	}
	fd := fastdConfig("null", 1426, 0, "s", "k")
	for _, want := range []string{`method "null"`, "bind 10.77.0.1:10000", "remote 10.77.0.2:10000", `key "k"`, `secret "s"`, "mtu 1426"} {
		if !strings.Contains(fd, want) {
			t.Errorf("fastd is told %q, which lacks %q", fd, want)
		}
	}
}

func TestSelfSigned(t *testing.T) {
	cert, key, fingerprint, err := selfSigned("host0")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(cert))
	if block == nil {
		t.Fatalf("no certificate: %s", cert)
	}
	var parts []string
	for _, b := range sha256.Sum256(block.Bytes) {
		parts = append(parts, fmt.Sprintf("%02X", b))
	}
	if want := strings.Join(parts, ":"); fingerprint != want {
		t.Errorf("fingerprint = %s, want %s", fingerprint, want)
	}
	if block, _ := pem.Decode([]byte(key)); block == nil || block.Type != "PRIVATE KEY" {
		t.Errorf("no key: %s", key)
	}
}

func TestCosts(t *testing.T) {
	v := costs(throughput{bps: 8e9, bytes: 2e9, retransmits: 3},
		usage{daemons: 1, machine: 10}, usage{daemons: 4, machine: 15, rss: 1},
		lab.Traffic{OutPackets: 100, OutBytes: 150000})
	want := values{vBPS: 8e9, vRetransmits: 3, vDaemonCPU: 1.5, vMachineCPU: 2.5, vPacket: 1500}
	for name, w := range want {
		if v[name] != w {
			t.Errorf("%s = %v, want %v", name, v[name], w)
		}
	}
	if v := costs(throughput{bps: 1, bytes: 1}, usage{}, usage{}, lab.Traffic{}); len(v) != 3 {
		t.Errorf("without daemons and packets: %v, want no figures of them", v)
	}
}
