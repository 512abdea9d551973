package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"meshd/internal/frame"
	"meshd/routing"
	"meshd/routing/control"
	"meshd/transport"
)

// The files in testdata/weave are answers of real Weave routers. Each test makes
// a report of ours with the same data and compares what we print of it, byte by
// byte; only the order of what weave keeps in maps is left open.

func TestWeaveStatusText(t *testing.T) {
	tests := []struct{ report, text, host string }{
		{"report-2peers.json", "status-2peers-h1.txt", ""},
		{"report-3peers-relay-host1.json", "status-3peers-relay.txt", "host1 "},
		{"report-3peers-relay-host2.json", "status-3peers-relay.txt", "host2 "},
		{"report-3peers-relay-host3.json", "status-3peers-relay.txt", "host3 "},
	}
	for _, tt := range tests {
		t.Run(tt.report, func(t *testing.T) {
			s := newStatus(ofWeave(t, readWeave(t, tt.report)), now)
			r := newWeaveReport(&s)
			for request, write := range map[string]func(*bytes.Buffer){
				"/status":             func(b *bytes.Buffer) { writeWeaveStatus(b, r) },
				"/status/connections": func(b *bytes.Buffer) { writeWeaveConnections(b, r) },
				"/status/peers":       func(b *bytes.Buffer) { writeWeavePeers(b, r) },
				"/status/targets":     func(b *bytes.Buffer) { writeWeaveTargets(b, r) },
			} {
				want, ok := section(t, tt.text, "== "+tt.host+"GET "+request)
				if !ok {
					continue
				}
				var got bytes.Buffer
				write(&got)
				if request == "/status" {
					if got.String() != want {
						t.Errorf("%s:\n--- got\n%s--- want\n%s", request, got.String(), want)
					}
					continue
				}
				if !slices.Equal(blocks(got.String()), blocks(want)) {
					t.Errorf("%s:\n--- got\n%s--- want\n%s", request, got.String(), want)
				}
			}
		})
	}
}

func TestWeaveReport(t *testing.T) {
	files, err := filepath.Glob("testdata/weave/report-*.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("Glob = %v, %v", files, err)
	}
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(name, func(t *testing.T) {
			s := newStatus(ofWeave(t, readWeave(t, name)), now)
			r := newWeaveReport(&s)
			// Our port is a TAP; theirs was captured with pcap.
			r.Router.Interface = "vethwe-pcap (via pcap)"
			got, err := json.MarshalIndent(r, "", "    ")
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, bytes.TrimSpace(want)) {
				t.Errorf("--- got\n%s\n--- want\n%s", got, want)
			}
		})
	}
}

func TestWeaveAttempts(t *testing.T) {
	next := time.Date(2026, 11, 23, 17, 36, 46, 450555071, time.UTC)
	tests := []struct {
		file string
		conn control.ConnectionSnapshot
	}{
		{"status-self.txt", control.ConnectionSnapshot{Err: "cannot connect to ourself", Never: true}},
		{"status-collision.txt", control.ConnectionSnapshot{
			Err:   `local "02:00:00:00:00:01(host2)" and remote "02:00:00:00:00:01(host1)" peer names collision`,
			Never: true,
		}},
		{"status-wrong-password.txt", control.ConnectionSnapshot{Err: "Unable to decrypt TCP msg", NextTry: next}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			c := tt.conn
			c.Address, c.Outbound, c.State = "10.9.9.1:6783", true, control.StateFailed
			got := connectionsText(control.Snapshot{Connections: []control.ConnectionSnapshot{c}})
			// Weave prints Go's reading of the monotonic clock, which a status that
			// has been sent as JSON does not have.
			want := regexp.MustCompile(` m=\+[0-9.]+`).ReplaceAllString(weaveFile(t, tt.file), "")
			if got != want {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestWeaveConnectionEncryption(t *testing.T) {
	conn := control.ConnectionSnapshot{
		Address: "10.9.9.2:33693", State: control.StateEstablished, Name: 0x020000000002, NickName: "host2",
		Encrypted: true, MTU: 1438, Transport: "sleeve",
		Paths: []transport.PathStats{{Transport: "sleeve", Active: true, State: transport.State{Up: true, MTU: 1438}}},
	}
	m := control.Snapshot{Encrypted: true, Connections: []control.ConnectionSnapshot{conn}}
	if got, want := connectionsText(m), weaveFile(t, "status-trusted.txt"); got != want {
		t.Errorf("trusted: got %q, want %q", got, want)
	}

	m.Connections[0].Address, m.Connections[0].MTU = "10.9.9.2:44829", 1414
	m.Connections[0].Paths[0].State.Encrypted, m.Connections[0].Paths[0].State.Authenticated = true, true
	// As weave protocol section 8.3 has it, blanks between the attributes and all.
	want := "<- 10.9.9.2:44829        established encrypted   sleeve 02:00:00:00:00:02(host2) encrypted=truemtu=1414\n"
	if got := connectionsText(m); got != want {
		t.Errorf("encrypted: got %q, want %q", got, want)
	}
	m.Connections[0].Paths[0].State.Authenticated = false
	want = strings.Replace(want, "encrypted   sleeve", "UNAUTHENTICATED sleeve", 1)
	if got := connectionsText(m); got != want {
		t.Errorf("unauthenticated: got %q, want %q", got, want)
	}
}

func TestWeaveCounts(t *testing.T) {
	var m control.Snapshot
	for _, state := range []control.ConnState{
		control.StateConnecting, control.StateFailed, control.StateRetrying, control.StatePending,
		control.StateEstablished, control.StateWaiting, control.StateFailed,
	} {
		m.Connections = append(m.Connections, control.ConnectionSnapshot{State: state})
	}
	m.Peers = []control.PeerSnapshot{{Connections: []control.PeerConnection{{Established: true}, {}}}}
	s := newStatus(Report{Mesh: m}, now)
	var out bytes.Buffer
	writeWeaveStatus(&out, newWeaveReport(&s))
	for _, want := range []string{
		"    Connections: 7 (1 established, 1 pending, 1 retrying, 2 failed, 1 connecting, 1 waiting)\n",
		"          Peers: 1 (with 1 established, 1 pending connections)\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("status has no line %q:\n%s", want, out.String())
		}
	}

	s = newStatus(Report{}, now)
	out.Reset()
	writeWeaveStatus(&out, newWeaveReport(&s))
	for _, want := range []string{"    Connections: 0\n", "          Peers: 0\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("empty status has no line %q:\n%s", want, out.String())
		}
	}
}

func connectionsText(m control.Snapshot) string {
	s := newStatus(Report{Mesh: m}, now)
	var out bytes.Buffer
	writeWeaveConnections(&out, newWeaveReport(&s))
	return out.String()
}

// ofWeave makes the report of a daemon of ours whose mesh is as r says.
func ofWeave(t *testing.T, r weaveReport) Report {
	t.Helper()
	rt := r.Router
	m := control.Snapshot{
		MinProtocol: rt.ProtocolMinVersion, MaxProtocol: rt.ProtocolMaxVersion,
		Encrypted: rt.Encryption, Discovery: rt.PeerDiscovery, Port: rt.Port, Terminations: rt.TerminationCount,
	}
	for _, p := range rt.Peers {
		m.Peers = append(m.Peers, peerOfWeave(t, p))
	}
	for _, p := range m.Peers {
		if p.Name.String() == rt.Name {
			m.Self = p
		}
	}
	for _, target := range rt.Targets {
		m.Targets = append(m.Targets, control.TargetSnapshot{Target: target})
	}
	for _, route := range rt.UnicastRoutes {
		m.Unicast = append(m.Unicast, control.UnicastRoute{Dest: parseName(t, route.Dest), Via: parseName(t, route.Via)})
	}
	for _, route := range rt.BroadcastRoutes {
		b := control.BroadcastRoute{Source: parseName(t, route.Source)}
		for _, via := range route.Via {
			b.Via = append(b.Via, parseName(t, via))
		}
		m.Broadcast = append(m.Broadcast, b)
	}
	for _, c := range rt.Connections {
		m.Connections = append(m.Connections, connectionOfWeave(t, c))
	}
	out := Report{Version: r.Version, Mesh: m, Transports: []TransportReport{{Name: "sleeve"}}}
	out.Port.State.Joined = true
	out.Port.Stats.Read.Frames = rt.CaptureStats.PacketsReceived
	for _, e := range rt.MACs {
		a, err := frame.ParseMAC(e.Mac)
		if err != nil {
			t.Fatal(err)
		}
		out.MACs = append(out.MACs, routing.MACEntry{MAC: a, Peer: parseName(t, e.Name), LastSeen: e.LastSeen})
	}
	return out
}

func peerOfWeave(t *testing.T, p weavePeer) control.PeerSnapshot {
	t.Helper()
	out := control.PeerSnapshot{
		Name: parseName(t, p.Name), NickName: p.NickName, UID: p.UID, Version: p.Version,
		ShortID: p.ShortID, HasShortID: true,
	}
	for _, c := range p.Connections {
		out.Connections = append(out.Connections, control.PeerConnection{
			Name: parseName(t, c.Name), NickName: c.NickName, Address: c.Address,
			Outbound: c.Outbound, Established: c.Established,
		})
	}
	return out
}

// connectionOfWeave reads back the words of Info.
func connectionOfWeave(t *testing.T, c weaveConnection) control.ConnectionSnapshot {
	t.Helper()
	out := control.ConnectionSnapshot{Address: c.Address, Outbound: c.Outbound, State: control.ConnState(c.State)}
	m := regexp.MustCompile(`^(\w+) +(\S+)\((\w+)\)$`).FindStringSubmatch(c.Info)
	if m == nil {
		return out
	}
	mtu := int(c.Attrs["mtu"].(float64))
	out.Name, out.NickName, out.Transport, out.MTU = parseName(t, m[2]), m[3], m[1], mtu
	out.Paths = []transport.PathStats{{
		Transport: m[1], Active: true,
		State: transport.State{Up: true, MTU: mtu, Addr: netip.MustParseAddrPort(c.Address), Loss: -1},
	}}
	return out
}

func parseName(t *testing.T, s string) (n frame.PeerName) {
	t.Helper()
	if err := n.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return n
}

func readWeave(t *testing.T, name string) (r weaveReport) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(weaveFile(t, name)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func weaveFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "weave", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// section is the part of a file between a heading and the next.
func section(t *testing.T, name, heading string) (string, bool) {
	t.Helper()
	_, rest, found := strings.Cut(weaveFile(t, name), heading+"\n")
	before, _, more := strings.Cut(rest, "== ")
	if !more {
		before = strings.TrimSuffix(rest, "\n") + "\n"
	}
	return strings.TrimLeft(before, "\n"), found
}

// blocks splits a text at lines that are not indented, and sorts the blocks and
// the lines within.
func blocks(text string) []string {
	var out [][]string
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if !strings.HasPrefix(line, "   ") || len(out) == 0 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], line)
	}
	var joined []string
	for _, b := range out {
		slices.Sort(b[1:])
		joined = append(joined, strings.Join(b, ""))
	}
	slices.Sort(joined)
	return joined
}

func TestBlocks(t *testing.T) {
	got := blocks("b\n   2\n   1\na\n")
	if want := []string{"a\n", "b\n   1\n   2\n"}; !reflect.DeepEqual(got, want) {
		t.Errorf("blocks = %q, want %q", got, want)
	}
}
